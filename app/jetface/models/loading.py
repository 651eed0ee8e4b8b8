"""Loading: file, prepared graph, backends, a probe run, and the queue in front of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import structlog

from jetface.atomic import sweep_parts
from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.device.limits import MemoryGuard
from jetface.device.machine import cpu_model
from jetface.errors import ModelStuckError, ServiceError
from jetface.graphs.parts import num_bytes
from jetface.graphs.prepare import PreparedFiles, PreparedGraph, prepare_graph
from jetface.graphs.rewrite import choose_rewrites
from jetface.heads.canvases import item_key
from jetface.heads.families import FAMILIES
from jetface.heads.lanes import RunCounter, make_cpu_lanes, make_lanes
from jetface.metrics import Metrics
from jetface.models.download import DEADLINE_S
from jetface.models.items import ItemMemory
from jetface.models.loaded import LoadedModel, LoadProgress
from jetface.models.precision import Precisions
from jetface.models.race import LEAST_GAIN, LEAST_GAIN_OF_FREE_CANVAS, Verdicts, fastest, make_blob, measure_ms
from jetface.models.weights import WeightsFolder
from jetface.registry import ModelSpec
from jetface.runtimes.backend import Backend, warm
from jetface.runtimes.choose import Opener, Selection
from jetface.runtimes.onnx_cuda import OnnxCudaBackend
from jetface.runtimes.providers import runtime_version
from jetface.threads import SlowWork

_log = structlog.get_logger(__name__)

_LOAD_BYTES_PER_FILE_BYTE = 5
"""What loading takes at its most, by the size of the weights: measured on the CPU, see docs/operate.md, "Memory"."""

_RACE_CANVAS_HW = (320, 320)
"""On what backends are compared for a detector of free canvas: a quarter of the default's pixels, as their ratio is
the same there."""


_MOST_DOWNLOADS = 4
"""Downloads at a time: as many models as a service usually has."""

_CHECK_TIMEOUT_S = 600.0
"""Longest time the hashing of a file may take: 2 GiB at 4 MB/s, from a network."""


class WeightsSupply:
    """Gets weights for models, off the event loop: a download holds up no model whose file is here already."""

    def __init__(self, weights: WeightsFolder) -> None:
        self._weights = weights
        self._checks = SlowWork("checking", most=2, timeout_s=_CHECK_TIMEOUT_S)
        # A download waits for another process's, and then has as long itself.
        self._downloads = SlowWork("download", most=_MOST_DOWNLOADS, timeout_s=2 * DEADLINE_S + 60)

    async def locate(self, spec: ModelSpec, progress: LoadProgress) -> Path:
        """Return the verified file of a model, downloading it if need be; errors as `WeightsFolder.locate`."""
        progress.enter("waiting")
        path = await self._checks.call(
            partial(self._weights.find, spec), model=spec.name, begun=partial(progress.enter, "checking")
        )
        if path is not None:
            return path
        progress.enter("waiting")
        return await self._downloads.call(
            partial(self._weights.fetch, spec, progress.note_bytes),
            model=spec.name,
            begun=partial(progress.enter, "downloading"),
        )

    def close(self) -> None:
        """Begin nothing more."""
        self._checks.close()
        self._downloads.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How models are run here."""

    num_cores: int
    """Lanes of a model on the CPU, and threads of a run that has the CPU to itself."""
    det_batch_size: int
    rec_batch_size: int
    max_waiting: int
    """Most items in the queue of one model."""
    canvases_hw: tuple[tuple[int, int], ...] = ()
    """Canvases a detector on a GPU will see, where its graph takes any; it is warmed for these."""
    most_canvases: int = 64
    """Canvases of a detector on a GPU that are made at a time: as many are pinned."""
    precisions: Precisions = field(default_factory=Precisions)
    load_timeout_s: float = 900.0
    """Longest opening of a model, its download aside; one that takes longer hangs."""


_Way: TypeAlias = tuple[Opener, Path, bool]
"""What opens a model, its file, and whether that is quantized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Runner:
    """A graph opened one way, one backend a lane."""

    opener: Opener
    is_int8: bool
    graph: PreparedGraph
    max_batch: int
    backends: Sequence[Backend]

    @property
    def name(self) -> str:
        """That of the opener, and the precision where the graph is quantized."""
        return _name(self.opener, is_int8=self.is_int8)

    def close(self) -> None:
        for backend in self.backends:
            backend.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A model before its queue: made on the loader's thread."""

    backend: str
    """Name of the opener."""
    lanes: Sequence[Lane[Any, Any]]
    max_batch: int
    probe_items: Sequence[Any]
    input_hw: tuple[int, int] | None
    is_batch_free: bool
    sha256: str
    cpu_nodes: tuple[str, ...]
    items: ItemMemory
    num_shared: Callable[[], int]
    """See `GpuBackend`."""


class ModelLoader:
    """Turns registry entries into models that serve.

    Files are checked and downloaded beside each other, graphs are opened one at a time: that takes all cores, and its
    memory is asked for beforehand.
    """

    def __init__(
        self,
        weights: WeightsFolder,
        selection: Selection,
        options: LoadOptions,
        metrics: Metrics,
        memory: MemoryGuard | None = None,
    ) -> None:
        self._supply = WeightsSupply(weights)
        self._folder = weights.folder
        self._selection = selection
        self._options = options
        self._metrics = metrics
        self._memory = memory or MemoryGuard(floor_bytes=0)
        self._prepared = PreparedFiles(weights.folder / "prepared")
        self._verdicts = Verdicts(weights.folder / "prepared")
        self._counter = RunCounter()
        self._opening = SlowWork("opening", most=1, timeout_s=options.load_timeout_s)

    async def load(self, spec: ModelSpec, progress: LoadProgress | None = None) -> LoadedModel[Any, Any]:
        """Load one model: find or download its weights, prepare and open the graph, run it once.

        Args:
            spec: Its registry entry.
            progress: Where it is told how far the load is.

        Raises:
            ModelFileError: The weights cannot be had or read.
            MemoryPressureError: Too little memory would stay free.
            ModelContractError: The graph is not what the entry says.
            BackendError: The backend did not open the graph, or the probe run failed.
            ModelStuckError: Opening it hangs.
        """
        progress = progress or LoadProgress()
        path = await self._supply.locate(spec, progress)
        progress.enter("waiting")
        opened = await self._opening.call(
            partial(self._open, spec, path), model=spec.name, begun=partial(progress.enter, "opening")
        )
        batcher: Batcher[Any, Any] = Batcher(
            spec.name,
            opened.lanes,
            max_batch=opened.max_batch,
            max_waiting=self._options.max_waiting,
            key=item_key,
            metrics=self._metrics,
            probe_items=opened.probe_items,
        )
        if any(lane.start for lane in opened.lanes):
            progress.enter("warming")
            try:
                await started_in_time(batcher, self._options.load_timeout_s)
            except BaseException:
                opened.items.close()
                raise
        watch_model(self._metrics, spec.name, batcher, opened.items)
        self._metrics.watch(self._metrics.shared_buckets.labels(spec.name), opened.num_shared)
        return LoadedModel(
            spec=spec, backend=opened.backend, batcher=batcher, input_hw=opened.input_hw,
            is_batch_free=opened.is_batch_free, sha256=opened.sha256, cpu_nodes=opened.cpu_nodes, items=opened.items,
        )  # fmt: skip

    def close(self) -> None:
        """Take no more work; a load under way ends in its own time."""
        self._supply.close()
        self._opening.close()

    def _open(self, spec: ModelSpec, path: Path) -> _Opened:
        num_swept = sum(map(sweep_parts, (path.parent, *self._prepared.folders)))
        if num_swept:
            _log.info("files that killed processes left were removed", num_files=num_swept)
        need_bytes = _LOAD_BYTES_PER_FILE_BYTE * num_bytes(path)
        self._memory.require(need_bytes, work="load", subject=f"model {spec.name}")
        precisions = self._options.precisions
        wanted = precisions.wanted(spec)
        quantized = precisions.quantized(spec, path, self._folder)
        openers = self._selection.candidates(keeps_bf16=spec.keeps_bf16 and wanted != "fp32")
        ways = [] if wanted == "int8" else [(opener, path, False) for opener in openers]
        if quantized is not None:
            # On a GPU ONNX Runtime gains nothing by it: there INT8 is for engines, unless it is asked for by name.
            ways += [(opener, quantized, True) for opener in openers if opener.is_on_cpu or wanted == "int8"]
        runner = self._start(*ways[0], spec) if len(ways) == 1 else self._fastest(ways, spec)
        first = runner.backends[0]
        items = ItemMemory(self._options.most_canvases)
        probed = FAMILIES[spec.family].probe(spec, first, runner.graph.input_hw, takes_pixels=runner.graph.takes_pixels)
        lanes = self._lanes(probed.head, runner, spec)
        if spec.is_detector and runner.graph.takes_pixels:
            items.pin(spec.name, first, self._item_shapes(runner.graph, spec))
        return _Opened(
            backend=runner.name,
            lanes=lanes,
            max_batch=runner.max_batch,
            probe_items=[probed.probe_item],
            input_hw=runner.graph.input_hw,
            is_batch_free=runner.graph.is_batch_free,
            sha256=runner.graph.source_sha256,
            cpu_nodes=first.cpu_nodes if isinstance(first, OnnxCudaBackend) else (),
            items=items,
            num_shared=lambda: first.num_shared if isinstance(first, OnnxCudaBackend) else 0,
        )

    def _fastest(self, ways: Sequence[_Way], spec: ModelSpec) -> _Runner:
        """Return the fastest of several ways to run a model: whoever won before under the same conditions, or wins now.

        Raises:
            ServiceError: The first cannot run it.
        """
        names = [f"{_name(opener, is_int8=is_int8)} {opener.version}" for opener, _, is_int8 in ways]
        entrants = [cpu_model() or "unknown CPU", f"{self._options.num_cores} cores", *names]
        files = [_facts_of_file(path) for _, path, _ in ways]
        won = self._verdicts.recall(spec.name, entrants, files)
        for way in (way for way in ways if _name(way[0], is_int8=way[2]) == won):
            try:
                runner = self._start(*way, spec)
            except ServiceError as error:
                _log.warning("backend that won before fails", model=spec.name, backend=won, reason=error.message)
                break
            _log.info("backend chosen", model=spec.name, backend=won, by="an earlier race")
            return runner
        runner, is_complete = self._start(*ways[0], spec), True
        for way in ways[1:]:
            faster = self._faster(runner, *way, spec)
            runner, is_complete = faster or runner, is_complete and faster is not None
        # Whoever could not take part may next time.
        if is_complete:
            self._verdicts.keep(spec.name, entrants, files, runner.name)
        return runner

    def _start(self, opener: Opener, path: Path, is_int8: bool, spec: ModelSpec) -> _Runner:
        graph = prepare_graph(
            path,
            spec,
            rewrites=choose_rewrites(opener.provider, runtime_version()),
            pixels=not opener.is_on_cpu,
            cache=self._prepared,
        )
        max_batch = self._max_batch(opener, spec, graph)
        num_lanes = self._options.num_cores if opener.is_on_cpu else 1
        backends = opener.open(graph.model, num_lanes=num_lanes, max_batch_size=max_batch)
        return _Runner(opener=opener, is_int8=is_int8, graph=graph, max_batch=max_batch, backends=backends)

    def _faster(self, holder: _Runner, opener: Opener, path: Path, is_int8: bool, spec: ModelSpec) -> _Runner | None:
        """Return the faster of two ways to run a model, both open for the comparison, the other one closed.

        None where the second one cannot run it.
        """
        name = _name(opener, is_int8=is_int8)
        try:
            challenger = self._start(opener, path, is_int8, spec)
        except ServiceError as error:
            _log.warning("backend is left out", model=spec.name, backend=name, reason=error.message)
            return None
        runners = {runner.name: runner for runner in (holder, challenger)}
        blob = make_blob(holder.graph.input_hw or _RACE_CANVAS_HW)
        try:
            times_ms = measure_ms({name: runner.backends[0] for name, runner in runners.items()}, blob)
        except ServiceError as error:
            _log.warning("backend is left out", model=spec.name, backend=name, reason=error.message)
            challenger.close()
            return None
        chosen = fastest(times_ms, least_gain=LEAST_GAIN if holder.graph.input_hw else LEAST_GAIN_OF_FREE_CANVAS)
        _log.info(
            "backend chosen", model=spec.name, backend=chosen,
            run_ms={name: round(time_ms, 2) for name, time_ms in times_ms.items()},
        )  # fmt: skip
        for name, runner in runners.items():
            if name != chosen:
                runner.close()
        return runners[chosen]

    def _max_batch(self, opener: Opener, spec: ModelSpec, graph: PreparedGraph) -> int:
        # On a CPU a batch takes as long as its items one by one, and keeps the other cores waiting for its last item.
        if opener.is_on_cpu or not graph.is_batch_free:
            return 1
        return self._options.det_batch_size if spec.is_detector else self._options.rec_batch_size

    def _lanes(self, head: Any, runner: _Runner, spec: ModelSpec) -> list[Lane[Any, Any]]:
        num_cores = self._options.num_cores
        if not runner.opener.is_on_cpu:
            return make_lanes(head, runner.backends, warm=self._warming(runner.graph, spec))
        if num_cores == 1:
            return make_lanes(head, runner.backends)
        (wide,) = runner.opener.open(
            runner.graph.model, num_lanes=1, max_batch_size=runner.max_batch, num_threads=num_cores
        )
        return make_cpu_lanes(head, runner.backends, wide, self._counter)

    def _warming(self, graph: PreparedGraph, spec: ModelSpec) -> Callable[[Backend], None]:
        """Return what warms a backend for the shapes that will come."""
        shapes = self._item_shapes(graph, spec)
        return partial(warm, item_shapes=shapes, dtype=np.uint8 if graph.takes_pixels else np.float32, num_runs=2)

    def _item_shapes(self, graph: PreparedGraph, spec: ModelSpec) -> list[tuple[int, ...]]:
        fixed_hw = graph.input_hw or (spec.input.height_px, spec.input.width_px)
        sizes_hw = (fixed_hw,) if all(fixed_hw) else self._options.canvases_hw
        return [(*size_hw, 3) if graph.takes_pixels else (3, *size_hw) for size_hw in sizes_hw]


def _name(opener: Opener, *, is_int8: bool) -> str:
    return f"{opener.name}-int8" if is_int8 else opener.name


def _facts_of_file(path: Path) -> str:
    """Tell a file from what it is when it has been replaced."""
    stat = path.stat()
    return f"{path.name}, {stat.st_size}, {stat.st_mtime_ns}"


async def started_in_time(batcher: Batcher[Any, Any], timeout_s: float) -> None:
    """Start a batcher's lanes, or close it.

    Raises:
        ModelStuckError: They take longer than `timeout_s`: their device hangs.
    """
    try:
        await asyncio.wait_for(batcher.start(), timeout_s)
    except asyncio.TimeoutError:
        await batcher.close(drain=False, grace_s=0)
        raise ModelStuckError(f"Warming model {batcher.name} has taken more than {timeout_s:g} s and hangs.") from None
    except BaseException:
        await batcher.close(drain=False)
        raise


def watch_model(metrics: Metrics, name: str, batcher: Batcher[Any, Any], items: ItemMemory) -> None:
    """Let the gauges of a model be read from it at each scrape."""
    metrics.watch(metrics.queue_length.labels(name), lambda: batcher.waiting)
    metrics.watch(metrics.oldest_run.labels(name), batcher.oldest_run_s)
    metrics.watch(metrics.pinned_bytes.labels(name), lambda: items.num_bytes)
