"""What commands do with pictures: from files through a pipeline, results to stdout, progress to stderr."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import click
import orjson
from tqdm import tqdm

from jetface.cli.quiet import configure_quiet_logs
from jetface.domain import ExtractOptions, Face, Image, PictureResult, Plate, Rotations
from jetface.errors import ImageDecodeError
from jetface.imaging.draw import DrawOptions, draw_faces, encode_jpeg
from jetface.imaging.formats import is_picture
from jetface.imaging.sources import EncodedPicture
from jetface.service import Service, open_service
from jetface.settings import read_settings

PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo", ".png", ".webp"}
)
"""Taken from a folder, as is a file without suffix that begins as a picture; one that is named is always tried."""

TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
"""Taken from a folder, too, where TIFF is accepted."""

PICTURES_AT_ONCE = 8
"""Pictures read and in work at the same time: bounds memory, keeps every core busy."""

_PATIENCE_S = 86_400.0
"""Nobody waits behind a command line; a day lets a first download and a slow disk finish."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to look at, and its name below the folder it was found in."""

    path: Path
    relative: Path

    def read(self) -> bytes:
        """Return the file's bytes."""
        return self.path.read_bytes()


class Readable(Protocol):
    """What is read when its turn comes."""

    def read(self) -> bytes:
        """Return the bytes of a picture. Raises OSError."""
        ...


AnyPicture = TypeVar("AnyPicture", bound=Readable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Which faces a command wants; its fields are the options of `wish_options`."""

    threshold: float | None = None
    """Least detector score; None: the default of who finds them."""
    limit_faces: int = 0
    min_face_size: int = 0
    rotations: Rotations = "none"
    min_quality: float = 0.0

    def options(self, service: Service, *, with_embedding: bool = True, with_quality: bool = False) -> ExtractOptions:
        """Return what the pipeline of a service is to do."""
        return ExtractOptions(
            score_threshold=service.score_threshold if self.threshold is None else self.threshold,
            limit_faces=self.limit_faces,
            min_face_width_px=self.min_face_size,
            rotations=self.rotations,
            min_quality=self.min_quality,
            with_embedding=with_embedding,
            with_quality=with_quality,
        )


Command = TypeVar("Command", bound=Callable[..., Any])


def wish_options(command: Command) -> Command:
    """Give a command the options that make a `Wish`."""
    for option in (
        click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, help="Drop faces of less quality."),
        click.option(
            "--rotations",
            type=click.Choice(["none", "auto"]),
            default="none",
            show_default=True,
            help="auto: look at pictures without a sure face in their other three quarter turns, too.",
        ),
        click.option("--min-face-size", type=click.IntRange(0), default=0, help="Drop faces narrower, pixels."),
        click.option("--limit-faces", type=click.IntRange(0), default=0, help="Only the N largest faces; 0: all."),
        click.option(
            "--threshold",
            type=click.FloatRange(0, 1),
            help="Least detector score; default: DEF_DET_THRESH, or the detector's own.",
        ),
    ):
        command = option(command)
    return command


def find_pictures(
    paths: Sequence[Path], *, accept_tiff: bool = False, skipped: Counter[str] | None = None
) -> list[Picture]:
    """List the files of `paths`; folders are searched recursively, in order of name, hidden ones left out.

    Args:
        paths: Files, which are taken as they are, and folders.
        accept_tiff: Whether TIFF is taken from folders.
        skipped: Counts by reason what else lies there: its suffix, `without suffix`, `unreadable`.
    """
    suffixes = PICTURE_SUFFIXES | TIFF_SUFFIXES if accept_tiff else PICTURE_SUFFIXES
    skipped = Counter() if skipped is None else skipped
    pictures: list[Picture] = []
    for path in paths:
        if not path.is_dir():
            pictures.append(Picture(path, Path(path.name)))
            continue
        for found in sorted(path.rglob("*")):
            relative = found.relative_to(path)
            if any(part.startswith(".") for part in relative.parts):
                continue
            reason = _reason_to_skip(found, suffixes)
            if reason is None:
                pictures.append(Picture(found, relative))
            elif reason:
                skipped[reason] += 1
    return pictures


def _reason_to_skip(found: Path, suffixes: frozenset[str]) -> str | None:
    """Return None for a picture; nothing for a folder, of which nothing is to be said."""
    if found.is_dir():
        return "" if os.access(found, os.R_OK | os.X_OK) else "unreadable"
    suffix = readable_name(found.suffix.lower())
    if suffix and suffix not in suffixes:
        return suffix
    try:
        if not found.is_file():
            return "unreadable" if found.is_symlink() else "no file"
        if suffix:
            return None
        with found.open("rb") as file:
            return None if is_picture(file.read(64)) else "without suffix"
    except OSError:
        return "unreadable"


def tell_skipped(skipped: Counter[str], *, strict: bool) -> None:
    """Say what was left out of folders.

    Raises:
        click.ClickException: Something was, and `strict` is set.
    """
    if not skipped:
        return
    count = skipped.total()
    reasons = ", ".join(f"{number} {reason}" for reason, number in skipped.most_common())
    message = f"skipped {count} file{'' if count == 1 else 's'}: {reasons}"
    if strict:
        raise click.ClickException(message)
    click.echo(message, err=True)


def readable_name(path: Path | str) -> str:
    r"""Return a path as text for people and programs: bytes that are not UTF-8 as `\xNN`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def describe(picture: Picture, result: PictureResult) -> dict[str, Any]:
    """Return one line of `--json`: all that is known of a picture, in source pixels and milliseconds."""
    answer: dict[str, Any] = {"path": readable_name(picture.path), "took_ms": round(result.took_s * 1e3, 3)}
    if result.error is not None:
        return {**answer, "error": {"code": result.error.code, "message": result.error.message}}
    if result.rotation is not None:
        answer["rotation"] = result.rotation
    answer["image_hw"] = result.image_hw
    if result.plates is not None:
        return {**answer, "plates": [_describe_plate(plate) for plate in result.plates]}
    return {**answer, "faces": [_describe_face(face) for face in result.faces]}


def _describe_face(face: Face) -> dict[str, Any]:
    described: dict[str, Any] = {
        "box": face.box,
        "score": face.score,
        "landmarks": face.landmarks,
        "landmarks_from": face.landmarks_from,
        "visible": face.visible,
    }
    if face.embedding is not None:
        described |= {"norm": face.embedding.norm, "embedding": face.embedding.vector}
    return described


def _describe_plate(plate: Plate) -> dict[str, Any]:
    reading = plate.reading
    return {
        "box": plate.box,
        "score": plate.score,
        "text": reading.text,
        "confidence": reading.confidence,
        "characters": [
            {"character": character, "confidence": certainty}
            for character, certainty in zip(reading.text, reading.certainties, strict=True)
        ],
    }


def tabulate(picture: Picture, result: PictureResult) -> Iterator[str]:
    """Yield the lines people read: one for the picture, one for each face or plate."""
    if result.error is not None:
        yield f"{readable_name(picture.path)}: failed: {result.error.message}"
        return
    found: Sequence[Face | Plate] = result.faces if result.plates is None else result.plates
    kind = "face" if result.plates is None else "plate"
    turned = f", turned by {result.rotation} degrees" if result.rotation else ""
    name, count = readable_name(picture.path), f"{len(found)} {kind}{'' if len(found) == 1 else 's'}"
    yield f"{name}: {count}, {result.took_s * 1e3:.0f} ms{turned}"
    for number, one in enumerate(found, start=1):
        x1, y1, x2, y2 = one.box.round().astype(int).tolist()
        yield f"  {number:>3}  score {one.score:.3f}  box {x1},{y1} {x2},{y2}{_said_of(one)}"


def _said_of(found: Face | Plate) -> str:
    if isinstance(found, Plate):
        return f"  {found.reading.text or 'unread'}  confidence {found.reading.confidence:.3f}"
    return "" if found.embedding is None else f"  norm {found.embedding.norm:.1f}"


Results: TypeAlias = AsyncGenerator[tuple[Picture, PictureResult], None]
"""What came of pictures, in their order."""


def print_results(
    paths: Sequence[Path], ask: Callable[[Service, Sequence[Picture]], Results], *, as_json: bool, strict: bool
) -> None:
    """Do what a command does: find pictures, print what comes of each in order, and say what was left out.

    Args:
        paths: Files and folders, as for `find_pictures`.
        ask: Asks the service of the settings.
        as_json: JSON lines rather than a table.
        strict: Whether files of folders may not be skipped.

    Raises:
        click.ClickException: There are no pictures, some failed, or files were skipped and `strict` is set.
        ServiceError: What is wrong is not a picture but the service: a model is missing, say.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    skipped: Counter[str] = Counter()
    pictures = find_pictures(paths, accept_tiff=settings.accept_tiff, skipped=skipped)
    if not pictures:
        tell_skipped(skipped, strict=False)
        raise click.ClickException("no pictures found")

    async def print_all() -> int:
        num_failed = 0
        async with open_service(settings) as service:
            with tqdm(total=len(pictures), unit="picture", file=sys.stderr, disable=None) as progress:
                async for picture, result in ask(service, pictures):
                    num_failed += result.error is not None
                    with tqdm.external_write_mode(file=sys.stdout):
                        if as_json:
                            click.echo(orjson.dumps(describe(picture, result), option=orjson.OPT_SERIALIZE_NUMPY))
                        else:
                            click.echo("\n".join(tabulate(picture, result)))
                    progress.update()
        return num_failed

    num_failed = asyncio.run(print_all())
    tell_skipped(skipped, strict=strict and not num_failed)
    if num_failed:
        raise click.ClickException(f"{num_failed} of {len(pictures)} pictures failed")


async def extract_each(
    service: Service, pictures: Sequence[Picture], options: ExtractOptions, draw_dir: Path | None = None
) -> Results:
    """Yield the faces of pictures; `draw_dir` gets annotated copies."""

    async def extract_one(picture: Picture, source: EncodedPicture, deadline: float) -> PictureResult:
        (result,) = await service.extractor.extract([source], options, deadline=deadline)
        if draw_dir is not None and result.error is None:
            async with service.loader.load(source, deadline=deadline) as loaded:
                await asyncio.to_thread(_write_drawn, loaded.pixels, result, _drawn_path(draw_dir, picture))
        return result

    async for answer in each_in_order(pictures, extract_one):
        yield answer


async def each_in_order(
    pictures: Iterable[AnyPicture],
    ask: Callable[[AnyPicture, EncodedPicture, float], Coroutine[Any, Any, PictureResult]],
    at_once: int = PICTURES_AT_ONCE,
) -> AsyncGenerator[tuple[AnyPicture, PictureResult], None]:
    """Yield what `ask` says of the pictures, in their order.

    Args:
        pictures: One that cannot be read is a result with its error.
        ask: Takes a picture, its bytes and a deadline.
        at_once: Pictures in work.
    """
    waiting = iter(pictures)
    in_work: deque[tuple[AnyPicture, asyncio.Task[PictureResult]]] = deque()

    async def read_and_ask(picture: AnyPicture) -> PictureResult:
        deadline = asyncio.get_running_loop().time() + _PATIENCE_S
        try:
            source = EncodedPicture(await asyncio.to_thread(picture.read))
        except OSError as cause:
            error = ImageDecodeError(f"The file cannot be read: {cause.strerror or cause}.")
            return PictureResult(image_index=0, error=error)
        return await ask(picture, source, deadline)

    try:
        while True:
            while len(in_work) < at_once and (picture := next(waiting, None)):
                in_work.append((picture, asyncio.create_task(read_and_ask(picture))))
            if not in_work:
                return
            picture, task = in_work.popleft()
            yield picture, await task
    finally:
        for _, task in in_work:
            task.cancel()
        await asyncio.gather(*(task for _, task in in_work), return_exceptions=True)


def _drawn_path(draw_dir: Path, picture: Picture) -> Path:
    """Return where a picture's annotated copy goes: same name below `draw_dir`, as JPEG."""
    named = draw_dir / picture.relative
    return named if named.suffix.lower() in {".jpg", ".jpeg"} else named.with_name(f"{named.name}.jpg")


def _write_drawn(pixels: Image, result: PictureResult, path: Path) -> None:
    drawn = draw_faces(pixels, result.faces, DrawOptions())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(drawn))
    except OSError as cause:
        raise click.ClickException(f"{readable_name(path)} cannot be written: {cause.strerror}") from cause
