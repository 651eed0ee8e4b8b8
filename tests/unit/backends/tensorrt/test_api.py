"""Every attribute of TensorRT that the builder and the runner use is there in the real module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.backends.tensorrt import builder, messages, module, progress, runner, timings
from app.backends.tensorrt.module import _NEEDED, Toolkit

CLASSES = {
    "trt": "",
    "self._trt": "",
    "self.trt": "",
    "self._builder": "Builder",
    "self._network": "INetworkDefinition",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "tensor": "ITensor",
    "layer": "ILayer",
    "cache": "ITimingCache",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "context": "IExecutionContext",
    "self._context": "IExecutionContext",
}
"""What variables of that name hold, where they hold something of TensorRT's."""

OURS = {
    # `error` is TensorRT's in one place and ours in others, so its methods are written out below.
    builder.__name__: frozenset[str](),
    # In the runner these names also stand for objects of ours.
    runner.__name__: frozenset({"engine", "self._engine", "profile"}),
}

WRITTEN_OUT = {
    "ParserError": {"node", "node_name", "node_operator", "desc"},
    "ICudaEngine": {
        "get_tensor_name", "num_io_tensors", "get_tensor_mode", "get_tensor_dtype", "num_optimization_profiles",
        "get_tensor_profile_shape", "device_memory_size_v2", "create_execution_context",
    },
}  # fmt: skip
"""What the walk below cannot tell by a variable's name alone."""


def paths_in(file: Path, module_name: str) -> Iterator[str]:
    """Yield `Class.attribute`, or `Enumeration.MEMBER` of the module, for each use in a file."""
    ours = OURS.get(module_name, frozenset())
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        for name, kind in CLASSES.items():
            text = ast.unparse(node)
            if name not in ours and text.startswith(f"{name}."):
                rest = text.removeprefix(f"{name}.")
                if all(part.isidentifier() for part in rest.split(".")):
                    yield f"{kind}.{rest}" if kind else rest


def has(root: object, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(root, part):
            return False
        root = getattr(root, part)
    return True


@pytest.mark.parametrize("used", [builder, messages, module, progress, runner, timings], ids=lambda used: used.__name__)
def test_what_is_used_exists(toolkit: Toolkit, used: object) -> None:
    name, file = str(used.__name__), Path(str(used.__file__))  # type: ignore[attr-defined]  # modules have both
    found = set(paths_in(file, name))
    assert found, "the walk found nothing: have the variables other names now?"
    assert {path for path in found if not has(toolkit.trt, path)} == set()


def test_what_no_walk_finds_exists_too(toolkit: Toolkit) -> None:
    paths = {f"{kind}.{name}" for kind, names in WRITTEN_OUT.items() for name in names} | set(_NEEDED)
    assert {path for path in paths if not has(toolkit.trt, path)} == set()
    text = "".join(Path(str(used.__file__)).read_text(encoding="utf-8") for used in (builder, runner))
    assert {name for names in WRITTEN_OUT.values() for name in names if f".{name}" not in text} == set()


def test_the_walk_finds_what_matters() -> None:
    found = set(paths_in(Path(str(builder.__file__)), builder.__name__))
    assert {"Builder.build_serialized_network", "MemoryPoolType.WORKSPACE", "IBuilderConfig.progress_monitor"} <= found
    found = set(paths_in(Path(str(runner.__file__)), runner.__name__))
    assert {"IExecutionContext.set_input_shape", "ExecutionContextAllocationStrategy.USER_MANAGED"} <= found
