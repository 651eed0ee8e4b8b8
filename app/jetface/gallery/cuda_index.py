"""The faces of a collection in a GPU's memory: each is multiplied with the query there, and the best come back.

Rows are float16, as vectors are stored. They lie in blocks that never move, each as large as all before it together, so
that a collection grows without a copy. Nothing is locked, for the reasons that `jetface.gallery.index` gives.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import onnx.parser
import structlog
from numpy.typing import NDArray

from jetface.errors import StorageError
from jetface.gallery.index import NO_FACE, Candidates, ExactIndex, Vectors, best_by_nearest
from jetface.runtimes.cuda import CudaError, Stream
from jetface.runtimes.gpu_buffers import DeviceBuffer, HostBuffer
from jetface.runtimes.onnx import open_session
from jetface.runtimes.onnx_cuda import NO_GRAPH, CudaSetup, run_options
from jetface.runtimes.providers import CPU, CudaOptions, provider_options

FIRST_ROWS = 2**16
"""Rows of the first block, and of the second: 64 MiB at 512 numbers."""
_GROUP_ROWS = 1024
"""Rows of which the best are found before the best of all: ONNX Runtime gives so many to a block of threads, and more
to one block all the same."""
_STAGED_BYTES = 2**21
_ERROR = 0.002
"""Of a query as float16, and of a product."""
_GRAPH = """
<ir_version: 8, opset_import: ["": 13]>
nearest (
    float16[N, L] rows, bool[N] is_face, float[B, L] queries, int64[1] of_group, int64[1] count
) => (float[B, K] scores, int64[B, K] places, int64[B, K] in_group)
<float none = {-2}, int64[3] groups = {0, -1, GROUP_ROWS}, int64[2] flat = {0, -1}>
{
    half = Cast <to = 10> (queries)
    products = Gemm <transB = 1> (half, rows)
    no_face = Cast <to = 10> (none)
    of_faces = Where (is_face, products, no_face)
    grouped = Reshape (of_faces, groups)
    best_of_groups, rows_of_groups = TopK (grouped, of_group)
    candidates = Reshape (best_of_groups, flat)
    rows_of_candidates = Reshape (rows_of_groups, flat)
    best, places = TopK (candidates, count)
    in_group = GatherElements <axis = 1> (rows_of_candidates, places)
    scores = Cast <to = 1> (best)
}
"""
"""The best of each group of rows, then the best of those. Memory where no face lies may hold what is no number."""
_log = structlog.get_logger("jetface.gallery")


class Scanner:
    """What the collections of a process share: the graph, opened, and what copies go through.

    One thread scans, one writes.
    """

    def __init__(self, setup: CudaSetup) -> None:
        """Open the graph.

        Args:
            setup: What all that runs on the device shares.

        Raises:
            BackendUnavailableError: The provider does not start.
            StorageError: The device has no room.
        """
        self.setup = setup
        graph = onnx.parser.parse_model(_GRAPH.replace("GROUP_ROWS", str(_GROUP_ROWS))).SerializeToString()
        with setup.gate.opening():
            try:
                self.writing, self._scanning = Stream(setup.cuda), Stream(setup.cuda)
                self.staging = HostBuffer(setup.cuda, _STAGED_BYTES, is_mapped=False)
            except CudaError as cause:
                raise StorageError("The GPU has no room for the gallery.") from cause
            cuda = CudaOptions(stream=self._scanning.handle)
            providers = [(name, provider_options(name, cuda=cuda)) for name in dict.fromkeys((setup.provider, CPU))]
            self._session = open_session(graph, providers, num_threads=1)
        self._waits = run_options(NO_GRAPH, waits=True)

    def scan(
        self, block: _Block, num_rows: int, queries: NDArray[np.float32], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return the scores of the rows most like each query, best first, and which of the block they are.

        Args:
            block: Whose rows.
            num_rows: How many of them, a multiple of `_GROUP_ROWS`.
            queries: (B, length) of unit length.
            count: <= num_rows.

        Returns:
            Both (B, count). The score of a row without a face is -2.
        """
        device, of_group = self.setup.device, min(count, _GROUP_ROWS)
        binding = self._session.io_binding()
        binding.bind_input("rows", device, 0, np.float16, [num_rows, queries.shape[1]], block.rows.address)
        binding.bind_input("is_face", device, 0, np.bool_, [num_rows], block.is_face.address)
        binding.bind_cpu_input("queries", queries)
        binding.bind_cpu_input("of_group", np.array([of_group]))
        binding.bind_cpu_input("count", np.array([count]))
        for name in ("scores", "places", "in_group"):
            binding.bind_output(name, "cpu")
        with self.setup.gate.passing():
            self._session.run_with_iobinding(binding, self._waits)
        scores, places, in_group = binding.copy_outputs_to_cpu()
        return scores, places // of_group * _GROUP_ROWS + in_group


class _Block:
    """Memory of the device; it is given back with the last that uses it."""

    def __init__(self, scanner: Scanner, start: int, num_rows: int, length: int) -> None:
        self.start = start
        self.num_rows = num_rows
        with scanner.setup.gate.opening():
            self.rows = DeviceBuffer(scanner.setup.cuda, num_rows * length * 2)
            weakref.finalize(self, self.rows.close).atexit = False
            self.is_face = DeviceBuffer(scanner.setup.cuda, num_rows)
            weakref.finalize(self, self.is_face.close).atexit = False


class CudaIndex:
    """See `jetface.gallery.index.Index`. Looks at every face."""

    def __init__(self, length: int, *, scanner: Scanner, first_rows: int = FIRST_ROWS) -> None:
        """Begin empty.

        Args:
            length: Numbers of a vector.
            scanner: What the collections of the process share.
            first_rows: Of the first block, a multiple of 1,024.
        """
        self.length = length
        self._scanner = scanner
        self._first_rows = first_rows
        self._blocks: list[_Block] = []
        self._ids = np.empty(0, np.int64)
        self._persons = np.empty(0, np.int64)
        """Of each row."""
        self._num_used = 0
        """Rows that were ever written to; those behind them are empty."""
        self._num_faces = 0
        self._rest = ExactIndex(length)
        """Has the faces for which the device has no room."""

    @property
    def error(self) -> float:
        """See `Index.error`."""
        return ExactIndex.error if len(self._rest) else _ERROR

    def __len__(self) -> int:
        """Number of faces."""
        return self._num_faces + len(self._rest)

    @property
    def num_bytes(self) -> int:
        """See `Index.num_bytes`: on the device, and of what has no room there."""
        return self._num_used * (2 * self.length + 1) + self._rest.num_bytes

    def add(self, ids: NDArray[np.int64], persons: NDArray[np.int64], vectors: Vectors) -> None:
        """See `Index.add`."""
        freed = np.flatnonzero(self._ids[: self._num_used] == NO_FACE)[: len(ids)]
        num_used = self._num_used + len(ids) - len(freed)
        try:
            while num_used > len(self._ids):
                self._grow()
        except CudaError as error:
            _log.warning(
                "the GPU has no room for faces: they are searched on the CPU", faces=len(ids), reason=str(error)
            )
            self._rest.add(ids, persons, vectors)
            return
        places = np.concatenate([freed, np.arange(self._num_used, num_used)])
        self._write(places, vectors.astype(np.float16, copy=False), is_mask=False)
        self._ids[places] = ids
        self._persons[places] = persons
        self._write(places, np.ones(len(places), np.bool_), is_mask=True)
        self._num_used = num_used  # last: from now on they are found
        self._num_faces += len(ids)

    def _grow(self) -> None:
        start = len(self._ids)
        num_rows = max(start, self._first_rows)
        block = _Block(self._scanner, start, num_rows, self.length)
        empty = np.full(num_rows, NO_FACE, np.int64)
        self._ids, self._persons = np.concatenate([self._ids, empty]), np.concatenate([self._persons, empty])
        self._blocks.append(block)
        self._write(np.arange(start, start + num_rows), np.zeros(num_rows, np.bool_), is_mask=True)
        _log.info("room for faces on the GPU", rows=start + num_rows, length=self.length)

    def _write(self, places: NDArray[np.int64], values: NDArray[Any], *, is_mask: bool) -> None:
        """Copy a value a row to the device: one copy for rows that lie together."""
        scanner, cuda = self._scanner, self._scanner.setup.cuda
        row_bytes = values.itemsize * (1 if is_mask else self.length)
        starts = [block.start for block in self._blocks]
        for begin in range(0, len(places), at_once := max(1, _STAGED_BYTES // row_bytes)):
            part = places[begin : begin + at_once]
            staged = scanner.staging.view(values[begin : begin + at_once].shape, values.dtype)
            staged[:] = values[begin : begin + at_once]
            numbers = np.searchsorted(starts, part, side="right") - 1
            firsts = np.flatnonzero((np.diff(part, prepend=-2) != 1) | (np.diff(numbers, prepend=-1) != 0))
            pieces = []
            for first, end in zip(firsts.tolist(), [*firsts[1:].tolist(), len(part)], strict=True):
                block = self._blocks[numbers[first]]
                address = (block.is_face if is_mask else block.rows).address
                offset = (int(part[first]) - block.start) * row_bytes
                pieces.append(
                    (address + offset, scanner.staging.address + first * row_bytes, (end - first) * row_bytes)
                )
            with scanner.setup.gate.passing():
                cuda.copy_pieces_to_device(pieces, scanner.writing.handle)
                scanner.writing.synchronize()

    def remove(self, ids: NDArray[np.int64]) -> None:
        """See `Index.remove`."""
        self._clear(np.isin(self._ids, ids) & (self._ids != NO_FACE))
        self._rest.remove(ids)

    def remove_person(self, person: int) -> None:
        """See `Index.remove_person`."""
        self._clear(self._persons == person)
        self._rest.remove_person(person)

    def _clear(self, is_removed: NDArray[np.bool_]) -> None:
        places = np.flatnonzero(is_removed)
        self._ids[places] = NO_FACE  # first: it is not found any more
        self._persons[places] = NO_FACE
        self._write(places, np.zeros(len(places), np.bool_), is_mask=True)
        self._write(places, np.zeros((len(places), self.length), np.float16), is_mask=False)
        self._num_faces -= len(places)

    def move_person(self, person: int, to: int) -> None:
        """See `Index.move_person`."""
        self._persons[self._persons == person] = to
        self._rest.move_person(person, to)

    def nearest(self, queries: NDArray[np.float32], count: int) -> list[Candidates]:
        """See `Index.nearest`."""
        rest = self._rest.nearest(queries, count)
        num_used = self._num_used
        queries = np.ascontiguousarray(queries)
        scores = [np.empty((len(queries), 0), np.float32)]
        places = [np.empty((len(queries), 0), np.int64)]
        for block in [block for block in self._blocks if block.start < num_used]:
            used = min(num_used - block.start, block.num_rows)
            num_rows = -(-used // _GROUP_ROWS) * _GROUP_ROWS
            found = self._scanner.scan(block, num_rows, queries, min(count, num_rows))
            scores.append(found[0])
            places.append(found[1] + block.start)
        on_device = zip(np.concatenate(scores, axis=1), np.concatenate(places, axis=1), strict=True)
        return [self._best(*found, others, count) for found, others in zip(on_device, rest, strict=True)]

    def _best(
        self, scores: NDArray[np.float32], places: NDArray[np.int64], others: Candidates, count: int
    ) -> Candidates:
        """Return the best of what was found for a query: on the device, in each block, and elsewhere."""
        ids = np.concatenate([self._ids[places], others.ids])
        persons = np.concatenate([self._persons[places], others.persons])
        scores = np.concatenate([scores, others.scores])
        order = np.argsort(-scores, kind="stable")
        kept = order[ids[order] != NO_FACE][:count]
        return Candidates(ids[kept], persons[kept], scores[kept])

    def best_of_persons(self, query: NDArray[np.float32], count: int) -> Candidates:
        """See `Index.best_of_persons`."""
        return best_by_nearest(self, query, count)
