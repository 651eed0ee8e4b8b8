"""Fault TensorRT, and all that differs between its versions.

The same code builds with 10.3 (JetPack 6.2), 10.16, 11.x and TensorRT for RTX; what one of them lacks is asked for
here and nowhere else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from jetface.backends.faults import Fault, explain
from jetface.backends.tensorrt.messages import Relay
from jetface.errors import BackendUnavailableError

TENSORRT = "tensorrt"
RTX = "tensorrt_rtx"

_MODULES = {TENSORRT: (TENSORRT,), RTX: (RTX, "tensorrt_rtx_bindings")}
"""Python packages of each toolkit, the first that is there; wheels of RTX may bring the second alone."""

_NEEDED = (
    "Builder.build_serialized_network",
    "ICudaEngine.device_memory_size_v2",
    "IBuilderConfig.set_memory_pool_limit",
    "IExecutionContext.execute_async_v3",
    "IProgressMonitor",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.parse_from_file",
    "Runtime.deserialize_cuda_engine",
)
"""What came last of all we use: with these a version has the rest. All of it is there from 10.1 on."""


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A TensorRT that was found, and what its version can do."""

    trt: Any
    """The Python module."""
    name: str
    """`tensorrt` or `tensorrt_rtx`."""
    keeps_timings: bool
    """Whether a timing cache has any effect; RTX times nothing while it builds."""
    relay: Relay
    """Its logger, the same for all that it does."""

    @property
    def version(self) -> str:
        """Such as `10.3.0`."""
        return str(self.trt.__version__)

    def network_flags(self) -> int:
        """Return the flags of a strongly typed network with its batch in its shapes.

        Up to 10 strong typing is asked for, and a dynamic batch was once; from 11 on both are all there is, and the
        second flag is gone.
        """
        flags = self.trt.NetworkDefinitionCreationFlag
        names = ("EXPLICIT_BATCH", "STRONGLY_TYPED")
        return sum(1 << int(getattr(flags, name)) for name in names if hasattr(flags, name))

    def adjust_for_accelerator(self, parser: Any) -> None:
        """Let a parser write layers as a deep learning accelerator takes them, where it can; 10.3 cannot."""
        flag = getattr(self.trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)
        if flag is not None:
            parser.set_flag(flag)

    def has_fast_fp16(self, builder: Any) -> bool:
        """Tell whether half precision is worth it; 11 does not say, as it runs on no GPU where it is not."""
        return bool(getattr(builder, "platform_has_fast_fp16", True))


def find_toolkit(
    *, with_rtx: bool = False, import_module: Callable[[str], ModuleType] = importlib.import_module
) -> Toolkit:
    """Import TensorRT.

    Args:
        with_rtx: Take TensorRT for RTX where there is no TensorRT. It builds on any CPU, but neither for Hopper nor
            for Orin: it is for tests.
        import_module: Imports a module by name.

    Raises:
        BackendUnavailableError: It cannot be had; `details` has `why` and `cure`.
    """
    fault: Fault | None = None
    for name in (TENSORRT, RTX) if with_rtx else (TENSORRT,):
        for module in _MODULES[name]:
            try:
                found = import_module(module)
            # A broken package raises whatever it likes: ImportError, OSError, AttributeError, ...
            except Exception as cause:  # noqa: BLE001 - every failure is told, with its reason
                fault = fault or explain(str(cause), what="TensorRT cannot be imported")
                continue
            _check(found, name)
            return Toolkit(found, name, keeps_timings=name == TENSORRT, relay=Relay(found))
    raise unavailable(fault or explain("", what="TensorRT cannot be imported"))


def unavailable(fault: Fault) -> BackendUnavailableError:
    """Return the error that says what was found."""
    return BackendUnavailableError(fault.sentence, what=fault.what, why=fault.why, cure=fault.cure)


def _check(module: Any, name: str) -> None:
    missing = next((path for path in _NEEDED if not _has(module, path)), None)
    if missing:
        version = getattr(module, "__version__", "of no version")
        raise unavailable(
            Fault(
                "TensorRT cannot be used",
                f"{name} {version} has no {missing}",
                "Install 10.1 or later: JetPack 6.2 has 10.3.",
            )
        )


def _has(module: Any, path: str) -> bool:
    for name in path.split("."):
        if not hasattr(module, name):
            return False
        module = getattr(module, name)
    return True
