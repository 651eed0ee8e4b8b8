"""ONNX Runtime: loaded late, quiet, bounded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from jetface.errors import BackendUnavailableError, ModelFileError
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.tiny_onnx import arcface_model


def test_lanes_share_one_session() -> None:
    lanes = open_onnx_backends(arcface_model(), num_lanes=3)
    assert len({id(lane._session) for lane in lanes}) == 1
    assert {lane.provider for lane in lanes} == {"CPUExecutionProvider"}


def test_a_model_opens_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(arcface_model())
    face = np.ones((1, 3, 112, 112), np.float32)
    from_file, from_bytes = (open_onnx_backends(model)[0].run(face)[0] for model in (path, arcface_model()))
    np.testing.assert_array_equal(from_file, from_bytes)


def test_a_model_the_runtime_cannot_read_is_a_model_error(tmp_path: Path) -> None:
    built = onnx.load_model_from_string(arcface_model())
    built.graph.node[0].op_type = "NoSuchOperator"
    for model in (b"junk", built.SerializeToString(), tmp_path / "missing.onnx"):
        with pytest.raises(ModelFileError, match="cannot open") as caught:
            open_onnx_backends(model)
        assert str(tmp_path) not in caught.value.message


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error_and_not_a_slow_cpu() -> None:
    with pytest.raises(BackendUnavailableError, match="CUDAExecutionProvider did not start; only CPU"):
        open_onnx_backends(arcface_model(), providers=("CUDAExecutionProvider", "CPUExecutionProvider"))
