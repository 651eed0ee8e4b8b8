"""What a backend gets to open: the same answers, for any batch, without a word on stderr."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from jetface.errors import ModelContractError, ModelFileError
from jetface.graphs.parts import Shape, shape_of, take_apart
from jetface.graphs.prepare import PreparedFiles, PreparedGraph, prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model, arcface_spec, model, scrfd_model, scrfd_spec

REAL_MODELS = ("det_500m", "scrfd_2.5g_bnkps", "w600k_mbf_dequantized", "mobilefacenet128")
FAST = choose_rewrites("CPUExecutionProvider", (1, 31, 0))


def prepare(tmp_path: Path, serialized: bytes, spec: ModelSpec, cache: PreparedFiles | None = None) -> PreparedGraph:
    path = tmp_path / "model.onnx"
    path.write_bytes(serialized)
    return prepare_graph(path, spec, rewrites=FAST, cache=cache)


def outputs_of(prepared: PreparedGraph) -> list[Shape | None]:
    """Return the shapes that outputs are annotated with."""
    assert isinstance(prepared.model, bytes)
    return [shape_of(value) for value in onnx.load_model_from_string(prepared.model).graph.output]


def run(model: bytes | Path, batch: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    return open_onnx_backends(model, max_batch_size=len(batch))[0].run(batch)


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.fixture(scope="module")
def registry() -> dict[str, ModelSpec]:
    return dict(read_registry([default_registry_dir()]))


@pytest.mark.parametrize("name", REAL_MODELS)
def test_real_weights_answer_a_batch_as_they_answered_one(
    name: str, shared_models: Path, registry: dict[str, ModelSpec], capfd: pytest.CaptureFixture[str]
) -> None:
    """Four at once equal four times one, and one equals the file as shipped; no line on stderr for any canvas."""
    path = shared_models / f"{name}.onnx"
    prepared = prepare_graph(path, registry[name], rewrites=FAST)
    assert prepared.is_batch_free
    backend = open_onnx_backends(prepared.model, max_batch_size=4)[0]
    shipped = open_onnx_backends(path)[0]
    capfd.readouterr()
    for canvas_hw in [(112, 112)] if prepared.input_hw else [(96, 160), (256, 192), (320, 320)]:
        batch = noise(4, 3, *canvas_hw)
        together = backend.run(batch)
        assert capfd.readouterr().err == ""
        for item in range(4):
            one = batch[item : item + 1]
            for four, single, official in zip(together, backend.run(one), shipped.run(one), strict=True):
                np.testing.assert_allclose(four[item], single[0], rtol=1e-5, atol=1e-5)
                np.testing.assert_allclose(single.reshape(official.shape), official, rtol=1e-5, atol=1e-5)
        capfd.readouterr()


@pytest.mark.parametrize(
    ("perm", "rows"), [((2, 3, 0, 1), (-1,)), ((0, 2, 3, 1), (-1,)), ((0, 2, 3, 1), (1, -1)), ((0, 2, 3, 1), (0, -1))]
)
@pytest.mark.parametrize("batch", [1, "N"])
def test_every_export_of_scrfd_gets_a_free_batch(
    tmp_path: Path, perm: tuple[int, ...], rows: tuple[int, ...], batch: int | str
) -> None:
    serialized = scrfd_model(perm=perm, rows=rows, batch=batch)
    prepared = prepare(tmp_path, serialized, scrfd_spec())
    assert prepared.is_batch_free
    assert outputs_of(prepared) == [(None, None, c) for c in (1, 1, 1, 4, 4, 4, 10, 10, 10)]
    items = noise(3, 3, 64, 96)
    assert {len(together) for together in run(prepared.model, items)} == {3}
    for item in range(3):
        original = run(serialized, items[item : item + 1])
        for together, alone in zip(run(prepared.model, items), original, strict=True):
            np.testing.assert_allclose(together[item], alone.reshape(together[item].shape), rtol=1e-5, atol=1e-5)


def test_a_graph_that_may_mix_pictures_runs_one_at_a_time(tmp_path: Path) -> None:
    serialized = scrfd_model(fixed_upsample=True, canvas_hw=(64, 64))
    with capture_logs() as logs:
        prepared = prepare(tmp_path, serialized, scrfd_spec())
    assert not prepared.is_batch_free
    assert "one item at a time" in logs[0]["event"]
    assert prepared.input_hw == (64, 64)
    item = noise(1, 3, 64, 64)
    for ours, original in zip(run(prepared.model, item), run(serialized, item), strict=True):
        np.testing.assert_allclose(ours, original, rtol=1e-5, atol=1e-5)


def test_a_recognizer_exported_for_one_face_takes_many(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, arcface_model(batch=1), arcface_spec())
    assert prepared.is_batch_free
    assert outputs_of(prepared) == [(None, 4)]
    assert prepared.input_hw == (112, 112)
    assert prepared.rewrites == ("split_prelu",)
    faces = noise(3, 3, 112, 112)
    alone = np.concatenate([run(arcface_model(batch=1), faces[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(run(prepared.model, faces)[0], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("serialized", "spec", "said"),
    [
        (arcface_model(length=5), arcface_spec(), "one output [N, 4]; found embedding [?, 5]"),
        (arcface_model(), scrfd_spec(), "6 or 9 outputs"),
        (scrfd_model(), arcface_spec(), "one output [N, 4]"),
        (scrfd_model(canvas_hw=(64, 64)), scrfd_spec(canvas_hw=(640, 640)), "640x640 pixels; found input.1 [1, 3, 64,"),
        (scrfd_model(num_levels=1), scrfd_spec(), "6 or 9 outputs"),
        (arcface_model(element_type=TensorProto.DOUBLE), arcface_spec(), "float32; found data [?, 3, 112, 112] double"),
    ],
)
def test_a_graph_that_is_not_its_entry_is_refused_with_what_was_found(
    tmp_path: Path, serialized: bytes, spec: ModelSpec, said: str
) -> None:
    with pytest.raises(ModelContractError, match=re.escape(said)):
        prepare(tmp_path, serialized, spec)


def test_a_graph_with_two_inputs_is_refused(tmp_path: Path) -> None:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 112, 112]) for name in "abc"]
    serialized = model([helper.make_node("Add", ["a", "b"], ["c"])], {}, value[:2], value[2:])
    with pytest.raises(ModelContractError, match=r"one input; found a .*, b "):
        prepare(tmp_path, serialized, arcface_spec())


def test_an_answer_that_is_not_float32_is_refused(tmp_path: Path) -> None:
    fed = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    given = helper.make_tensor_value_info("b", TensorProto.INT64, None)
    serialized = model([helper.make_node("Shape", ["a"], ["b"])], {}, [fed], [given])
    with pytest.raises(ModelContractError, match="found a of unknown rank float"):
        prepare(tmp_path, serialized, arcface_spec())
    fed = helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 3, 112, 112])
    with pytest.raises(ModelContractError, match="should answer in float32"):
        prepare(tmp_path, model([helper.make_node("Shape", ["a"], ["b"])], {}, [fed], [given]), arcface_spec())


@pytest.mark.parametrize(
    "serialized", [b"", b"\xff" * 64, arcface_model()[:-100], b"<html></html>"], ids=["empty", "junk", "cut", "page"]
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, serialized: bytes) -> None:
    with pytest.raises(ModelFileError, match=r"model\.onnx") as caught:
        prepare(tmp_path, serialized, arcface_spec())
    assert str(tmp_path) not in caught.value.message


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be read"):
        prepare_graph(tmp_path / "missing.onnx", arcface_spec())


def test_operators_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    built = onnx.load_model_from_string(arcface_model())
    del built.graph.node[0].input[:]
    with pytest.raises(ModelFileError, match="do not fit"):
        prepare(tmp_path, built.SerializeToString(), arcface_spec())


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    built = onnx.load_model_from_string(arcface_model())
    built.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(ModelFileError, match="weights in other files"):
        prepare(tmp_path, built.SerializeToString(), arcface_spec())


def test_a_prepared_graph_is_kept_and_found_again(tmp_path: Path) -> None:
    cache = PreparedFiles(tmp_path / "prepared")
    first = prepare(tmp_path, arcface_model(), arcface_spec(), cache)
    assert isinstance(first.model, Path)
    written = first.model.stat().st_mtime_ns
    assert prepare(tmp_path, arcface_model(), arcface_spec(), cache) == first
    assert first.model.stat().st_mtime_ns == written
    assert sorted(path.suffix for path in cache.folders[0].iterdir()) == [".json", ".onnx"]


def test_other_weights_or_another_entry_are_another_prepared_graph(tmp_path: Path) -> None:
    cache = PreparedFiles(tmp_path / "prepared")
    prepare(tmp_path, arcface_model(), arcface_spec(), cache)
    prepare(tmp_path, arcface_model(seed=1), arcface_spec(), cache)
    with pytest.raises(ModelContractError):
        prepare(tmp_path, arcface_model(), arcface_spec(length=5), cache)
    assert len(list(cache.folders[0].glob("*.onnx"))) == 2


@pytest.mark.parametrize("suffix", [".onnx", ".json"])
@pytest.mark.parametrize(
    "content", [b"", b"junk", b"[]", b"{}", b"[" * 100_000], ids=["empty", "junk", "list", "object", "deep"]
)
def test_a_damaged_prepared_graph_is_made_anew(tmp_path: Path, suffix: str, content: bytes) -> None:
    cache = PreparedFiles(tmp_path / "prepared")
    first = prepare(tmp_path, arcface_model(), arcface_spec(), cache)
    next(cache.folders[0].glob(f"*{suffix}")).write_bytes(content)
    assert prepare(tmp_path, arcface_model(), arcface_spec(), cache) == first
    assert isinstance(first.model, Path)
    assert run(first.model, noise(1, 3, 112, 112))[0].shape == (1, 4)


def test_a_folder_that_cannot_be_written_costs_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with capture_logs() as logs:
        prepared = prepare(tmp_path, arcface_model(), arcface_spec(), PreparedFiles(tmp_path / "file" / "prepared"))
    assert isinstance(prepared.model, bytes)
    assert [line["event"] for line in logs if line["log_level"] != "warning"] == [
        "prepared graph is not kept: the folder cannot be written"
    ]


def test_weights_that_nothing_reads_are_dropped() -> None:
    parts = take_apart(arcface_model())
    assert set(parts.replace(nodes=parts.nodes[:2], outputs=parts.outputs).weights) == {"kernel", "slopes"}
