"""Answers that are given again: an identical picture, identical options, the same caller, the same models."""

from __future__ import annotations

import hashlib
import pickle
from collections import OrderedDict
from collections.abc import Callable, Hashable

import structlog

from jetface.domain import PictureResult
from jetface.imaging.loader import PictureLoader
from jetface.metrics import Metrics
from jetface.models.store import ModelStore
from jetface.pipeline.pictures import PictureJob, Recall, Work, WorkPool

_log = structlog.get_logger(__name__)

ENTRY_BYTES = 512
"""What an answer takes beside its own bytes: key, options and their places in the table. An estimate, above what was
measured."""

_SHORT_BYTES = 2**18
"""Hashed where it is: less than a hop to another thread takes."""


class ResultCache:
    """Keeps answers within so many bytes; the one that was asked for longest ago makes way. Belongs to the event loop.

    Answers are kept as bytes of pickle: their length is what they take, nothing of other requests' arrays stays alive
    behind a view, and each caller gets a copy. All go with any change of a model.
    """

    def __init__(
        self, capacity_bytes: int, *, loader: PictureLoader, pool: WorkPool, store: ModelStore, metrics: Metrics
    ) -> None:
        self._capacity_bytes = capacity_bytes
        self._loader = loader
        self._pool = pool
        self._store = store
        self._metrics = metrics
        self._answers: OrderedDict[Hashable, bytes] = OrderedDict()
        self._num_bytes = 0
        self._generation = store.generation
        metrics.watch(metrics.result_cache_bytes, lambda: self._num_bytes)

    def asked(self, whose: str | None, question: Callable[[int], Hashable]) -> Recall | None:
        """Return what answers the pictures of one request; None where nothing is to be remembered.

        Args:
            whose: Who asks; None: nobody whose answers are kept.
            question: Returns, by a picture's place in the request, what is asked of it: all that decides the answer
                but its bytes and the models.
        """
        if whose is None:
            return None
        return lambda job, work: self.answer(job, work, (whose, question(job.index)))

    async def answer(self, job: PictureJob, work: Work, question: Hashable) -> PictureResult:
        """Return what came of a picture: from memory, or by `work`, whose answer is kept unless it is an error.

        A picture is known by its bytes, wherever they come from: one that lies elsewhere is fetched, each time.

        Args:
            job: The picture.
            work: What is done with it.
            question: All else that decides the answer, but for the models: who asks, and what.
        """
        async with self._loader.fetched(job.source, deadline=job.deadline) as source:
            data = source.data
            digest = _digest(data) if len(data) <= _SHORT_BYTES else await self._pool.run(_digest, data)
            key = (question, digest)
            if (kept := self._find(key)) is not None:
                self._metrics.result_cache.labels("hit").inc()
                _log.debug("answered from memory", picture=job.index)
                return job.recalled(kept)
            generation = self._generation
            original, job.source = job.source, source
            try:
                result = await work(job)
            finally:
                job.source = original
        self._metrics.result_cache.labels("miss").inc()
        if result.error is None and generation == self._store.generation:
            self._keep(key, pickle.dumps(result, protocol=pickle.HIGHEST_PROTOCOL))
        return result

    def _find(self, key: Hashable) -> PictureResult | None:
        if self._generation != self._store.generation:
            self._answers.clear()
            self._num_bytes = 0
            self._generation = self._store.generation
        if key not in self._answers:
            return None
        self._answers.move_to_end(key)
        kept: PictureResult = pickle.loads(self._answers[key])  # noqa: S301 - written by this process, never out of it
        return kept

    def _keep(self, key: Hashable, answer: bytes) -> None:
        cost_bytes = len(answer) + ENTRY_BYTES
        if key in self._answers or cost_bytes > self._capacity_bytes:
            return
        self._answers[key] = answer
        self._num_bytes += cost_bytes
        while self._num_bytes > self._capacity_bytes:
            _, oldest = self._answers.popitem(last=False)
            self._num_bytes -= len(oldest) + ENTRY_BYTES


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
