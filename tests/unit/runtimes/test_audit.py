"""Finding the nodes that run elsewhere, on what ONNX Runtime itself says and writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from jetface.runtimes.onnx import open_session
from jetface.runtimes.onnx_cuda import can_tell, nodes_elsewhere, nodes_in_profile, report
from tests.support.tiny_onnx import arcface_model

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
OPERATORS = ["AveragePool", "Conv", "Flatten", "MatMul", "PRelu"]


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """Return the profile of one run on the CPU."""
    session = open_session(arcface_model(), [(CPU, {})], num_threads=1, profile_prefix=tmp_path / "run")
    session.run(None, {"data": np.zeros((1, 3, 112, 112), np.float32)})
    return Path(session.end_profiling())


@pytest.mark.skipif(not can_tell(), reason="this ONNX Runtime is older than 1.24")
def test_a_session_tells_which_nodes_another_provider_has() -> None:
    session = open_session(arcface_model(), [(CPU, {})], num_threads=1)
    assert nodes_elsewhere(session, CPU) == ()
    assert [node.split()[0] for node in nodes_elsewhere(session, CUDA)] == OPERATORS


def test_a_profile_tells_the_same(profile: Path) -> None:
    assert nodes_in_profile(profile, CPU) == ()
    # Here after ONNX Runtime has fused what it could.
    operators = {node.split()[0] for node in nodes_in_profile(profile, CUDA)}
    assert {"PRelu", "MatMul"} <= operators


def test_of_a_profile_only_nodes_of_other_providers_count(tmp_path: Path) -> None:
    def event(name: str, operator: str, provider: str, category: str = "Node") -> dict[str, object]:
        return {"cat": category, "name": f"{name}_kernel_time", "args": {"op_name": operator, "provider": provider}}

    path = tmp_path / "profile.json"
    events = [
        event("shape_1", "Shape", CPU), event("conv_1", "Conv", CUDA), event("shape_1", "Shape", CPU),
        event("copy_1", "MemcpyToHost", CUDA), event("run", "", CPU, "Session"), {"cat": "Node", "name": "fence"},
    ]  # fmt: skip
    path.write_text(json.dumps(events))
    assert nodes_in_profile(path, CUDA) == ("Shape shape_1",)


@pytest.mark.parametrize(
    ("nodes", "level"),
    [((), None), (("Shape a", "Gather b"), "info"), (("Shape a", "PRelu b", "PRelu c"), "warning")],
)
def test_what_costs_time_is_a_warning_and_what_does_not_is_none(nodes: tuple[str, ...], level: str | None) -> None:
    with capture_logs() as logs:
        report(nodes, CUDA, "model")
    assert [entry["log_level"] for entry in logs] == ([level] if level else [])
    if level == "warning":
        assert logs[0]["operators"] == {"Shape": 1, "PRelu": 2}
