"""Buffers of one shape, bound to a session of ONNX Runtime."""

from __future__ import annotations

import threading
from typing import Any, TypeAlias

import numpy as np
import structlog

from jetface.backends.cuda.gate import CaptureGate
from jetface.backends.cuda.inputs import InputBuffer
from jetface.backends.cuda.outputs import OutputBuffers
from jetface.backends.cuda.runtime import CudaRuntime
from jetface.backends.cuda.streams import Stream
from jetface.domain import Batch, Tensor

_log = structlog.get_logger(__name__)

Shape: TypeAlias = tuple[int, ...]

NO_GRAPH = "-1"
"""Number of a CUDA graph that is neither captured nor launched."""

ONLY_GRAPH = "1"
"""Number of the CUDA graph of a session that serves one shape."""

DTYPES = {"tensor(float)": "float32", "tensor(uint8)": "uint8", "tensor(float16)": "float16"}
"""ONNX Runtime's names of element types, as NumPy's."""

_PATIENCE_S = 30.0
"""How long the first capture of a shape waits while others plan theirs. cuDNN plans a shape for seconds (3 s for
det_500m on an H200), and anew whenever the shape changes, unless it was captured: serving without is no option."""

_LONGEST_HOLD_UP_S = 0.05
"""How long other models' runs are held up for a capture that waits for its turn; else it is tried the next time."""


class BoundBucket:
    """Input and outputs of one shape at fixed addresses, and the number of the CUDA graph that works on them.

    The first run allocates, the second captures, those after that only copy and launch. One thread.
    """

    def __init__(
        self,
        session: Any,
        shape: Shape,
        dtype: np.dtype[Any],
        *,
        device: str,
        cuda: CudaRuntime,
        stream: Stream,
        gate: CaptureGate,
        graph: str,
    ) -> None:
        """Allocate the input and bind it.

        Args:
            session: An open `onnxruntime.InferenceSession` with one input, of nobody else; it works on `stream`.
            shape: Of the input.
            dtype: Of the input.
            device: As ONNX Runtime calls it.
            cuda: Where buffers are made.
            stream: What copies go to.
            gate: Shared by all sessions of the process.
            graph: Number of the CUDA graph, or `NO_GRAPH`.
        """
        self._session = session
        self._device, self._cuda, self._stream, self._gate = device, cuda, stream, gate
        self._is_integrated = cuda.properties().is_integrated
        self._graph = graph
        self._captured_on: set[int] = set()
        self._patience_s = _PATIENCE_S
        self._without_graph, self._with_graph = run_options(NO_GRAPH), run_options(graph)
        self._bucket = shape[0]
        self._input = InputBuffer(cuda, shape, dtype, is_integrated=self._is_integrated)
        self._outputs: OutputBuffers | None = None
        self._binding = session.io_binding()
        self._binding.bind_input(session.get_inputs()[0].name, device, 0, dtype.type, list(shape), self._input.address)

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph on a batch that fits, up to as many rows as the shape has.

        Returns:
            The outputs, valid until the next run or `close`.

        Raises:
            CudaError: CUDA failed. ONNX Runtime raises errors of its own, which derive from Exception alone.
        """
        if self._outputs is None:
            with self._gate.opening():
                self._outputs = self._learn(batch)
                return self._bound_run(batch, self._without_graph, self._outputs)
        # ONNX Runtime keeps what a thread captured for that thread alone, and captures anew in each other one.
        thread = threading.get_ident()
        if self._graph == NO_GRAPH or thread in self._captured_on:
            with self._gate.passing():
                return self._bound_run(batch, self._with_graph, self._outputs)
        patience_s, self._patience_s = self._patience_s, 0.0
        with self._gate.alone(wait_s=_LONGEST_HOLD_UP_S, patience_s=patience_s) as is_alone:
            if is_alone:
                answers = self._capturing_run(batch, self._outputs)
            else:
                answers = self._bound_run(batch, self._without_graph, self._outputs)
        if is_alone:
            self._captured_on.add(thread)
        elif patience_s:
            _log.warning("shape runs without its CUDA graph until others pause", shape=self._input.shape)
        return answers

    def close(self) -> None:
        """Free the buffers; a second call does nothing."""
        with self._gate.passing():
            self._binding = self._session = None
            self._input.close()
            if self._outputs is not None:
                self._outputs.close()

    def _learn(self, batch: Batch) -> OutputBuffers:
        """Let ONNX Runtime allocate the outputs once, to learn their shapes; bind buffers of our own in their place."""
        names = [value.name for value in self._session.get_outputs()]
        for name in names:
            self._binding.bind_output(name, self._device, 0)
        self._input.upload(batch, self._stream)
        self._session.run_with_iobinding(self._binding, self._without_graph)
        self._stream.synchronize()
        found = [(tuple(value.shape()), np.dtype(DTYPES[value.data_type()])) for value in self._binding.get_outputs()]
        outputs = OutputBuffers(self._cuda, found, self._bucket, is_integrated=self._is_integrated)
        try:
            for name, (shape, dtype), address in zip(names, found, outputs.addresses, strict=True):
                self._binding.bind_output(name, self._device, 0, dtype.type, list(shape), address)
        except BaseException:
            outputs.close()
            raise
        return outputs

    def _capturing_run(self, batch: Batch, outputs: OutputBuffers) -> tuple[Tensor, ...]:
        try:
            return self._bound_run(batch, self._with_graph, outputs)
        except Exception as error:  # noqa: BLE001 - ONNX Runtime's classes have no other base
            # If it was not the capture that failed, this run fails too, and the caller learns of it.
            self._graph, self._with_graph = NO_GRAPH, self._without_graph
            answers = self._bound_run(batch, self._without_graph, outputs)
            _log.warning("shape runs without a CUDA graph", shape=self._input.shape, reason=str(error))
            return answers

    def _bound_run(self, batch: Batch, options: Any, outputs: OutputBuffers) -> tuple[Tensor, ...]:
        num_items = len(batch)
        self._input.upload(batch, self._stream)
        self._session.run_with_iobinding(self._binding, options)
        outputs.fetch(num_items, self._stream)
        self._stream.synchronize()
        return outputs.answers(num_items)


def run_options(graph: str, *, waits: bool = False) -> Any:
    """Return `onnxruntime.RunOptions`.

    Args:
        graph: Number of a CUDA graph, or `NO_GRAPH`.
        waits: Whether a run ends when the device has done it; else when all of it is queued.
    """
    import onnxruntime  # noqa: PLC0415 - it is slow to load, and on some devices must never be

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", graph)
    if not waits:
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options
