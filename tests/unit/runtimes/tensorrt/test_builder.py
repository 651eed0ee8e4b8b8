"""Engines, built for real on the CPU: SCRFD and IResNet, FP32 and FP16, dynamic batches and sizes."""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from structlog.testing import capture_logs

from jetface.errors import EngineBuildError, EngineLoadError
from jetface.graphs.half import Precision
from jetface.graphs.prepare import prepare_graph
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from jetface.runtimes.engine_kit import BuiltEngine, EngineRecipe, Profile, profiles_for
from jetface.runtimes.tensorrt import Toolkit
from jetface.runtimes.tensorrt_build import TensorrtKit, accelerator_notes, build_engine, workspaces
from tests.support.fake_cuda import FakeCuda
from tests.support.recipes import recipe_of
from tests.support.stand_in_trt import StandInTrt, make_plan
from tests.support.tiny_iresnet import iresnet_model
from tests.support.tiny_onnx import arcface_model, arcface_spec, model, scrfd_model, scrfd_spec


def request_for(graph: Path, *profiles: Profile, **others: Any) -> tuple[EngineRecipe, Path]:
    return recipe_of(profiles, **{"workspace_bytes": 2**28, **others}), graph


def quiet(_phase: str) -> None:
    """Hear of a phase and do nothing."""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    """Write a graph to a file."""

    def write_it(graph: bytes) -> Path:
        path = tmp_path / "graph.onnx"
        path.write_bytes(graph)
        return path

    return write_it


ONE_FACE = profiles_for([(3, 112, 112)], (1,))

TINY: dict[str, tuple[bytes, ModelSpec, list[tuple[int, ...]]]] = {
    "scrfd": (scrfd_model(batch="N"), scrfd_spec(), [(3, 64, 96), (3, 96, 64)]),
    "iresnet": (iresnet_model(), arcface_spec(length=32), [(3, 112, 112)]),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("family", TINY)
def test_a_model_is_built_in_either_precision_for_every_batch_and_size(
    toolkit: Toolkit, tmp_path: Path, family: str, precision: Precision
) -> None:
    serialized, spec, shapes = TINY[family]
    (tmp_path / "weights.onnx").write_bytes(serialized)
    prepared = prepare_graph(tmp_path / "weights.onnx", spec, precision=precision)
    assert isinstance(prepared.model, bytes)
    assert (f"{TensorProto.FLOAT16}" in types_of(prepared.model)) == (precision == "fp16")
    (tmp_path / "graph.onnx").write_bytes(prepared.model)
    profiles = profiles_for(shapes, (1, 2, 4))
    told: list[str] = []
    built = build_engine(toolkit, *request_for(tmp_path / "graph.onnx", *profiles, precision=precision), told.append)
    assert len(built.plan) > 10_000
    assert built.notes == ()
    assert len(told) > 1
    assert all(phase != former for former, phase in itertools.pairwise(told))


def types_of(serialized: bytes) -> set[str]:
    return {str(weight.data_type) for weight in onnx.load_model_from_string(serialized).graph.initializer}


def build_as_served(
    toolkit: Toolkit, weights: Path, scratch: Path, precision: Precision, batches: tuple[int, ...]
) -> bytes:
    """Build what a registry entry says of weights named after it: from pixels to answers."""
    spec = read_registry((default_registry_dir(),))[weights.stem]
    prepared = prepare_graph(weights, spec, pixels=True, precision=precision)
    assert isinstance(prepared.model, bytes)
    (scratch / "graph.onnx").write_bytes(prepared.model)
    assert prepared.takes_pixels
    shapes = [(*(prepared.input_hw or (320, 320)), 3)]
    request = request_for(scratch / "graph.onnx", *profiles_for(shapes, batches), precision=precision)
    return build_engine(toolkit, *request, quiet).plan


@pytest.mark.weights
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", ["starter_det", "starter_rec"])
def test_the_starter_models_are_built_as_they_are_served(
    toolkit: Toolkit, tmp_path: Path, name: str, precision: Precision
) -> None:
    plan = build_as_served(toolkit, default_registry_dir() / f"{name}.onnx", tmp_path, precision, (1, 2, 4))
    assert len(plan) > 100_000


@pytest.mark.parametrize("name", ["det_500m", "scrfd_2.5g_bnkps", "w600k_mbf_dequantized"])
def test_models_of_insightface_are_built_as_they_are_served(
    toolkit: Toolkit, shared_models: Path, tmp_path: Path, name: str
) -> None:
    assert len(build_as_served(toolkit, shared_models / f"{name}.onnx", tmp_path, "fp16", (1, 2, 4))) > 1_000_000


def test_a_graph_of_fixed_shape_needs_no_profile_of_its_own(toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
    fixed = write(arcface_model(batch=1))
    assert build_engine(toolkit, *request_for(fixed, *profiles_for([(3, 112, 112)], (1,))), quiet).plan


class TestRefusals:
    """An engine that cannot be built is an error of one line that names what is to blame."""

    def refused(self, toolkit: Toolkit, request: tuple[EngineRecipe, Path]) -> str:
        with pytest.raises(EngineBuildError) as caught:
            build_engine(toolkit, *request, quiet)
        assert "\n" not in caught.value.message
        return caught.value.message

    @pytest.mark.parametrize(("name", "told"), [("odd", "node odd (Frobnicate)"), ("", "node #0 (Frobnicate)")])
    def test_names_the_node(self, toolkit: Toolkit, write: Callable[[bytes], Path], name: str, told: str) -> None:
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 3]) for end in "xy"]
        graph = model([helper.make_node("Frobnicate", ["x"], ["y"], name=name)], {}, ends[:1], ends[1:])
        message = self.refused(toolkit, request_for(write(graph), *profiles_for([(3,)], (1,))))
        assert message.startswith(f"TensorRT does not take {told}: ")

    def test_of_a_file_that_is_no_graph(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        message = self.refused(toolkit, request_for(write(b"garbage"), *profiles_for([(3,)], (1,))))
        assert message.startswith("TensorRT does not take the graph: ")

    def test_of_a_file_that_is_not_there_or_empty(self, toolkit: Toolkit, tmp_path: Path) -> None:
        (tmp_path / "empty.onnx").touch()
        for name, told in (("nothing.onnx", "file is missing"), ("empty.onnx", "no graph in the file")):
            assert told in self.refused(toolkit, request_for(tmp_path / name, *profiles_for([(3,)], (1,))))

    def test_of_a_graph_with_two_inputs(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        ends = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["N", 3]) for end in "xyz"]
        graph = model([helper.make_node("Add", ["x", "y"], ["z"])], {}, ends[:2], ends[2:])
        assert "this graph has 2" in self.refused(toolkit, request_for(write(graph), *profiles_for([(3,)], (1,))))

    def test_of_a_profile_that_does_not_fit(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 96, 112)], (1, 2)))
        assert "axis 2 is fixed to 112 in the graph, not 96 to 96" in self.refused(toolkit, request)

    def test_of_an_accelerator_that_is_not_there(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)), dla_core=0)
        assert "TRT_DLA_CORE=0 cannot be had: TensorRT finds 0" in self.refused(toolkit, request)

    def test_of_a_builder_that_does_not_start(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        def builder(_logger: Any) -> Any:
            text = "CUDA initialization failure with error: 35. Please check your CUDA installation"
            toolkit.relay.tell(text, is_error=True)
            raise TypeError("pybind11::init(): factory function returned nullptr")

        broken = replace(toolkit, trt=SimpleNamespace(Builder=builder))
        message = self.refused(broken, request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,))))
        assert message.startswith("TensorRT's builder does not start: the NVIDIA driver is missing or older")


class TestEndingABuild:
    def test_what_the_listener_raises_ends_the_build(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        told: list[str] = []

        def listen(phase: str) -> None:
            told.append(phase)
            if len(told) > 1:
                raise KeyboardInterrupt

        request = request_for(write(scrfd_model(batch="N")), *profiles_for([(3, 64, 64)], (1, 2)))
        with pytest.raises(KeyboardInterrupt):
            build_engine(toolkit, *request, listen)
        assert len(told) == 2

    def test_a_build_in_another_thread_is_no_different(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1, 2)))
        built: list[BuiltEngine] = []
        thread = threading.Thread(target=lambda: built.append(build_engine(toolkit, *request, quiet)))
        thread.start()
        thread.join(60)
        assert built[0].plan


class TestLog:
    def test_a_line_is_said_once_and_not_too_many_of_them(self, toolkit: Toolkit) -> None:
        with capture_logs() as logs, toolkit.relay.heard("m") as messages:
            for number in range(30):
                for _ in range(3):
                    toolkit.relay.tell(f"tactic {number}\n  skipped", is_error=number == 7)
        assert [line["text"] for line in logs[:-1]] == [f"tactic {number} skipped" for number in range(20)]
        assert logs[-1]["num_lines_left_out"] == 30 - 20
        assert messages.text == "tactic 7 skipped"

    def test_what_nobody_waits_for_is_said_too(self, toolkit: Toolkit) -> None:
        with capture_logs() as logs:
            toolkit.relay.logger.log(toolkit.trt.ILogger.ERROR, "a run failed")
            toolkit.relay.logger.log(toolkit.trt.ILogger.VERBOSE, "chatter")
        assert [(line["text"], line["is_error"]) for line in logs] == [("a run failed", True)]

    def test_what_is_no_trouble_is_not_said(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(scrfd_model(batch="N")), *profiles_for([(3, 64, 64)], (1,)))
        with capture_logs() as logs:
            build_engine(toolkit, *request, quiet)
        # There is no driver here, which TensorRT for RTX mentions now and then.
        assert [line["text"] for line in logs if "insufficient for CUDA runtime" not in line["text"]] == []


class Forgetful:
    """Builds an engine for real once the workspace is small enough; says before that why it does not."""

    num_DLA_cores = 2  # noqa: N815 - TensorRT's name
    platform_has_fast_fp16 = False

    def __init__(self, toolkit: Toolkit, fits_bytes: int, text: str = "") -> None:
        self._toolkit = toolkit
        self._fits_bytes = fits_bytes
        self._text = text
        self._builder: Any = None
        self.limits: list[int] = []

    def __getattr__(self, name: str) -> Any:
        """Leave the rest to TensorRT's own."""
        return getattr(self._builder, name)

    @property
    def trt(self) -> Any:
        """TensorRT, less its builder."""
        module = self._toolkit.trt
        return SimpleNamespace(**{**vars(module), "Builder": self.make})

    def make(self, logger: Any) -> Forgetful:
        self._builder = self._toolkit.trt.Builder(logger)
        return self

    def build_serialized_network(self, network: Any, config: Any) -> Any:
        self.limits.append(config.get_memory_pool_limit(self._toolkit.trt.MemoryPoolType.WORKSPACE))
        if self.limits[-1] <= self._fits_bytes:
            return self._builder.build_serialized_network(network, config)
        self._toolkit.relay.tell(self._text, is_error=True)
        return None


OUT_OF_MEMORY = "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory (Requested size was 4194304)"


class TestMemory:
    def test_a_smaller_workspace_is_tried_and_noted(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        builder = Forgetful(toolkit, 2**26, OUT_OF_MEMORY)
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1, 2)), workspace_bytes=2**31)
        built = build_engine(replace(toolkit, trt=builder.trt), *request, quiet)
        assert builder.limits == [2**31, 2**30, 2**28, 2**26]
        assert built.notes == tuple(
            f"memory did not suffice with {mebibytes} MiB of workspace" for mebibytes in (2048, 1024, 256)
        )

    def test_in_the_end_it_gives_up_with_the_reason(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        builder = Forgetful(toolkit, 0, OUT_OF_MEMORY)
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1, 2)))
        with pytest.raises(EngineBuildError, match=r"needs more memory than it was given.*REC_BATCH_SIZE"):
            build_engine(replace(toolkit, trt=builder.trt), *request, quiet)
        assert builder.limits == [2**28, 2**26]

    def test_a_workspace_that_is_too_small_is_said(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)), workspace_bytes=2**20)
        with pytest.raises(EngineBuildError, match=r"no kernel .* makes do with the workspace\. Raise TRT_WORKSPACE_B"):
            build_engine(toolkit, *request, quiet)

    @pytest.mark.parametrize(
        "text",
        [
            "Error Code 10: Internal Error (Could not find any implementation for node Conv_0 within workspace limit.)",
            "Could not find any implementation for node Conv_0 due to insufficient workspace. See verbose log.",
            "Skipping tactic 0 due to insufficient memory on requested size of 4194304 detected for tactic 0x74.",
            OUT_OF_MEMORY,
        ],
    )
    def test_every_way_to_say_so_is_tried_again_with_less(
        self, toolkit: Toolkit, write: Callable[[bytes], Path], text: str
    ) -> None:
        builder = Forgetful(toolkit, 2**28, text)
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)), workspace_bytes=2**30)
        assert build_engine(replace(toolkit, trt=builder.trt), *request, quiet).plan
        assert builder.limits == [2**30, 2**28]

    def test_another_reason_is_not_tried_again(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        text = "Error Code 10: Internal Error (Could not find any implementation for node Conv_0.)"
        builder = Forgetful(toolkit, 0, text)
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1, 2)))
        with pytest.raises(EngineBuildError, match="Could not find any implementation for node Conv_0"):
            build_engine(replace(toolkit, trt=builder.trt), *request, quiet)
        assert len(builder.limits) == 1

    @given(limit=st.integers(0, 2**40))
    def test_limits_shrink_and_begin_with_what_was_asked_for(self, limit: int) -> None:
        first, *others = workspaces(limit)
        assert first == limit
        assert others == sorted(others, reverse=True)
        assert all(0 < size < (limit or 2**62) for size in others)


class TestAccelerator:
    """Layers that stay on the GPU. No machine of ours has an accelerator, so what fits one is made up."""

    def notes(self, runs: dict[str, bool], *, is_static: bool = True) -> list[str]:
        most = (1 if is_static else 4, 3)
        layers = [SimpleNamespace(name=name) for name in runs]
        network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
        config = SimpleNamespace(can_run_on_DLA=lambda layer: runs[layer.name])
        recipe, _ = request_for(Path("g"), Profile(least=(1, 3), usual=(1, 3), most=most), dla_core=0)
        return accelerator_notes(recipe, network, config)

    def test_all_layers_fit(self) -> None:
        assert self.notes({"a": True, "b": True}) == []

    def test_it_is_asked_for_with_the_gpu_behind_it(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        """TensorRT for RTX knows of accelerators and runs on none: all layers stay on the GPU."""
        builder = Forgetful(toolkit, 2**40)
        request = request_for(write(arcface_model(batch=1)), *profiles_for([(3, 112, 112)], (1,)), dla_core=1)
        built = build_engine(replace(toolkit, trt=builder.trt), *request, quiet)
        assert re.fullmatch(r"(\d+) of \1 layers stay on the GPU: .*, \.\.\.", built.notes[0])

    def test_layers_that_do_not_are_named_and_counted(self) -> None:
        assert self.notes({"a": True, "b": False}) == ["1 of 2 layers stay on the GPU: b"]
        many = dict.fromkeys("abcdefg", False)
        assert self.notes(many) == ["7 of 7 layers stay on the GPU: a, b, c, d, e, ..."]

    def test_a_range_of_shapes_is_said_to_be_the_gpus(self) -> None:
        assert "one shape alone" in self.notes({"a": True}, is_static=False)[0]


def test_half_precision_that_gains_nothing_is_noted(toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
    request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)), precision="fp16")
    built = build_engine(replace(toolkit, trt=Forgetful(toolkit, 2**40).trt), *request, quiet)
    assert built.notes == ("this GPU computes no faster in half precision",)


class TestKit:
    def test_tells_what_plans_are_tied_to(self, toolkit: Toolkit) -> None:
        kit = TensorrtKit(toolkit=toolkit, device={"gpu": "Orin", "compute_capability": "8.7"})
        assert kit.name == toolkit.name
        assert kit.facts() == {
            "toolkit": toolkit.name, "version": toolkit.version, "gpu": "Orin", "compute_capability": "8.7",
        }  # fmt: skip

    def test_builds(self, toolkit: Toolkit, write: Callable[[bytes], Path]) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1, 2)))
        assert TensorrtKit(toolkit=toolkit).build(*request, quiet).plan

    @pytest.mark.parametrize(
        ("is_integrated", "asked", "free_bytes", "limit"),
        [
            (True, 0, 2**28, 2**27),
            (True, 0, math.inf, 2**29),
            (True, 0, 0.0, 2**26),
            (True, 2**28, 2**24, 2**28),
            (False, 0, 2**28, None),
        ],
    )
    def test_leaves_half_of_the_memory_that_it_shares_with_the_cpu(
        self,
        toolkit: Toolkit,
        write: Callable[[bytes], Path],
        *,
        is_integrated: bool,
        asked: int,
        free_bytes: float,
        limit: int | None,
    ) -> None:
        """As the system counts it: what CUDA says, 1 GiB here, lacks the page cache, and counts only for want of it."""
        builder = Forgetful(toolkit, 2**62)
        cuda = FakeCuda(is_integrated=is_integrated)
        assert cuda.properties().free_bytes == 2**30
        kit = TensorrtKit(toolkit=replace(toolkit, trt=builder.trt), cuda=cuda, read_free_bytes=lambda: free_bytes)
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)), workspace_bytes=asked)
        assert kit.build(*request, quiet).plan
        assert builder.limits[0] == limit or (limit is None and builder.limits[0] > 2**29)

    def test_opens(self, toolkit: Toolkit) -> None:
        cuda = FakeCuda()
        shapes = ((1, 3, 112, 112), (2, 3, 112, 112), (4, 3, 112, 112))
        kit = TensorrtKit(toolkit=replace(toolkit, trt=StandInTrt(cuda)), cuda=cuda)
        recipe = recipe_of(profiles_for([(3, 112, 112)], (1, 2, 4)))
        with closing(kit.open(make_plan(arcface_model(declared_length="length"), [shapes]), recipe)) as lane:
            assert lane.run(np.zeros((3, 3, 112, 112), np.float32))[0].shape == (3, 4)

    def test_runs_on_the_accelerator_that_was_asked_for(self, toolkit: Toolkit) -> None:
        """A plan does not say which: TensorRT takes the first unless it is told."""
        cuda = FakeCuda()
        trt = StandInTrt(cuda)
        kit = TensorrtKit(toolkit=replace(toolkit, trt=trt), cuda=cuda)
        plan = make_plan(arcface_model(declared_length="length"), [((1, 3, 112, 112),) * 3])
        for core in (-1, 0, 1):
            kit.open(plan, recipe_of(ONE_FACE, dla_core=core)).close()
        assert trt.dla_cores == [0, 0, 1]
        with pytest.raises(EngineLoadError, match=r"TRT_DLA_CORE=2 cannot be had: TensorRT finds 2 .* Set it to -1"):
            kit.open(plan, recipe_of(ONE_FACE, dla_core=2))

    def test_counts_accelerators(self, toolkit: Toolkit) -> None:
        """TensorRT for RTX says none here."""
        trt = StandInTrt(FakeCuda())
        assert TensorrtKit(toolkit=replace(toolkit, trt=trt)).num_dla_cores == 2
        trt.refusing.add("Runtime")
        assert TensorrtKit(toolkit=replace(toolkit, trt=trt)).num_dla_cores == 0
        assert TensorrtKit(toolkit=toolkit).num_dla_cores == 0

    def test_an_accelerator_that_is_not_there_is_refused_by_the_real_runtime(
        self, toolkit: Toolkit, write: Callable[[bytes], Path]
    ) -> None:
        request = request_for(write(arcface_model()), *profiles_for([(3, 112, 112)], (1,)))
        plan = TensorrtKit(toolkit=toolkit).build(*request, quiet).plan
        with pytest.raises(EngineLoadError, match=r"TRT_DLA_CORE=0 cannot be had: TensorRT finds 0"):
            TensorrtKit(toolkit=toolkit, cuda=FakeCuda()).open(plan, recipe_of(ONE_FACE, dla_core=0))

    def test_opens_nothing_without_a_gpu(self, toolkit: Toolkit) -> None:
        with pytest.raises(EngineLoadError, match="no GPU"):
            TensorrtKit(toolkit=toolkit).open(b"plan", recipe_of(ONE_FACE))
