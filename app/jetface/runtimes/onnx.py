"""ONNX Runtime behind the `Backend` protocol.

`onnxruntime` is imported when the first session is opened and not before: on a Jetson with cores switched off, versions
before 1.27 write out of bounds while they load.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jetface.device.faults import why_not_opened
from jetface.domain import Batch, Tensor
from jetface.errors import BackendUnavailableError, InferenceError, ModelFileError
from jetface.runtimes.backend import run_within_memory, stacked
from jetface.runtimes.providers import CPU, CudaOptions, TensorrtOptions, provider_options

_RECORD_ENTRY = ("session.record_ep_graph_assignment_info", "1")
"""Session configuration that lets a session tell which nodes went to which provider, from ONNX Runtime 1.24 on."""

_ERRORS_ONLY = 3
"""ONNX Runtime's log severity: what it warns of is checked when a graph is prepared, or said by us."""


def open_onnx_backends(
    model: bytes | Path,
    *,
    providers: Sequence[str] = (CPU,),
    num_lanes: int = 1,
    max_batch_size: int = 1,
    num_threads: int = 1,
    tensorrt: TensorrtOptions | None = None,
    cuda: CudaOptions | None = None,
) -> list[OnnxRuntimeBackend]:
    """Open a model once and return a backend for each of `num_lanes` threads; they share the session.

    Args:
        model: A prepared graph, serialized or in a file.
        providers: Execution providers in order, full names.
        num_lanes: Threads that will run the model at the same time.
        max_batch_size: Most items per run; 1 where the graph's batch is not free.
        num_threads: Cores one run uses. 1 gives the most runs per second when there are lanes for every core.
        tensorrt: For the TensorRT provider, where it is one of `providers`.
        cuda: For the CUDA provider, where it is one of `providers`.

    Raises:
        ModelFileError: ONNX Runtime cannot read the model.
        BackendUnavailableError: A provider that was asked for did not start.
    """
    options = [(name, provider_options(name, tensorrt=tensorrt, cuda=cuda)) for name in providers]
    opened = partial(open_session, model, options, num_threads=num_threads)
    session = opened()
    # On a CPU there is nothing to give back: the memory is the process's.
    reopen = None if providers[0] == CPU else opened
    return [OnnxRuntimeBackend(session, max_batch_size=max_batch_size, reopen=reopen) for _ in range(num_lanes)]


class OnnxRuntimeBackend:
    """One lane of a session. One thread owns it; the session itself may be shared by several."""

    def __init__(self, session: Any, *, max_batch_size: int, reopen: Callable[[], Any] | None = None) -> None:
        """Wrap an open `onnxruntime.InferenceSession` with one input.

        Args:
            session: To be run.
            max_batch_size: Most items per run.
            reopen: Opens another one like it, where the device has run out of memory; None keeps this one.
        """
        self._session: Any | None = session
        self._reopen = reopen
        self._is_closed = False
        self._input_name: str = session.get_inputs()[0].name
        self.max_batch_size = max_batch_size
        """Most items one run takes."""
        self.provider: str = session.get_providers()[0]

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph once, as `Backend.run` says; in halves where the device's memory does not suffice."""
        return run_within_memory(self._run, batch, reopen=self._let_go)

    def _run(self, batch: Batch) -> tuple[Tensor, ...]:
        if self._session is None and self._reopen is not None and not self._is_closed:
            self._session = self._reopen()
        if self._session is None:
            raise InferenceError("The model is closed.")
        if not 1 <= len(batch) <= self.max_batch_size:
            raise InferenceError(f"A run takes 1 to {self.max_batch_size} items, not {len(batch)}.")
        values = stacked(batch)
        try:
            outputs = self._session.run(None, {self._input_name: values})
        # The exception classes of ONNX Runtime derive from Exception alone, and importing them here would load it.
        except Exception as cause:
            raise InferenceError("The model could not be run.") from cause
        return tuple(np.ascontiguousarray(output, np.float32) for output in outputs)

    def close(self) -> None:
        """Let go of the session; the last lane to do so frees its memory."""
        self._session = None
        self._is_closed = True

    def _let_go(self) -> None:
        if self._reopen is not None:
            self._session = None


def open_session(
    model: bytes | Path,
    providers: Sequence[tuple[str, Mapping[str, Any]]],
    *,
    num_threads: int,
    profile_prefix: Path | None = None,
) -> Any:
    """Open an `onnxruntime.InferenceSession` that is quiet, keeps no memory for shapes gone by and lets cores rest.

    Args:
        model: A prepared graph, serialized or in a file.
        providers: Full names and options, in order; the first must start.
        num_threads: Cores one run uses.
        profile_prefix: Where a profile is written until `end_profiling`; None writes none.

    Raises:
        ModelFileError: ONNX Runtime cannot read the model.
        BackendUnavailableError: The first provider did not start.
    """
    import onnxruntime  # noqa: PLC0415 - see the module's docstring

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Patterns are kept for every shape seen: memory that only grows where pictures vary.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(*_RECORD_ENTRY)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    source = str(model) if isinstance(model, Path) else model
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=[(name, dict(values)) for name, values in providers]
        )
    except Exception as cause:
        raise ModelFileError(f"ONNX Runtime cannot open the model{why_not_opened(str(cause))}") from cause
    # A provider that fails to start is left out with a line on stderr; that must not pass for success.
    started, wanted = session.get_providers(), providers[0][0]
    if started[0] != wanted:
        raise BackendUnavailableError(f"{wanted} did not start; only {', '.join(started)} did.")
    return session
