"""Every attribute of TensorRT that the builder and the runner use is there in the real module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from jetface.runtimes import tensorrt, tensorrt_build
from jetface.runtimes.tensorrt import _NEEDED, Toolkit

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

BUILDER = Path(str(tensorrt_build.__file__))
FILES = (Path(str(tensorrt.__file__)), BUILDER)

OURS = frozenset({"engine", "self._engine", "profile"})
"""What stands for objects of ours in all files but the builder, where engines are run."""

WRITTEN_OUT = {
    "ParserError": {"node", "node_name", "node_operator", "desc"},
    "ICudaEngine": {
        "get_tensor_name", "num_io_tensors", "get_tensor_mode", "get_tensor_dtype", "num_optimization_profiles",
        "get_tensor_profile_shape", "device_memory_size_v2", "create_execution_context",
    },
}  # fmt: skip
"""What the walk below cannot tell by a variable's name alone."""


def paths_in(file: Path) -> Iterator[str]:
    """Yield `Class.attribute`, or `Enumeration.MEMBER` of the module, for each use in a file."""
    ours = frozenset[str]() if file == BUILDER else OURS
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Attribute):
            continue
        text = ast.unparse(node)
        for name, kind in CLASSES.items():
            rest = text.removeprefix(f"{name}.")
            if name not in ours and rest != text and all(part.isidentifier() for part in rest.split(".")):
                yield f"{kind}.{rest}" if kind else rest


def has(root: object, path: str) -> bool:
    for part in path.split("."):
        if not hasattr(root, part):
            return False
        root = getattr(root, part)
    return True


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_used_exists(toolkit: Toolkit, file: Path) -> None:
    assert {path for path in paths_in(file) if not has(toolkit.trt, path)} == set()


def test_what_no_walk_finds_exists_too(toolkit: Toolkit) -> None:
    paths = {f"{kind}.{name}" for kind, names in WRITTEN_OUT.items() for name in names} | set(_NEEDED)
    assert {path for path in paths if not has(toolkit.trt, path)} == set()
    text = "".join(file.read_text(encoding="utf-8") for file in FILES)
    assert {name for names in WRITTEN_OUT.values() for name in names if f".{name}" not in text} == set()


def test_the_walk_finds_what_matters() -> None:
    """Else the variables have other names now, and nothing is tested."""
    found = {path for file in FILES for path in paths_in(file)}
    assert found >= {
        "Builder.build_serialized_network", "MemoryPoolType.WORKSPACE", "IBuilderConfig.progress_monitor",
        "IOptimizationProfile.set_shape", "OnnxParser.parse_from_file", "IProgressMonitor", "ILogger.WARNING",
        "ITimingCache.serialize", "IExecutionContext.set_input_shape", "Runtime",
    }  # fmt: skip
