"""Graphs as the current `torch.onnx.export` writes them: prepared, batched, and of the same answers.

Needs PyTorch 2.9 or newer and onnxscript, which only whoever trains has; graphs of the same operators that are built in
code are in tests/unit/graphs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from jetface.graphs.prepare import prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.registry import InputSpec, ModelSpec
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_spec, scrfd_spec

torch = pytest.importorskip("torch", minversion="2.9")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.filterwarnings("ignore")  # the exporter uses what newer Pythons and itself deprecate
nn = torch.nn
N, SIDE = torch.export.Dim("n"), torch.export.Dim.AUTO


class Recognizer(nn.Module):  # type: ignore[misc,name-defined]  # torch is not there when types are checked
    """The layers of a MobileFaceNet, few of each."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.PReLU(8))
        self.pool = nn.AvgPool2d(8)
        self.end = nn.Sequential(nn.Linear(8 * 49, 4), nn.BatchNorm1d(4))

    def forward(self, pictures: Any) -> Any:
        maps = self.stem(pictures)
        maps = self.pool(maps + self.middle(maps))
        return self.end(maps.view(maps.shape[0], -1))


class Detector(nn.Module):  # type: ignore[misc,name-defined]  # as above
    """The trunk, the path from small maps to large ones and the nine outputs of an SCRFD."""

    def __init__(self, *, is_turned: bool) -> None:
        super().__init__()
        self.is_turned = is_turned
        self.levels = nn.ModuleList([nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 2, 2), nn.Conv2d(8, 8, 2, 2)])
        self.heads = nn.ModuleList([nn.ModuleList([nn.Conv2d(8, 2 * c, 1) for c in (1, 4, 10)]) for _ in range(3)])

    def forward(self, pictures: Any) -> Any:
        maps: list[Any] = []
        for level in self.levels:
            maps.append(torch.relu(level(maps[-1] if maps else pictures)))
        maps[1] = maps[1] + nn.functional.interpolate(maps[2], scale_factor=2.0, mode="nearest")
        outputs: list[list[Any]] = [[], [], []]
        for source, heads in zip(maps, self.heads, strict=True):
            for kind, (head, columns) in enumerate(zip(heads, (1, 4, 10), strict=True)):
                found = head(source)
                rows = (
                    found.permute(2, 3, 0, 1).reshape(-1, columns)
                    if self.is_turned
                    else found.permute(0, 2, 3, 1).reshape(pictures.shape[0], -1, columns)
                )
                outputs[kind].append(rows.sigmoid() if columns == 1 else rows)
        return tuple(rows for kind in outputs for rows in kind)


FREE = scrfd_spec()
FIXED = FREE.model_copy(update={"input": InputSpec(height_px=128, width_px=128, mean=127.5, std=128)})
CASES = {
    "a recognizer for one": (Recognizer, {}, (1, 112, 112), None, arcface_spec()),
    "a recognizer for any": (Recognizer, {}, (2, 112, 112), ({0: N},), arcface_spec()),
    "a detector for one": (Detector, {"is_turned": False}, (1, 128, 128), None, FIXED),
    "a detector for any": (Detector, {"is_turned": False}, (2, 128, 128), ({0: N},), FIXED),
    "a detector for any of any size": (
        Detector, {"is_turned": False}, (2, 128, 160), ({0: SIDE, 2: SIDE, 3: SIDE},), FREE,
    ),
    "a detector of one list of anchors": (Detector, {"is_turned": True}, (1, 128, 160), ({2: SIDE, 3: SIDE},), FREE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_export_is_prepared_and_answers_a_batch_as_it_answers_one(tmp_path: Path, name: str) -> None:
    """Exported twice: as it is by default, weights beside the file, and in one file."""
    kind, choices, (batch, height, width), free, spec = CASES[name]
    torch.manual_seed(0)
    module = kind(**choices).eval()
    example = (torch.zeros(batch, 3, height, width),)
    for beside in (True, False):
        path = tmp_path / f"beside_{beside}.onnx"
        torch.onnx.export(module, example, path, dynamo=True, dynamic_shapes=free, external_data=beside, verbose=False)
        assert path.with_name(f"{path.name}.data").exists() == beside
        _check(path, spec, module, (height, width))


def _check(path: Path, spec: ModelSpec, module: Any, image_hw: tuple[int, int]) -> None:
    prepared = prepare_graph(path, spec, rewrites=choose_rewrites("CPUExecutionProvider", (1, 31, 0)))
    assert prepared.is_batch_free
    assert isinstance(prepared.model, bytes)
    onnx.checker.check_model(onnx.load_model_from_string(prepared.model))
    pictures = np.random.default_rng(0).uniform(-1, 1, (3, 3, *image_hw)).astype(np.float32)
    (backend,) = open_onnx_backends(prepared.model, max_batch_size=3)
    together = backend.run(pictures)
    for row, picture in enumerate(pictures):
        with torch.no_grad():
            alone = module(torch.from_numpy(picture[None]))
        for ours, theirs in zip(together, alone if isinstance(alone, tuple) else (alone,), strict=True):
            np.testing.assert_allclose(ours[row].ravel(), theirs.numpy().ravel(), rtol=1e-3, atol=1e-4)
