"""Loading: file, prepared graph, backends, a probe run, and the queue in front of it all."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from app.backends.protocol import Backend
from app.backends.providers import runtime_version
from app.backends.selection import Opener
from app.batching.batcher import Batcher
from app.batching.lane import Lane
from app.batching.observer import MetricsObserver
from app.metrics import Metrics
from app.models.families import FAMILIES
from app.models.files import WeightsFolder
from app.models.graph import PreparedGraph, prepare_graph
from app.models.lanes import RunCounter, make_cpu_lanes, make_lanes
from app.models.loaded import LoadedModel
from app.models.prepared import PreparedFiles
from app.models.rewrite import choose_rewrites
from app.models.scrfd import DetectorItem
from app.specs import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """How models are run here."""

    num_cores: int
    """Lanes of a model on the CPU, and threads of a run that has the CPU to itself."""
    det_batch_size: int
    rec_batch_size: int
    max_waiting: int
    """Most items in the queue of one model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A model before its queue: made on the loader's thread."""

    lanes: Sequence[Lane[Any, Any]]
    max_batch: int
    probe_items: Sequence[Any]
    input_hw: tuple[int, int] | None


class ModelLoader:
    """Turns registry entries into models that serve. Loads one at a time, on a thread of its own."""

    def __init__(self, weights: WeightsFolder, opener: Opener, options: LoadOptions, metrics: Metrics) -> None:
        self._weights = weights
        self._opener = opener
        self._options = options
        self._metrics = metrics
        self._prepared = PreparedFiles(weights.folder / "prepared")
        self._counter = RunCounter()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")

    async def load(self, spec: ModelSpec) -> LoadedModel[Any, Any]:
        """Load one model: find or download its weights, prepare and open the graph, run it once.

        Raises:
            ModelFileError: The weights cannot be had or read.
            ModelContractError: The graph is not what the entry says.
            BackendError: The backend did not open the graph, or the probe run failed.
        """
        opened = await asyncio.get_running_loop().run_in_executor(self._thread, self._open, spec)
        batcher: Batcher[Any, Any] = Batcher(
            spec.name,
            opened.lanes,
            max_batch=opened.max_batch,
            max_waiting=self._options.max_waiting,
            key=_canvas_hw,
            observer=MetricsObserver(self._metrics, spec.name),
            probe_items=opened.probe_items,
        )
        self._metrics.watch(self._metrics.queue_length.labels(spec.name), lambda: batcher.waiting)
        self._metrics.watch(self._metrics.oldest_run.labels(spec.name), batcher.oldest_run_s)
        return LoadedModel(spec=spec, backend=self._opener.name, batcher=batcher, input_hw=opened.input_hw)

    def close(self) -> None:
        """Take no more work; a load under way ends in its own time."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _open(self, spec: ModelSpec) -> _Opened:
        graph = prepare_graph(
            self._weights.locate(spec),
            spec,
            rewrites=choose_rewrites(self._opener.provider, runtime_version()),
            cache=self._prepared,
        )
        max_batch = self._max_batch(spec, graph)
        num_lanes = self._options.num_cores if self._opener.is_on_cpu else 1
        backends = self._opener.open(graph.model, num_lanes=num_lanes, max_batch_size=max_batch)
        probed = FAMILIES[spec.family](spec, backends[0], graph.input_hw)
        return _Opened(
            lanes=self._lanes(probed.head, graph, backends, max_batch),
            max_batch=max_batch,
            probe_items=[probed.probe_item],
            input_hw=graph.input_hw,
        )

    def _max_batch(self, spec: ModelSpec, graph: PreparedGraph) -> int:
        # On a CPU a batch takes as long as its items one by one, and keeps the other cores waiting for its last item.
        if self._opener.is_on_cpu or not graph.is_batch_free:
            return 1
        return self._options.det_batch_size if spec.task == "detection" else self._options.rec_batch_size

    def _lanes(
        self, head: Any, graph: PreparedGraph, backends: Sequence[Backend], max_batch: int
    ) -> list[Lane[Any, Any]]:
        num_cores = self._options.num_cores
        if not self._opener.is_on_cpu or num_cores == 1:
            return make_lanes(head, backends)
        (wide,) = self._opener.open(graph.model, num_lanes=1, max_batch_size=max_batch, num_threads=num_cores)
        return make_cpu_lanes(head, backends, wide, self._counter)


def _canvas_hw(item: Any) -> Hashable:
    """What items may share a run: canvases of one size; crops all have the same."""
    return item.canvas.shape if isinstance(item, DetectorItem) else None
