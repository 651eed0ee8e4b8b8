"""Graphs as exporters write them: with functions of their own, and with weights in files beside them."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from structlog.testing import capture_logs

from jetface.errors import ModelContractError, ModelFileError
from jetface.graphs.parts import GraphError, data_files, num_bytes, read_data, take_apart
from jetface.graphs.prepare import PreparedFiles, prepare_graph
from jetface.registry import DataSpec, ModelSpec
from jetface.runtimes.onnx import open_onnx_backends
from tests.support.shared import require_shared
from tests.support.tiny_onnx import arcface_model, arcface_spec

make = helper.make_node
DOMAIN = "ours"


def run(model: bytes | Path, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    return open_onnx_backends(model, max_batch_size=len(batch))[0].run(batch)[0]


def faces(count: int = 2) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (count, 3, 112, 112)).astype(np.float32)


def split(folder: Path, name: str = "mine", *, one_file: bool = True) -> Path:
    """Write the tiny recognizer with its weights beside it, as exporters do."""
    folder.mkdir(exist_ok=True)
    model = onnx.load_model_from_string(arcface_model())
    path = folder / f"{name}.onnx"
    convert_model_to_external_data(model, one_file, f"{name}.onnx.data", size_threshold=0)
    onnx.save_model(model, path)
    return path


def point_at(path: Path, location: str, **place: str) -> Path:
    """Let the first weight of a model say that it lies elsewhere."""
    model = onnx.load_model(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    for key, value in {"location": location, **place}.items():
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    path.write_bytes(model.SerializeToString())
    return path


class TestData:
    @pytest.mark.parametrize("one_file", [True, False])
    def test_weights_beside_the_file_are_taken_in(self, tmp_path: Path, *, one_file: bool) -> None:
        """All in one file, or each in its own; what a backend opens needs none of them."""
        path = split(tmp_path, one_file=one_file)
        prepared = prepare_graph(path, arcface_spec())
        for beside in tmp_path.iterdir():
            beside.unlink()
        np.testing.assert_allclose(run(prepared.model, faces()), run(arcface_model(), faces()), rtol=1e-5)

    def test_weights_beside_the_file_are_part_of_its_identity(self, tmp_path: Path) -> None:
        """What was prepared of other data is not found again; sizes count them, too."""
        path, cache = split(tmp_path), PreparedFiles(tmp_path / "prepared")
        data = path.with_name("mine.onnx.data")
        assert num_bytes(path) == path.stat().st_size + data.stat().st_size
        first = prepare_graph(path, arcface_spec(), cache=cache)
        assert first.source_sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
        data.write_bytes(bytes(data.stat().st_size))
        second = prepare_graph(path, arcface_spec(), cache=cache)
        assert first.model != second.model
        assert not run(second.model, faces()).any()

    def test_an_entry_may_name_them(self, tmp_path: Path) -> None:
        """Then they are held to their checksum; else one line says what to write."""
        path = split(tmp_path)
        data = path.with_name("mine.onnx.data")
        digest = hashlib.sha256(data.read_bytes()).hexdigest()
        with capture_logs() as logs:
            prepare_graph(path, arcface_spec())
        assert [(line["file"], line["sha256"]) for line in logs if "checksum" in line["event"]] == [(data.name, digest)]
        spec = arcface_spec().model_copy(update={"data": (DataSpec(file=data.name, sha256=digest),)})
        with capture_logs() as logs:
            prepare_graph(path, spec)
        assert logs == []
        data.write_bytes(bytes(data.stat().st_size))
        with pytest.raises(ModelFileError, match=r"mine\.onnx\.data .* another checksum"):
            prepare_graph(path, spec)

    @pytest.mark.parametrize(
        "location",
        [
            "../outside.data",
            "/etc/hostname",
            "sub/../../outside.data",
            "..\\outside.data",
            "link.data",
            "up/outside.data",
        ],
    )
    def test_nothing_outside_of_the_folder_is_read(self, tmp_path: Path, location: str) -> None:
        """Neither by a path nor by a link, of the file or of a folder."""
        path = split(tmp_path / "models")
        (tmp_path / "outside.data").write_bytes(path.with_name("mine.onnx.data").read_bytes())
        (path.parent / "sub").mkdir()
        (path.parent / "link.data").symlink_to(tmp_path / "outside.data")
        (path.parent / "up").symlink_to(tmp_path, target_is_directory=True)
        with pytest.raises(ModelFileError, match="outside of the model's folder") as caught:
            prepare_graph(point_at(path, location), arcface_spec())
        assert str(tmp_path) not in caught.value.message

    def test_a_link_that_stays_in_the_folder_is_followed(self, tmp_path: Path) -> None:
        """As Kubernetes mounts files."""
        path = split(tmp_path)
        data = path.with_name("mine.onnx.data")
        (tmp_path / "..data").mkdir()
        data.rename(tmp_path / "..data" / data.name)
        data.symlink_to(Path("..data") / data.name)
        assert prepare_graph(path, arcface_spec()).is_batch_free

    @pytest.mark.parametrize(
        ("location", "place", "said"),
        [
            ("gone.data", {}, "'gone.data', which is not there"),
            ("", {}, "'kernel' does not say in which"),
            ("pipe", {}, "which is not there"),
            ("x" * 5000, {}, "cannot be read"),
            ("a\0b", {}, "outside of"),
            ("mine.onnx.data", {"offset": "many"}, "'kernel' cannot be read"),
            ("mine.onnx.data", {"offset": "-1"}, "does not fit its place"),
            ("mine.onnx.data", {"offset": "9999999"}, "beyond the end of 'mine.onnx.data'"),
            ("mine.onnx.data", {"length": "8"}, "does not fit its place"),
        ],
    )
    def test_weights_that_cannot_be_taken_in_are_told(
        self, tmp_path: Path, location: str, place: dict[str, str], said: str
    ) -> None:
        path = split(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(ModelFileError, match=re.escape(said)):
            prepare_graph(point_at(path, location, **place), arcface_spec())

    def test_more_weights_than_a_model_may_have_are_not_read(self, tmp_path: Path) -> None:
        """Neither as a long file, nor as a short one that is taken again and again."""
        path = split(tmp_path)
        with path.with_name("long.data").open("wb") as file:
            file.truncate(2**31)
        with pytest.raises(GraphError, match="larger than 2 GiB"):
            read_data(point_at(path, "long.data").read_bytes(), tmp_path)
        model = onnx.load_model(split(tmp_path), load_external_data=False)
        big = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[2**28], data_location=TensorProto.EXTERNAL)
        big.external_data.add(key="location", value="big.data")
        for number in range(3):
            big.name = f"big_{number}"
            model.graph.initializer.append(big)
        with pytest.raises(GraphError, match="beyond the end"):
            take_apart(model.SerializeToString(), {"mine.onnx.data": bytes(4096), "big.data": b""})

    def test_what_has_no_weights_elsewhere_names_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "empty.onnx").touch()
        assert num_bytes(tmp_path / "empty.onnx") == 0
        assert data_files(arcface_model()) == ()


def with_functions(*functions: onnx.FunctionProto, call: str = "Scale") -> bytes:
    """A recognizer that ends in the call of a function."""
    model = onnx.load_model_from_string(arcface_model())
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.append(make(call, ["plain"], ["embedding"], domain=DOMAIN))
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = 10
    return bytes(model.SerializeToString())


def function(name: str, nodes: list[onnx.NodeProto], *, opset: int = 11) -> onnx.FunctionProto:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_function(DOMAIN, name, ["x"], ["y"], nodes, imports)


def doubling(name: str, below: str, *, times: int = 2) -> onnx.FunctionProto:
    """A function that calls another, again and again."""
    names = ["x", *(f"v{number}" for number in range(times - 1)), "y"]
    calls = [make(below, [one], [other], domain=DOMAIN) for one, other in itertools.pairwise(names)]
    return function(name, calls)


HALVE = function("Halve", [make("Constant", [], ["c"], value_float=0.5), make("Mul", ["x", "c"], ["y"])], opset=13)
NEGATE = function("Negate", [make("Neg", ["x"], ["y"])])


class TestFunctions:
    @pytest.mark.parametrize(
        ("functions", "factor"),
        [
            ((function("Scale", [make("Neg", ["x"], ["y"])]),), -1.0),
            ((NEGATE, doubling("Scale", "Negate", times=3)), -1.0),
            ((doubling("Scale", "Negate"), NEGATE), 1.0),
        ],
        ids=["one", "nested", "in any order"],
    )
    def test_calls_become_the_nodes_they_stand_for(
        self, tmp_path: Path, functions: tuple[onnx.FunctionProto, ...], factor: float
    ) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(with_functions(*functions))
        prepared = prepare_graph(path, arcface_spec())
        assert prepared.is_batch_free
        assert isinstance(prepared.model, bytes)
        assert not onnx.load_model_from_string(prepared.model).functions
        np.testing.assert_allclose(run(prepared.model, faces()), factor * run(arcface_model(), faces()), rtol=1e-5)

    def test_a_function_of_another_version_of_the_operators_is_written_out(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(with_functions(HALVE, doubling("Scale", "Halve", times=1)))
        prepared = prepare_graph(path, arcface_spec())
        np.testing.assert_allclose(run(prepared.model, faces()), 0.5 * run(arcface_model(), faces()), rtol=1e-5)

    def test_weights_of_a_function_may_lie_beside_the_file(self, tmp_path: Path) -> None:
        value = numpy_helper.from_array(np.float32(3).reshape(1), "c")
        (tmp_path / "c.data").write_bytes(value.raw_data)
        value.ClearField("raw_data")
        value.data_location = TensorProto.EXTERNAL
        value.external_data.add(key="location", value="c.data")
        body = [make("Constant", [], ["c"], value=value), make("Mul", ["x", "c"], ["y"])]
        path = tmp_path / "mine.onnx"
        path.write_bytes(with_functions(function("Scale", body)))
        prepared = prepare_graph(path, arcface_spec())
        np.testing.assert_allclose(run(prepared.model, faces()), 3 * run(arcface_model(), faces()), rtol=1e-5)

    @pytest.mark.parametrize(
        ("functions", "said"),
        [
            ((doubling("Scale", "Scale"),), "'Scale' calls itself"),
            ((doubling("Scale", "Other"), doubling("Other", "Scale")), "calls itself"),
            (
                (NEGATE, doubling("F0", "Negate"), *(doubling(f"F{n}", f"F{n - 1}") for n in range(1, 40)),
                 doubling("Scale", "F39")),
                "more than 100000 nodes",
            ),
            (
                (NEGATE, doubling("F0", "Negate", times=1),
                 *(doubling(f"F{n}", f"F{n - 1}", times=1) for n in range(1, 3000)),
                 doubling("Scale", "F2999", times=1)),
                "nested too deeply",
            ),
        ],
        ids=["itself", "in a circle", "doubled 40 times", "deep"],
    )  # fmt: skip
    def test_functions_without_end_are_refused(
        self, tmp_path: Path, functions: tuple[onnx.FunctionProto, ...], said: str
    ) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(with_functions(*functions))
        with pytest.raises(ModelFileError, match=said):
            prepare_graph(path, arcface_spec())

    @pytest.mark.weights
    def test_the_published_case_opens(self) -> None:
        """And answers as ONNX Runtime does, which writes functions out itself."""
        path = require_shared("cases", "graphs", "rec_functions.onnx")
        spec = arcface_spec(length=128)
        prepared = prepare_graph(path, spec)
        np.testing.assert_allclose(run(prepared.model, faces()), run(path, faces()), rtol=1e-4, atol=1e-5)


def of_batch(*nodes: onnx.NodeProto, batch: int | str = "N") -> bytes:
    """A recognizer that declares a free batch and ends in these nodes, from `plain` to `embedding`."""
    model = onnx.load_model_from_string(arcface_model(batch=batch))
    model.graph.node[-1].output[0] = "plain"
    model.graph.node.extend(nodes)
    row = numpy_helper.from_array(np.array([1, -1], np.int64), "row")
    four = numpy_helper.from_array(np.array([-1, 4], np.int64), "four")
    model.graph.initializer.extend([row, four])
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    return bytes(model.SerializeToString())


MIXING = {
    "a softmax over the batch": of_batch(make("Softmax", ["plain"], ["embedding"], axis=0)),
    "the mean of the batch": of_batch(
        make("ReduceMean", ["plain"], ["m"], axes=[0], keepdims=1), make("Sub", ["plain", "m"], ["embedding"])
    ),
    "items turned round": of_batch(
        make("Transpose", ["plain"], ["t"], perm=[1, 0]), make("Reshape", ["t", "four"], ["embedding"])
    ),
    "a sum that runs on": of_batch(
        make("Constant", [], ["axis"], value_int=0), make("CumSum", ["plain", "axis"], ["embedding"])
    ),
}


def test_junk_in_a_graph_is_refused_in_words(tmp_path: Path) -> None:
    """Names that are not UTF-8, a type that there is not."""
    path = tmp_path / "mine.onnx"
    other = split(tmp_path / "other")
    junk = (
        arcface_model().replace(b"embedding", b"embed\xffing"),
        other.read_bytes().replace(b"mine.onnx.data", b"mine\xffonnx.data"),
    )
    for serialized in junk:
        path.write_bytes(serialized)
        with pytest.raises(ModelFileError, match=r"UTF-8|does not say in which"):
            prepare_graph(path, arcface_spec())
    built = onnx.load_model_from_string(arcface_model())
    built.graph.input[0].type.tensor_type.elem_type = 112
    path.write_bytes(built.SerializeToString())
    with pytest.raises(ModelContractError, match="of type 112"):
        prepare_graph(path, arcface_spec())


class TestDeclaredBatch:
    @pytest.mark.parametrize("name", MIXING)
    def test_a_graph_that_mixes_its_items_is_found_out(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(MIXING[name])
        cache = PreparedFiles(tmp_path / "prepared")
        for _ in range(2):  # made, then found
            with capture_logs() as logs:
                prepared = prepare_graph(path, arcface_spec(), cache=cache)
            assert not prepared.is_batch_free
            assert [(line["event"], line["model"]) for line in logs] == [
                ("model runs one item at a time: its graph may mix the items of a batch", "tiny_arcface")
            ]
        np.testing.assert_allclose(run(prepared.model, faces(1)), run(MIXING[name], faces(1)), rtol=1e-5)

    def test_a_graph_that_keeps_them_apart_keeps_its_batch(self, tmp_path: Path) -> None:
        """Though no operator of it shows that it does."""
        path = tmp_path / "mine.onnx"
        path.write_bytes(of_batch(make("LogSoftmax", ["plain"], ["embedding"], axis=1)))
        with capture_logs() as logs:
            assert prepare_graph(path, arcface_spec()).is_batch_free
        assert logs == []

    def test_what_may_not_be_tried_runs_one_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.onnx"
        path.write_bytes(of_batch(make("LogSoftmax", ["plain"], ["embedding"], axis=1)))
        cache = PreparedFiles(tmp_path / "prepared")
        assert not prepare_graph(path, arcface_spec(), cache=cache, has_onnxruntime=False).is_batch_free
        assert prepare_graph(path, arcface_spec(), cache=cache).is_batch_free


def test_an_entry_names_data_by_file_alone() -> None:
    for name in ("../mine.data", "/mine.data", "sub/mine.data", ".hidden", ""):
        with pytest.raises(ValueError, match="file"):
            DataSpec(file=name, sha256="0" * 64)
    spec: ModelSpec = arcface_spec().model_copy(update={"data": (DataSpec(file="mine.onnx.data", sha256="1" * 64),)})
    (part,) = spec.data_specs
    assert (part.file_name, part.sha256, part.data) == ("mine.onnx.data", "1" * 64, ())
