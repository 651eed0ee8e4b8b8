"""`jetface gallery`: people from folders of pictures, who is on a picture, and the gallery's files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import click
import filelock
import httpx
import orjson
from tqdm import tqdm

from jetface.cli.pictures import Picture, extract_each, find_pictures, readable_name, tell_skipped
from jetface.cli.quiet import configure_quiet_logs
from jetface.domain import ExtractOptions
from jetface.errors import RequestError, StorageError
from jetface.gallery.local import LOCK_NAME
from jetface.gallery.people import EnrolWish, People
from jetface.gallery.records import Match, StoredFace, check_id
from jetface.gallery.store import FILE_NAME, Store
from jetface.gallery.transfer import (
    CollectionLine,
    export_lines,
    import_lines,
    move_collection,
    parse_line,
    read_folder,
    write_folder,
)
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, build_people, open_service
from jetface.settings import Settings, read_settings

if TYPE_CHECKING:
    import jetface_client

DEFAULT_COLLECTION = "people"

_AT_ONCE = 64
_MAX_PATH_CHARS = 200
_AT_ONCE_BY_SERVER = 8
_PATIENCE_BY_SERVER_S = 300.0
_PATIENCE_S = 3600.0


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a run of `enrol` has done."""

    num_pictures: int = 0
    num_new: int = 0
    num_refused: int = 0
    num_persons: int = 0
    """In the collection, as the next."""
    num_faces: int = 0


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[tuple[Service, People]]:
    """Open the pipeline and the gallery."""
    async with open_service(settings) as service:
        people = build_people(service)
        if people is None:  # pragma: no cover - the commands have asked
            raise StorageError("There is no gallery.")
        try:
            await people.gallery.open()
            yield service, people
        finally:
            await people.gallery.close()


class Desk(Protocol):
    """Who has the gallery: this process, or a running service."""

    async def known_faces(self, collection: str) -> set[str]:
        """Make a collection where it is missing; return the ids of its faces."""
        ...

    async def enrol(
        self, collection: str, person_id: str, pictures: Sequence[Picture], wish: EnrolWish
    ) -> Sequence[str | None]:
        """Enrol pictures of a person, each under its `face_id`; return why each was refused, None where it was not."""
        ...

    async def search(
        self, collection: str, pictures: Sequence[Picture], *, top_k: int, threshold: float | None
    ) -> Sequence[Found]:
        """Say who is on pictures."""
        ...

    async def count(self, collection: str) -> tuple[int, int]:
        """Return how many persons and faces there are."""
        ...

    async def export(self, collection: str) -> AsyncIterator[bytes]:
        """Return pieces of a collection, each of whole lines."""
        ...

    async def import_(self, lines: Iterable[bytes], collection: str | None) -> tuple[str, int]:
        """Add the lines of an export, under its own name with None; return the name, and how many faces it has."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Who is on a picture."""

    faces: Sequence[tuple[Sequence[float], Sequence[Match], float | None]] = ()
    """Of each face the box, the persons most alike, and the margin."""
    error: str | None = None


class _InProcess:
    """This process, with the gallery to itself."""

    def __init__(self, service: Service, people: People) -> None:
        self._service = service
        self._people = people

    async def known_faces(self, collection: str) -> set[str]:
        """See `Desk.known_faces`."""
        await self._people.create_collection(collection, {})
        return await _known_faces(self._people, collection)

    async def enrol(
        self, collection: str, person_id: str, pictures: Sequence[Picture], wish: EnrolWish
    ) -> Sequence[str | None]:
        """See `Desk.enrol`."""
        options = ExtractOptions(
            score_threshold=self._service.score_threshold, with_quality=True, with_crop=self._people.keeps_crops
        )
        results = [result async for _, result in extract_each(self._service, pictures, options)]
        face_ids = [_face_id(picture) for picture in pictures]
        outcomes = await self._people.enrol(collection, person_id, results, wish, face_ids=face_ids)
        return [None if outcome.error is None else outcome.error.message for outcome in outcomes]

    async def search(
        self, collection: str, pictures: Sequence[Picture], *, top_k: int, threshold: float | None
    ) -> Sequence[Found]:
        """See `Desk.search`."""
        await self._people.collection(collection)
        options = ExtractOptions(score_threshold=self._service.score_threshold)
        answers = []
        async for _, result in extract_each(self._service, pictures, options):
            vectors = [face.embedding.vector for face in result.faces if face.embedding is not None]
            found = await self._people.identify(collection, vectors, top_k=top_k, threshold=threshold)
            faces = [
                (face.box.tolist(), identity.matches, identity.margin)
                for face, identity in zip(result.faces, found, strict=True)
            ]
            answers.append(Found(faces=faces, error=None if result.error is None else result.error.message))
        return answers

    async def count(self, collection: str) -> tuple[int, int]:
        """See `Desk.count`."""
        there = await self._people.gallery.collection(collection)
        return there.num_persons, there.num_faces

    async def export(self, collection: str) -> AsyncIterator[bytes]:
        """See `Desk.export`."""
        gallery = self._people.gallery
        return export_lines(gallery, await gallery.collection(collection))

    async def import_(self, lines: Iterable[bytes], collection: str | None) -> tuple[str, int]:
        """See `Desk.import_`."""
        people = self._people
        return await import_lines(people.gallery, lines, collection, keeps_crops=people.keeps_crops)


class _ByServer:
    """A running service, through its client."""

    def __init__(self, client: jetface_client.AsyncClient, remote: Any) -> None:
        self._client = client
        self._remote = remote

    async def known_faces(self, collection: str) -> set[str]:
        """See `Desk.known_faces`."""
        there = await self._client.collections.create(collection)
        return {face.id async for person in there.persons() async for face in there.faces(person.id)}

    async def enrol(
        self, collection: str, person_id: str, pictures: Sequence[Picture], wish: EnrolWish
    ) -> Sequence[str | None]:
        """See `Desk.enrol`."""
        options = self._remote.EnrolOptions(largest=wish.takes_largest, min_quality=wish.min_quality)
        reasons: list[str | None] = []
        for start in range(0, len(pictures), _AT_ONCE_BY_SERVER):
            part = pictures[start : start + _AT_ONCE_BY_SERVER]
            outcomes = await self._client.collections[collection].enrol(
                person_id, [picture.path for picture in part], options, face_ids=[_face_id(each) for each in part]
            )
            reasons += [None if outcome.failure is None else outcome.failure.message for outcome in outcomes]
        return reasons

    async def search(
        self, collection: str, pictures: Sequence[Picture], *, top_k: int, threshold: float | None
    ) -> Sequence[Found]:
        """See `Desk.search`."""
        options = self._remote.SearchOptions(top_k=top_k, threshold=threshold)
        answers: list[Found] = []
        for start in range(0, len(pictures), _AT_ONCE_BY_SERVER):
            paths = [picture.path for picture in pictures[start : start + _AT_ONCE_BY_SERVER]]
            for found in await self._client.collections[collection].search_many(paths, options):
                faces = [
                    ([] if face.box is None else face.box.tolist(), list(map(_match, face.matches)), face.margin)
                    for face in found.faces
                ]
                answers.append(Found(faces=faces, error=None if found.failure is None else found.failure.message))
        return answers

    async def count(self, collection: str) -> tuple[int, int]:
        """See `Desk.count`."""
        there = await self._client.collections[collection].info()
        return there.num_persons, there.num_faces

    async def export(self, collection: str) -> AsyncIterator[bytes]:
        """See `Desk.export`."""
        return self._client.collections[collection].export_lines()

    async def import_(self, lines: Iterable[bytes], collection: str | None) -> tuple[str, int]:
        """See `Desk.import_`."""
        rest = iter(lines)
        first = next(rest, b"")
        if collection is None:
            described = parse_line(first)
            if not isinstance(described, CollectionLine):
                raise RequestError("The export does not begin with its collection.")
            collection = described.name
        done = await self._client.collections[collection].import_lines(chain([first], rest))
        return collection, done.num_faces


@asynccontextmanager
async def in_process(settings: Settings) -> AsyncIterator[Desk]:
    """Open the pipeline and the gallery of the settings."""
    async with _opened(settings) as (service, people):
        yield _InProcess(service, people)


@asynccontextmanager
async def by_server(url: str, api_key: str | None) -> AsyncIterator[Desk]:
    """Open a running service through the client library.

    Raises:
        click.ClickException: The client library is not installed; or the service answers with an error, or not at all.
    """
    try:
        import jetface_client as remote  # noqa: PLC0415 - a distribution of its own, which not everyone has
    except ImportError as cause:
        raise click.ClickException("--url needs the client library: pip install jetface-client") from cause
    try:
        async with remote.AsyncClient(url, api_key=api_key, timeout_s=_PATIENCE_BY_SERVER_S) as client:
            yield _ByServer(client, remote)
    except (remote.JetfaceError, ValueError) as cause:
        raise click.ClickException(str(cause)) from cause


async def enrol_folder(
    settings: Settings,
    opening: AbstractAsyncContextManager[Desk],
    folder: Path,
    collection: str,
    *,
    min_quality: float,
    takes_largest: bool,
    skipped: Counter[str],
) -> Summary:
    """Enrol each folder's pictures as one person's, whom it is named after; other files are counted by reason.

    Raises:
        click.ClickException: There are no pictures in folders.
        ServiceError: What is wrong is not a picture. What was enrolled until then stays.
    """
    found = [
        picture
        for picture in find_pictures([folder], accept_tiff=settings.accept_tiff, skipped=skipped)
        if len(picture.relative.parts) > 1
    ]
    if not found:
        raise click.ClickException("no pictures found in folders of FOLDER: each is a person")
    summary = Summary(num_pictures=len(found))
    wish = EnrolWish(min_quality=min_quality, takes_largest=takes_largest)
    async with opening as desk:
        known = await desk.known_faces(collection)
        with tqdm(total=len(found), unit="picture", file=sys.stderr, disable=None) as progress:
            for name, of_person in groupby(found, key=lambda picture: readable_name(picture.relative.parts[0])):
                new = [picture for picture in of_person if _face_id(picture) not in known]
                try:
                    person_id = check_id("folder", name)
                except RequestError as error:
                    _count(summary, new, [error.message] * len(new))
                    continue
                for start in range(0, len(new), _AT_ONCE):
                    part = new[start : start + _AT_ONCE]
                    _count(summary, part, await desk.enrol(collection, person_id, part, wish))
                    progress.update(len(part))
        summary.num_persons, summary.num_faces = await desk.count(collection)
    return summary


def _count(summary: Summary, pictures: Sequence[Picture], reasons: Sequence[str | None]) -> None:
    for picture, reason in zip(pictures, reasons, strict=True):
        if reason is None:
            summary.num_new += 1
        else:
            summary.num_refused += 1
            with tqdm.external_write_mode(file=sys.stderr):
                click.echo(f"{readable_name(picture.path)}: refused: {reason}", err=True)


async def import_from_compreface(settings: Settings, url: str, api_key: str, collection: str) -> Summary:
    """Enrol the pictures of a running CompreFace, each under its id and as its subject's.

    Raises:
        click.ClickException: It cannot be asked, or answers with an error.
    """
    summary = Summary()
    try:
        async with (
            httpx.AsyncClient(base_url=url, headers={"x-api-key": api_key}, timeout=60) as client,
            _opened(settings) as (service, people),
        ):
            await people.create_collection(collection, {})
            known = await _known_faces(people, collection)
            options = ExtractOptions(
                score_threshold=service.score_threshold, with_quality=True, with_crop=people.keeps_crops
            )
            page, num_pages = 0, 1
            while page < num_pages:
                answer = await client.get("/api/v1/recognition/faces", params={"page": page, "size": _AT_ONCE})
                listed = answer.raise_for_status().json()
                num_pages, page = int(listed["total_pages"]), page + 1
                for face in listed["faces"]:
                    summary.num_pictures += 1
                    if face["image_id"] not in known:
                        await _take_over(client, service, people, collection, face, options, summary)
            there = await people.gallery.collection(collection)
    except (httpx.HTTPError, httpx.InvalidURL, KeyError, TypeError, ValueError) as cause:
        raise click.ClickException(f"CompreFace cannot be read: {cause!r}") from cause
    return replace(summary, num_persons=there.num_persons, num_faces=there.num_faces)


async def _take_over(
    client: httpx.AsyncClient,
    service: Service,
    people: People,
    collection: str,
    face: dict[str, str],
    options: ExtractOptions,
    summary: Summary,
) -> None:
    """Enrol one picture."""
    try:
        image_id, subject = check_id("image_id", face["image_id"]), check_id("subject", face["subject"])
    except RequestError as error:
        summary.num_refused += 1
        click.echo(f"{face['subject']!r}, {face['image_id']!r}: refused: {error.message}", err=True)
        return
    picture = (await client.get(f"/api/v1/recognition/faces/{quote(image_id)}/img")).raise_for_status().content
    reason: str | None = "its picture was not kept there"
    if picture:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        results = await service.extractor.extract([EncodedPicture(picture)], options, deadline=deadline)
        wish = EnrolWish(takes_largest=True)
        (outcome,) = await people.enrol(collection, subject, results, wish, face_ids=[image_id])
        reason = None if outcome.error is None else outcome.error.message
    if reason is None:
        summary.num_new += 1
    else:
        summary.num_refused += 1
        click.echo(f"{subject}, {image_id}: refused: {reason}", err=True)


async def _known_faces(people: People, collection: str) -> set[str]:
    return {face.id async for face in _faces(people, collection)}


async def _count_without_crop(people: People, collection: str) -> int:
    return sum([not face.has_crop async for face in _faces(people, collection)])


async def _faces(people: People, collection: str) -> AsyncIterator[StoredFace]:
    after: str | None = ""
    while after is not None:
        page = await people.gallery.faces(collection, None, after=after, limit=10_000)
        for face in page.items:
            yield face
        after = page.next


def _face_id(picture: Picture) -> str:
    """Return what a face is known by: the path of its picture, whose slashes an id cannot have."""
    name = readable_name(picture.relative.as_posix()).replace("/", ":")
    try:
        if len(name) <= _MAX_PATH_CHARS:
            return check_id("picture", name)
    except RequestError:
        pass
    # Too long, or with characters that an id cannot have: nobody has to read it.
    return hashlib.sha256(name.encode()).hexdigest()


async def search_pictures(
    settings: Settings,
    opening: AbstractAsyncContextManager[Desk],
    paths: Sequence[Path],
    collection: str,
    *,
    top_k: int,
    threshold: float | None,
    as_json: bool,
) -> int:
    """Print who is on pictures; return how many could not be read."""
    pictures = find_pictures(paths, accept_tiff=settings.accept_tiff)
    num_failed = 0
    async with opening as desk:
        for start in range(0, len(pictures), _AT_ONCE):
            part = pictures[start : start + _AT_ONCE]
            for picture, found in zip(
                part, await desk.search(collection, part, top_k=top_k, threshold=threshold), strict=True
            ):
                num_failed += found.error is not None
                if as_json:
                    click.echo(orjson.dumps(_described(picture, found), option=orjson.OPT_SERIALIZE_NUMPY))
                else:
                    click.echo("\n".join(_tabulated(picture, found)))
    return num_failed


def _match(found: jetface_client.Match) -> Match:
    return Match(
        person_id=found.person_id,
        name=found.name,
        metadata=found.metadata,
        face_id=found.face_id,
        similarity=found.similarity,
    )


def _described(picture: Picture, found: Found) -> dict[str, Any]:
    described: dict[str, Any] = {"path": readable_name(picture.path)}
    if found.error is not None:
        return {**described, "error": {"message": found.error}}
    faces = [
        {
            "box": box,
            "margin": margin,
            "matches": [
                {"person": match.person_id, "name": match.name, "similarity": match.similarity, "face": match.face_id}
                for match in matches
            ],
        }
        for box, matches, margin in found.faces
    ]
    return {**described, "faces": faces}


def _tabulated(picture: Picture, found: Found) -> Iterator[str]:
    name = readable_name(picture.path)
    if found.error is not None:
        yield f"{name}: failed: {found.error}"
        return
    yield f"{name}: {len(found.faces)} face{'' if len(found.faces) == 1 else 's'}"
    for number, (box, matches, _) in enumerate(found.faces, start=1):
        x1, y1, x2, y2 = map(round, box)
        who = ", ".join(f"{match.name} {match.similarity:.3f}" for match in matches) or "nobody"
        yield f"  {number:>3}  {who}  box {x1},{y1} {x2},{y2}"


def _file_of(settings: Settings) -> Path:
    """Return the gallery's file.

    Raises:
        click.ClickException: There is none.
    """
    folder = settings.gallery_dir
    if folder is None or not (folder / FILE_NAME).is_file():
        raise click.ClickException("there is no gallery in GALLERY_DIR yet")
    return folder / FILE_NAME


def back_up(settings: Settings, file: Path) -> None:
    """Copy the gallery to `file`, whole or not at all."""
    if file.exists():
        raise click.ClickException(f"{readable_name(file)} is there already")
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with Store(_file_of(settings), is_writer=False) as store:
            part.touch(mode=0o600)
            _back_up_for_good(store, part)
        part.rename(file)
    except OSError as cause:
        raise click.ClickException(f"{readable_name(file)} cannot be written: {cause.strerror}") from cause
    finally:
        part.unlink(missing_ok=True)


def _back_up_for_good(store: Store, file: Path) -> None:
    """Write a backup, and return when it is on the disk as far as `fsync` goes."""
    store.back_up(file)
    with file.open("rb") as written:
        os.fsync(written.fileno())


def restore_backup(settings: Settings, file: Path, *, is_forced: bool) -> None:
    """Put a backup in the gallery's place.

    Raises:
        click.ClickException: It is damaged, a gallery is there, or a process uses it.
    """
    folder = settings.gallery_dir
    if folder is None:  # pragma: no cover - the command has asked
        raise click.ClickException("there is no gallery")
    with Store(file, is_writer=False) as store:
        store.check_version()
        faults = store.faults()
    if faults:
        raise click.ClickException(f"the backup is damaged: {'; '.join(faults)}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(folder / LOCK_NAME, timeout=0):
            there = folder / FILE_NAME
            if there.exists() and not is_forced:
                raise click.ClickException("a gallery is there already; --force puts the backup in its place")
            part = folder / f".{FILE_NAME}.part"
            part.unlink(missing_ok=True)
            try:
                # Not its bytes: a copy of a folder has what was written last in a log beside the file.
                with Store(file, is_writer=False) as store:
                    _back_up_for_good(store, part)
                # Its log belongs to it: behind another file it would be taken for that one's.
                for suffix in ("-wal", "-shm"):
                    (folder / f"{FILE_NAME}{suffix}").unlink(missing_ok=True)
                part.rename(there)
            finally:
                part.unlink(missing_ok=True)
    except filelock.Timeout:
        raise click.ClickException("a process uses the gallery; stop it first") from None
    except OSError as cause:
        raise click.ClickException(f"the gallery cannot be written: {cause.strerror}") from cause


def find_faults(settings: Settings) -> list[str]:
    """Return what is wrong with the gallery's file."""
    with Store(_file_of(settings), is_writer=False) as store:
        return store.faults()


def tabulate_stats(settings: Settings) -> Iterator[str]:
    """Yield a line for each collection, and one for the file."""
    file = _file_of(settings)
    with Store(file, is_writer=False) as store:
        found = [collection for _, collection in store.collections().values()]
    for each in found:
        yield f"{each.name}: {each.num_persons} persons, {each.num_faces} faces of {each.model.name}"
    size = sum(path.stat().st_size for path in file.parent.glob(f"{FILE_NAME}*"))
    yield f"{len(found)} collections, {size / 1e6:.1f} MB on the disk"


async def export_to(opening: AbstractAsyncContextManager[Desk], collection: str, folder: Path) -> int:
    """Write a collection into a new folder; return how many faces it has."""
    async with opening as desk:
        try:
            return await write_folder(await desk.export(collection), folder)
        except OSError as cause:
            raise click.ClickException(f"{readable_name(folder)} cannot be written: {cause.strerror}") from cause


async def import_from(
    opening: AbstractAsyncContextManager[Desk], folder: Path, collection: str | None
) -> tuple[str, int]:
    """Add an export to the gallery; return the collection's name and how many faces the export has."""
    async with opening as desk:
        return await desk.import_(read_folder(folder), collection)


async def reembed_collection(settings: Settings, collection: str, *, loses_faces: bool) -> tuple[int, int]:
    """Move a collection to the recognizer of the settings; return how many faces moved and how many did not.

    Raises:
        click.ClickException: Some have no crop, and may not be lost.
    """
    async with _opened(settings) as (service, people):

        async def embed(crops: list[bytes]) -> list[Any]:
            deadline = asyncio.get_running_loop().time() + _PATIENCE_S
            results = await service.extractor.embed_crops([EncodedPicture(crop) for crop in crops], deadline=deadline)
            vectors = []
            for result in results:
                if result.error is not None:
                    raise result.error
                vectors += [face.embedding.vector for face in result.faces if face.embedding is not None]
            return vectors

        there = await people.gallery.collection(collection)
        if not loses_faces and (num_without := await _count_without_crop(people, collection)):
            raise click.ClickException(
                f"{num_without} of {there.num_faces} faces have no crop; with --lose-faces they are deleted, and their "
                "pictures have to be enrolled anew"
            )
        with tqdm(total=there.num_faces, unit="face", file=sys.stderr, disable=None) as progress:
            return await move_collection(
                people.gallery, collection, people.model(), embed, told=lambda done: progress.update(done - progress.n)
            )


def _settings() -> Settings:
    """Return the settings.

    Raises:
        click.ClickException: They name no gallery.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    if settings.gallery_dir is None and settings.gallery_url is None:
        raise click.ClickException("there is no gallery: set GALLERY_DIR to its folder")
    return settings


def _settings_of_file() -> Settings:
    """Return the settings of a gallery that is a file.

    Raises:
        click.ClickException: They name none, or a database.
    """
    settings = _settings()
    if settings.gallery_dir is None:
        raise click.ClickException("this is for GALLERY_DIR; a database has tools of its own, pg_dump among them")
    return settings


_collection = click.option(
    "--collection", default=DEFAULT_COLLECTION, show_default=True, help="Collection of the gallery."
)

_url = click.option(
    "--url", help="A running service to ask, such as http://localhost:18080; else this process does it."
)
_api_key = click.option(
    "--api-key", envvar="JETFACE_API_KEY", help="Of the service at --url; or the variable JETFACE_API_KEY."
)


@click.group()
def gallery() -> None:
    """Enrol people, say who is on a picture, look after the gallery in GALLERY_DIR.

    One process has the gallery at a time. While the service runs on it, `enrol`, `search`, `export` and `import` go
    through the service, by --url; `backup`, `check` and `stats` work beside it.
    """


@gallery.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_collection
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Refuse faces of less quality.")
@click.option("--one-face", is_flag=True, help="Refuse pictures that show several faces; else the largest is meant.")
@click.option("--strict", is_flag=True, help="Exit code 1, too, when files of the folder were skipped.")
@_url
@_api_key
def enrol(
    *,
    folder: Path,
    collection: str,
    min_quality: float,
    one_face: bool,
    strict: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Enrol people: each folder in FOLDER is a person, its name the person's, the pictures in and below it the faces.

    A second run adds what is new: a face is known by its picture's path. Exit code 1 where a picture was refused.
    """
    settings = read_settings()
    desk = by_server(url, api_key) if url else in_process(_settings())
    skipped: Counter[str] = Counter()
    enrolment = enrol_folder(
        settings, desk, folder, collection, min_quality=min_quality, takes_largest=not one_face, skipped=skipped
    )
    summary = asyncio.run(enrolment)
    click.echo(f"{collection}: {summary.num_persons} persons, {summary.num_faces} faces; {summary.num_new} are new")
    tell_skipped(skipped, strict=strict and not summary.num_refused)
    if summary.num_refused:
        raise click.ClickException(f"{summary.num_refused} of {summary.num_pictures} pictures refused")


@gallery.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="PICTURE...")
@_collection
@click.option("--top", type=click.IntRange(1, 100), default=1, show_default=True, help="Most persons a face.")
@click.option("--threshold", type=click.FloatRange(-1, 1), help="Least similarity; default: the recognizer's.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a picture.")
@_url
@_api_key
def search(
    *,
    paths: tuple[Path, ...],
    collection: str,
    top: int,
    threshold: float | None,
    as_json: bool,
    url: str | None,
    api_key: str | None,
) -> None:
    """Say who is on pictures: every face of each, with the persons most alike."""
    settings = read_settings()
    desk = by_server(url, api_key) if url else in_process(_settings())
    num_failed = asyncio.run(
        search_pictures(settings, desk, paths, collection, top_k=top, threshold=threshold, as_json=as_json)
    )
    if num_failed:
        raise click.ClickException(f"{num_failed} pictures failed")


@gallery.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def backup(*, file: Path) -> None:
    """Write a copy of the gallery to FILE, also while the service runs; what was deleted is not in it."""
    back_up(_settings_of_file(), file)


@gallery.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="In place of the gallery that is there.")
def restore(*, file: Path, force: bool) -> None:
    """Make a backup the gallery, once it is found to be whole. The service must not run on it."""
    restore_backup(_settings_of_file(), file, is_forced=force)


@gallery.command()
def check() -> None:
    """Look for damage in the gallery's file; exit code 1 where there is any."""
    faults = find_faults(_settings_of_file())
    for fault in faults:
        click.echo(fault)
    if faults:
        raise click.ClickException("the gallery is damaged: restore a backup")
    click.echo("whole")


@gallery.command()
def stats() -> None:
    """Print the collections: recognizer, persons, faces; and the size of the file."""
    for line in tabulate_stats(_settings_of_file()):
        click.echo(line)


@gallery.command(name="export")
@click.argument("folder", type=click.Path(exists=False, path_type=Path))
@_collection
@_url
@_api_key
def export_(*, folder: Path, collection: str, url: str | None, api_key: str | None) -> None:
    """Write a collection into a new FOLDER as JSON lines and a NumPy file of vectors."""
    desk = by_server(url, api_key) if url else in_process(_settings())
    click.echo(f"{asyncio.run(export_to(desk, collection, folder))} faces")


@gallery.command(name="import")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--collection", help="Under this name; default: that of the export.")
@_url
@_api_key
def import_(*, folder: Path, collection: str | None, url: str | None, api_key: str | None) -> None:
    """Add what `jetface gallery export` wrote to a collection; what is there already stays."""
    desk = by_server(url, api_key) if url else in_process(_settings())
    name, count = asyncio.run(import_from(desk, folder, collection))
    click.echo(f"{name}: {count} faces")


@gallery.command(name="import-compreface")
@click.argument("url")
@click.option(
    "--api-key",
    envvar="COMPREFACE_API_KEY",
    required=True,
    help="Of its recognition service; or the variable COMPREFACE_API_KEY.",
)
@click.option("--collection", help="Default: COMPREFACE_COLLECTION, which its clients see here.")
def import_compreface(*, url: str, api_key: str, collection: str | None) -> None:
    """Enrol what a running CompreFace at URL has: its subjects' pictures, under their ids.

    Embeddings are not taken: they are another model's. A second run takes up where the first was ended. Exit code 1
    where a picture was not kept there, or is refused here.
    """
    settings = _settings()
    name = collection or settings.compreface_collection
    summary = asyncio.run(import_from_compreface(settings, url, api_key, name))
    click.echo(f"{name}: {summary.num_persons} persons, {summary.num_faces} faces; {summary.num_new} are new")
    if summary.num_refused:
        raise click.ClickException(f"{summary.num_refused} of {summary.num_pictures} pictures refused")


@gallery.command()
@click.argument("collection")
@click.option("--lose-faces", is_flag=True, help="Delete faces whose crop was not kept; else nothing is done.")
def reembed(*, collection: str, lose_faces: bool) -> None:
    """Move a collection to the recognizer that serves now, by the crops that GALLERY_KEEP_CROPS kept.

    Persons stay. Searches find the collection as it was until the end.
    """
    num_moved, num_left = asyncio.run(reembed_collection(_settings(), collection, loses_faces=lose_faces))
    click.echo(f"{collection}: {num_moved} faces embedded anew")
    if num_left:
        click.echo(f"{num_left} faces had no crop and are gone: enrol their pictures anew", err=True)
