"""What all models on ONNX Runtime's CUDA provider share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jetface.backends.audit import can_tell
from jetface.backends.cuda.gate import CaptureGate
from jetface.backends.cuda.runtime import CudaRuntime
from jetface.backends.providers import CPU, CUDA


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaSetup:
    """What all models on the CUDA provider share. Made once a process."""

    cuda: CudaRuntime
    gate: CaptureGate = field(default_factory=CaptureGate)
    memory_limit_bytes: int = 0
    """Most memory of the device for a model, its input and output buffers aside; 0: no limit."""
    audits_by_profile: bool = field(default_factory=lambda: not can_tell())
    """Whether only the profile of a run tells where nodes went; see `audit.can_tell`."""
    device: str = "cuda"
    """As ONNX Runtime calls it; `cpu` runs all but the GPU's own part of this module, for tests."""

    @property
    def provider(self) -> str:
        """Full name of the execution provider."""
        return CUDA if self.device == "cuda" else CPU


class SessionOpener(Protocol):
    """What `open_session` does."""

    def __call__(
        self,
        model: bytes | Path,
        providers: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        num_threads: int,
        profile_prefix: Path | None,
    ) -> Any:
        """Open a session."""
        ...
