"""A gallery on this machine's disk: a file that is the truth, and an index in memory that every search goes through."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import filelock
import numpy as np
import structlog

from jetface.batching.batcher import Batcher
from jetface.batching.lane import Lane
from jetface.device.checks import is_writable
from jetface.domain import Vector
from jetface.errors import DeadlineExceededError, NotFoundError, ServiceError, StorageError
from jetface.gallery.index import ExactIndex, Index
from jetface.gallery.protocol import NO_DEADLINE
from jetface.gallery.records import (
    Collection,
    Exported,
    Match,
    ModelPin,
    NewFace,
    NewPerson,
    Page,
    Person,
    Query,
    StoredFace,
    check_metadata,
    place_of,
)
from jetface.gallery.search import Answer, Asked, Searcher
from jetface.gallery.store import FILE_NAME, Store
from jetface.metrics import Metrics
from jetface.threads import Threads

LOCK_NAME = ".gallery.lock"
QUERIES_AT_ONCE = 16
"""Queries of a scan: a million faces then cost each of them 18 ms instead of 90, and a scan takes 0.3 s."""
_SWEEP_S = 60.0
"""Between two looks for faces that are too old, and for a log that could not be emptied."""

T = TypeVar("T")
_log = structlog.get_logger("jetface.gallery")


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A collection in memory."""

    row: int
    model: ModelPin
    index: Index


class LocalGallery:
    """See `jetface.gallery.protocol.Gallery`. One process has a folder at a time, by a lock that ends with it.

    Three threads: one writes the file and the index, one reads lists, one searches. The index is loaded by the first,
    so changes and searches wait for that.
    """

    def __init__(
        self,
        folder: Path,
        metrics: Metrics,
        *,
        ttl_days: float = 0.0,
        max_waiting: int = 4096,
        make_index: Callable[[int], Index] = ExactIndex,
    ) -> None:
        """Take a folder; it is opened by `open`.

        Args:
            folder: Made if missing.
            metrics: Where faces, persons and searches are counted.
            ttl_days: Faces older than this are deleted; 0: none is.
            max_waiting: Most queries that wait for a scan.
            make_index: Makes an empty index for vectors of a length.
        """
        self._folder = folder
        self._path = folder / FILE_NAME
        self._metrics = metrics
        self._make_index = make_index
        self._ttl_s = ttl_days * 86400
        self._lock = filelock.FileLock(folder / LOCK_NAME, thread_local=False)
        self._writer = Threads(1, "gallery_writer")
        self._reader = Threads(1, "gallery_reader")
        self._opened: dict[str, _Opened] = {}
        self._num_persons = 0
        self._loading: asyncio.Task[None] | None = None
        self._sweeping: asyncio.Task[None] | None = None
        # What a process deleted just before it was killed may be in the log.
        self._must_erase = True
        searcher = Searcher(self._path)
        self._batcher: Batcher[Asked, Answer] = Batcher(
            "gallery",
            [Lane(run=searcher.run, start=searcher.start, close=searcher.close)],
            max_batch=QUERIES_AT_ONCE,
            max_waiting=max_waiting,
            metrics=metrics,
            key=lambda asked: id(asked.index),
        )
        self._written: Store
        self._read_from: Store

    async def check(self, *, is_starting: bool) -> None:
        """See `Gallery.check`."""
        there = next(each for each in (self._folder, *self._folder.absolute().parents) if each.exists())
        if not is_writable(there):
            raise StorageError(f"The folder of the gallery cannot be used: {there} is no folder that may be written.")
        if is_starting and (self._folder / LOCK_NAME).exists():
            self._take_lock()
            self._lock.release()
        if self._path.exists():
            with Store(self._path, is_writer=False) as store:
                store.check_version(may_be_new=True)

    def _take_lock(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise StorageError(
                "Another process uses the folder of the gallery. One process has it at a time: stop that one, or ask "
                "it over HTTP (`--url`)."
            ) from None

    async def open(self) -> None:
        """Lock the folder and open the file; the index is loaded behind it.

        Raises:
            StorageError: Another process has the folder, or the file cannot be opened.
        """
        await self._writer.call(self._open)
        self._loading = asyncio.create_task(self._load(), name="load gallery")
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep gallery")
        self._metrics.watch(self._metrics.gallery_faces, lambda: sum(len(each.index) for each in self._all()))
        self._metrics.watch(self._metrics.gallery_persons, lambda: self._num_persons)
        self._metrics.watch(self._metrics.gallery_bytes, lambda: sum(each.index.num_bytes for each in self._all()))

    def _all(self) -> list[_Opened]:
        return list(self._opened.values())

    def _open(self) -> None:
        try:
            # Embeddings are nobody else's to read; a folder that is there keeps its mode.
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except OSError as cause:
            raise StorageError("The folder of the gallery cannot be used; the log says why.") from cause
        try:
            self._written = Store(self._path, is_writer=True)
            self._read_from = Store(self._path, is_writer=False)
        except StorageError:
            self._lock.release()
            raise

    async def _load(self) -> None:
        """Fill the index; who writes or searches waits for it."""
        started = time.perf_counter()
        try:
            await self._writer.call(self._load_rows)
        except ServiceError as error:
            _log.error("gallery cannot be loaded", reason=error.message, exc_info=error)
            raise
        _log.info(
            "gallery loaded",
            collections=len(self._opened),
            persons=self._num_persons,
            faces=sum(len(each.index) for each in self._all()),
            took_s=round(time.perf_counter() - started, 3),
        )

    def _load_rows(self) -> None:
        opened = {
            name: _Opened(row, collection.model, self._make_index(collection.model.embedding_length))
            for name, (row, collection) in self._written.collections().items()
        }
        index_by_row = {each.row: each.index for each in opened.values()}
        for rows in self._written.rows():
            for collection in np.unique(rows.collections).tolist():
                is_its = rows.collections == collection
                if is_its.all():
                    index_by_row[collection].add(rows.ids, rows.persons, rows.vectors)
                else:
                    index_by_row[collection].add(rows.ids[is_its], rows.persons[is_its], rows.vectors[is_its])
        self._opened = opened
        self._num_persons = self._written.num_persons()

    async def close(self) -> None:
        """Finish what has begun, and let go of the folder. A second call does no harm."""
        for task in (self._sweeping, self._loading):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        if self._loading is None:
            return
        self._loading = None
        await self._batcher.close()
        await self._reader.call(self._read_from.close)
        await self._writer.call(self._close)
        self._reader.close()
        self._writer.close()

    def _close(self) -> None:
        self._written.close()
        self._lock.release()

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(ServiceError):  # logged where it happened; tried again
                if self._ttl_s:
                    await self._delete_old(time.time() - self._ttl_s)
                if self._must_erase:
                    await self._change(lambda: None)
            await asyncio.sleep(_SWEEP_S)

    async def _delete_old(self, created_before_s: float) -> None:
        def delete() -> int:
            old = self._written.delete_older(created_before_s)
            opened = {each.row: each.index for each in self._all()}
            for collection in {collection for collection, _ in old}:
                opened[collection].remove(np.array([face for row, face in old if row == collection], np.int64))
            self._must_erase = self._must_erase or bool(old)
            return len(old)

        if num_deleted := await self._change(delete):
            _log.info("old faces deleted", faces=num_deleted, ttl_days=self._ttl_s / 86400)

    # Ways to the file

    async def _change(self, function: Callable[[], T], *, deadline: float = NO_DEADLINE) -> T:
        """Call `function` on the thread that writes, once all is loaded."""
        await self._wait_until_loaded(deadline)

        def change() -> T:
            result = function()
            self._num_persons = self._written.num_persons()
            if self._must_erase:
                self._must_erase = not self._written.erase()
                if self._must_erase:
                    _log.warning("deleted rows stay in the log of the gallery while a backup reads it; tried again")
            return result

        try:
            return await self._writer.call(change, deadline=None if deadline == NO_DEADLINE else deadline)
        except StorageError as error:
            _log.error("gallery not written", reason=error.message, exc_info=error)
            raise

    async def _read(self, function: Callable[[Store], T]) -> T:
        await self._wait_until_loaded(NO_DEADLINE)
        return await self._reader.call(lambda: function(self._read_from))

    async def _wait_until_loaded(self, deadline: float) -> None:
        if self._loading is None:  # pragma: no cover - it is opened before it is used
            raise RuntimeError("the gallery is not open")
        if not self._loading.done():
            left_s = None if deadline == NO_DEADLINE else deadline - asyncio.get_running_loop().time()
            await asyncio.wait([self._loading], timeout=left_s)
            if not self._loading.done():
                raise DeadlineExceededError("The gallery is still being loaded.", retry_after_s=1)
        self._loading.result()

    def _find(self, name: str) -> _Opened:
        found = self._opened.get(name)
        if found is None:
            raise NotFoundError("No collection of that name is in the gallery.")
        return found

    # Collections

    async def create_collection(
        self, name: str, model: ModelPin, metadata: Mapping[str, Any]
    ) -> tuple[Collection, bool]:
        """See `Gallery.create_collection`."""
        written = check_metadata(metadata)

        def create() -> bool:
            row, is_new = self._written.create_collection(name, model, written)
            if is_new:
                self._opened[name] = _Opened(row, model, self._make_index(model.embedding_length))
            return is_new

        is_new = await self._change(create)
        return await self.collection(name), is_new

    async def collections(self) -> Sequence[Collection]:
        """See `Gallery.collections`."""
        found = await self._read(lambda store: store.collections())
        return [collection for _, collection in found.values()]

    async def collection(self, name: str) -> Collection:
        """See `Gallery.collection`."""
        found = await self._read(lambda store: store.collections())
        if name not in found:
            raise NotFoundError("No collection of that name is in the gallery.")
        return found[name][1]

    async def delete_collection(self, name: str) -> Collection:
        """See `Gallery.delete_collection`."""
        deleted = await self.collection(name)

        def delete() -> None:
            self._written.delete_collection(self._find(name).row)
            del self._opened[name]
            self._must_erase = True

        await self._change(delete)
        return deleted

    async def replace_collection(self, old: str, new: str) -> None:
        """See `Gallery.replace_collection`."""

        def replace() -> None:
            self._written.replace_collection(self._find(old).row, self._find(new).row)
            self._opened[old] = self._opened.pop(new)
            self._must_erase = True

        await self._change(replace)

    # Persons

    async def add_person(
        self, collection: str, person_id: str, name: str, metadata: Mapping[str, Any]
    ) -> tuple[Person, bool]:
        """See `Gallery.add_person`."""
        written = check_metadata(metadata)
        return await self._change(
            lambda: self._written.add_person(self._find(collection).row, person_id, name, written)
        )

    async def persons(self, collection: str, *, after: str, limit: int) -> Page[Person]:
        """See `Gallery.persons`."""
        place = place_of(after)
        return await self._read(lambda store: store.persons(self._find(collection).row, after=place, limit=limit))

    async def person(self, collection: str, person_id: str) -> Person:
        """See `Gallery.person`."""
        return await self._read(lambda store: store.person(self._find(collection).row, person_id))

    async def change_person(
        self, collection: str, person_id: str, *, name: str | None, metadata: Mapping[str, Any] | None
    ) -> Person:
        """See `Gallery.change_person`."""
        written = None if metadata is None else check_metadata(metadata)

        def change() -> Person:
            self._must_erase = True
            return self._written.change_person(self._find(collection).row, person_id, name=name, metadata=written)

        return await self._change(change)

    async def rename_person(self, collection: str, person_id: str, new_id: str) -> None:
        """See `Gallery.rename_person`."""

        def rename() -> None:
            opened = self._find(collection)
            before, now = self._written.rename_person(opened.row, person_id, new_id)
            if before != now:
                opened.index.move_person(before, now)
            self._must_erase = True

        await self._change(rename)

    async def delete_persons(self, collection: str, person_id: str | None) -> Sequence[Person]:
        """See `Gallery.delete_persons`."""

        def delete() -> list[Person]:
            opened = self._find(collection)
            deleted = self._written.delete_persons(opened.row, person_id)
            if person_id is None:
                self._opened[collection] = _Opened(
                    opened.row, opened.model, self._make_index(opened.model.embedding_length)
                )
            else:
                opened.index.remove_person(deleted[0][0])
            self._must_erase = True
            return [person for _, person in deleted]

        return await self._change(delete)

    # Faces

    async def add_faces(
        self,
        collection: str,
        person_id: str,
        faces: Sequence[NewFace],
        *,
        name: str | None = None,
        deadline: float = NO_DEADLINE,
    ) -> Sequence[StoredFace | ServiceError]:
        """See `Gallery.add_faces`."""

        def add() -> list[StoredFace | ServiceError]:
            opened = self._find(collection)
            added = self._written.add_faces(opened.row, person_id, name, faces)
            _index(opened.index, added.rows, faces)
            return added.outcomes

        return await self._change(add, deadline=deadline)

    async def add_all(
        self,
        collection: str,
        persons: Sequence[NewPerson],
        faces: Sequence[tuple[str, NewFace]],
        *,
        deadline: float = NO_DEADLINE,
    ) -> tuple[int, int]:
        """See `Gallery.add_all`."""

        def add() -> tuple[int, int]:
            opened = self._find(collection)
            num_persons, rows = self._written.add_all(opened.row, persons, faces)
            _index(opened.index, rows, [face for _, face in faces])
            return num_persons, len(rows)

        return await self._change(add, deadline=deadline)

    async def faces(self, collection: str, person_id: str | None, *, after: str, limit: int) -> Page[StoredFace]:
        """See `Gallery.faces`."""
        place = place_of(after)
        return await self._read(
            lambda store: store.faces(self._find(collection).row, person_id, after=place, limit=limit)
        )

    async def face(self, collection: str, face_id: str) -> StoredFace:
        """See `Gallery.face`."""
        return await self._read(lambda store: store.face(self._find(collection).row, face_id))

    async def delete_faces(self, collection: str, face_ids: Sequence[str]) -> Sequence[StoredFace]:
        """See `Gallery.delete_faces`."""

        def delete() -> list[StoredFace]:
            opened = self._find(collection)
            deleted = self._written.delete_faces(opened.row, face_ids)
            if deleted:
                opened.index.remove(np.array([row for row, _ in deleted], np.int64))
                self._must_erase = True
            return [face for _, face in deleted]

        return await self._change(delete)

    async def vector(self, collection: str, face_id: str) -> Vector:
        """See `Gallery.vector`."""
        found = await self._read(lambda store: store.vector(self._find(collection).row, face_id))
        unit: Vector = found / np.linalg.norm(found)
        return unit

    async def crop(self, collection: str, face_id: str) -> bytes | None:
        """See `Gallery.crop`."""
        return await self._read(lambda store: store.crop(self._find(collection).row, face_id))

    async def search(
        self, collection: str, queries: Sequence[Query], *, group: Hashable, deadline: float = NO_DEADLINE
    ) -> Sequence[Sequence[Match]]:
        """See `Gallery.search`."""
        await self._wait_until_loaded(deadline)
        opened = self._find(collection)
        if not queries or not len(opened.index):
            return [[] for _ in queries]
        asked = [Asked(opened.index, query) for query in queries]
        outcome = await self._batcher.submit(asked, group=group, deadline=deadline)
        for answer in outcome.results:
            self._metrics.gallery_search_seconds.labels("scan").observe(answer.scan_s)
            self._metrics.gallery_search_seconds.labels("rank").observe(answer.rank_s)
        return [answer.matches for answer in outcome.results]

    async def last_face(self, collection: str) -> str:
        """See `Gallery.last_face`."""
        return str(await self._read(lambda store: store.last_face(self._find(collection).row)))

    async def exported(self, collection: str, *, after: str, until: str, limit: int) -> Page[Exported]:
        """See `Gallery.exported`."""
        place, end = place_of(after), place_of(until)
        return await self._read(
            lambda store: store.exported(self._find(collection).row, after=place, until=end, limit=limit)
        )


def _index(index: Index, rows: Sequence[tuple[int, int, int]], faces: Sequence[NewFace]) -> None:
    """Add faces that were stored; `rows`: see `Added`."""
    if rows:
        numbers, ids, persons = zip(*rows, strict=True)
        vectors = np.stack([faces[number].vector for number in numbers])
        index.add(np.array(ids, np.int64), np.array(persons, np.int64), vectors)
