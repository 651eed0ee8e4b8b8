"""Request bodies: JSON, msgpack, multipart or a picture itself become pictures and options, within limits."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import numpy as np
from pydantic import BaseModel
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from jetface.api.requests import (
    AnswerFormat,
    CompareFields,
    Cut,
    Images,
    Model,
    PicturesBody,
    RequestLimits,
    Structure,
    parse_json,
    parse_msgpack,
    validate,
)
from jetface.errors import BodyTooLargeError, RequestError, UnsupportedMediaError
from jetface.imaging.budget import UNCOUNTED_BYTES, ByteBudget, Share, too_slow
from jetface.imaging.formats import is_picture
from jetface.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture
from jetface.pipeline.pictures import WorkPool
from jetface.server.context import MSGPACK_TYPES, TRAILING_BYTES, RequestContext, context_of

PICTURE_TYPES = ("image/*", "application/octet-stream")
"""Of a picture as it is: what it says beyond that is not looked at, for the bytes decide."""
MULTIPART_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
LINES_TYPES = ("application/x-ndjson", "application/octet-stream")
"""Of lines of JSON: their own, and the one that all generated clients know."""
ACCEPTED_TYPES = (JSON_TYPE, *sorted(MSGPACK_TYPES), MULTIPART_TYPE, *PICTURE_TYPES)

FILE_FIELD = "file"
OTHER_FIELD = "other"
"""Multipart field of the pictures that `/compare` compares the first ones with."""

_BOUNDARY = re.compile(rb"[ !#-\[\]-~]{1,70}")
_FILE_NAMES = re.compile(r"(files?|images?|source_image)(\[\d*\])?")
_OTHER_NAMES = re.compile(r"(others?|target_image)(\[\d*\])?")
"""Names under which other services take files, one or several."""

_ALONE = {"file": "images", "source_image": "images", "target_image": "others"}
"""Fields of a JSON body that are one picture, as CompreFace's clients send them, and the lists they stand for."""
_MAX_DEPTH = 64
"""Of a body without pictures."""
_MAX_FIELDS = 64
_MAX_ESCAPES = 2**13
_MAX_MISSPELT = 16
_MAX_OPTION_CHARS = 64
_OPTION_NAME = re.compile(r" *([A-Za-z0-9_.-]+)(\[\d*\])? *")
_INERT = frozenset({"use_rotation"})
"""What InsightFace-REST's clients send with everything, though it looks like an option of ours: nobody misspelt it."""

_OF_INSIGHTFACE = {"bbox": "boxes", "kps": "landmarks", "keypoints": "landmarks"}
"""Its names for what we call otherwise. Without its `boxes` a picture of `/recognize` is taken for a crop."""

_LEAST_LIKENESS = 0.75
"""Of two names, as `difflib` measures it: `thresh` to `threshold` 0.8, `landmarks` to `return_landmarks` 0.72."""
_LEAST_BEGINNING = 5
"""Letters of a name, or of its last word, that begins one option alone, `limit` of `limit_faces`: it is meant."""
_SNIFFED_BYTES = 64
_MAX_PLACES = 2**14
_SEARCHED_BYTES = 2**20
"""Of a form at a time: what is wrong with its first parts is found before the rest is searched."""
_MAX_PART_HEADERS = 8
_MAX_PART_HEAD_BYTES = 2**14
_MAX_FIELD_BYTES = 2**20
_MAX_LINES = 10_000
_MAX_KNOWN = 256
_MAX_KNOWN_BYTES = 1024
"""Most queries whose meaning is kept, and the longest of them."""

_LARGE_BODY_BYTES = 2**18
"""A quarter of a megabyte parses in less time than a hop to another thread is worth."""

_LONG_BODY_BYTES = 2**20
"""Above a megabyte Python lets go of its lock while it puts pieces together, so a thread can do it beside the loop."""

_WITH_BASE64_DECODED = 1.75
"""What a JSON body and the pictures decoded from it take, of its length: counted from the start, so that no body that
is there has to wait for room once more."""

Options = TypeVar("Options", bound=AnswerFormat)
Line = TypeVar("Line")


@dataclass(frozen=True, slots=True)
class PictureRequest(Generic[Options]):
    """A request that was understood."""

    pictures: list[PictureSource]
    options: Options
    others: list[PictureSource] | None = None
    """Only `/compare` has them."""


class Bodies:
    """Reads bodies. Belongs to the event loop."""

    def __init__(self, limits: RequestLimits, pool: WorkPool, byte_budget: ByteBudget) -> None:
        self._limits = limits
        self._pool = pool
        self._byte_budget = byte_budget
        self._known: dict[tuple[type[AnswerFormat], bytes], tuple[AnswerFormat, list[str]]] = {}

    async def read(
        self, request: Request, options_model: type[Options], body_model: type[PicturesBody]
    ) -> PictureRequest[Options]:
        """Read a request's pictures and options.

        Args:
            request: Its body has not been read.
            options_model: Filled from the form or the query when the pictures travel as such.
            body_model: `options_model` and the pictures; filled from JSON or msgpack.

        Raises:
            UnsupportedMediaError: The Content-Type is none of those accepted; or it is missing, and the body is no
                object of JSON.
            BodyTooLargeError: More bytes than allowed came.
            RequestError: The body is not what its type says, or a field is wrong.
        """
        context = context_of(request)
        content_type = context.header(b"content-type") or ""
        media_type = self._media_type(context)
        is_untyped = not content_type.strip()
        if media_type == JSON_TYPE or is_untyped:
            found = await self._read_fields(request, parse_json, options_model, body_model, is_untyped=is_untyped)
        elif media_type in MSGPACK_TYPES:
            found = await self._read_fields(request, parse_msgpack, options_model, body_model)
        elif media_type == MULTIPART_TYPE:
            found = await self._read_form(request, content_type, options_model)
        elif media_type == "application/octet-stream" or media_type.startswith("image/"):
            body = await self._read_bytes(request)
            found = PictureRequest([EncodedPicture(body)], self.read_query(request, options_model))
        else:
            raise _unsupported(ACCEPTED_TYPES)
        context.wants_msgpack = context.wants_msgpack or found.options.msgpack
        if len(found.pictures) + len(found.others or ()) > self._limits.max_images:
            raise _too_many_pictures(self._limits.max_images)
        return found

    def _media_type(self, context: RequestContext) -> str:
        encoding = context.header(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            raise UnsupportedMediaError("A compressed body is not accepted; send it as it is.")
        return (context.header(b"content-type") or "").partition(";")[0].strip().lower()

    def read_query(self, request: Request, options_model: type[Options]) -> Options:
        """Return the options a query means; callers ask for the same again and again, so what it means is kept.

        Raises:
            RequestError: A field is wrong.
        """
        key = (options_model, request.scope["query_string"])
        options, ignored = self._known.get(key, (None, []))
        if not isinstance(options, options_model):
            fields = _joined(_query(request))
            options, ignored = validate(options_model, fields), _misspelt(fields, options_model)
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if len(key[1]) <= _MAX_KNOWN_BYTES:
                self._known[key] = options, ignored
        if ignored:
            context_of(request).ignored += ignored
        return options

    async def _read_fields(
        self,
        request: Request,
        parse: Callable[..., Structure],
        options_model: type[Options],
        body_model: type[PicturesBody],
        *,
        is_untyped: bool = False,
    ) -> PictureRequest[Options]:
        context = context_of(request)
        growth = _WITH_BASE64_DECODED if parse is parse_json else 1.0
        body = await self._read_bytes(request, growth, is_untyped=is_untyped)

        def understand() -> PictureRequest[Options]:
            structure, fields = self._understood(body, parse, body_model, context)
            if not isinstance(fields, options_model):  # pragma: no cover - every body model extends its options
                raise TypeError(f"{body_model.__name__} has no options")
            others: Images | None = getattr(fields, "others", None)
            # A model that has a default for them takes something in their place.
            are_meant = "images" in fields.model_fields_set
            return PictureRequest(
                _pictures(fields.images, "images", fields.img_req_headers, structure) if are_meant else [],
                fields,
                None if others is None else _pictures(others, "others", fields.img_req_headers, structure),
            )

        return await self._pool.run(understand) if len(body) > _LARGE_BODY_BYTES else understand()

    def _understood(
        self, body: bytes, parse: Callable[..., Structure], model: type[Model], context: RequestContext
    ) -> tuple[Structure, Model]:
        structure = parse(body, max_images=self._limits.max_images)
        if not issubclass(model, PicturesBody):
            structure = structure._replace(value=_whole(structure.value, structure))
        given = _restored(structure, self._limits.max_images)
        context.ignored += _misspelt(given, model)
        if structure.num_bytes < len(body):
            context.ignored.append(f"{TRAILING_BYTES}{len(body) - structure.num_bytes}")
        return structure, validate(model, given)

    async def read_fields(self, request: Request, model: type[Options], *, list_as: str | None = None) -> Options:
        """Read a body of JSON or msgpack that has no pictures; errors are those of `read`.

        Args:
            request: Its body has not been read.
            model: What is in it.
            list_as: Field of `model` that a body which is a list stands for; None: a body is an object.
        """
        context = context_of(request)
        media_type = self._media_type(context)
        if media_type != JSON_TYPE and media_type not in MSGPACK_TYPES:
            raise _unsupported((JSON_TYPE, *sorted(MSGPACK_TYPES)))
        parse = parse_json if media_type == JSON_TYPE else parse_msgpack

        def parse_named(body: bytes, *, max_images: int) -> Structure:
            structure = parse(body, max_images=max_images)
            is_list = list_as is not None and isinstance(structure.value, list)
            return structure._replace(value={list_as: structure.value}) if is_list else structure

        body = await self._read_bytes(request)
        _, fields = self._understood(body, parse_named, model, context)
        context.wants_msgpack = context.wants_msgpack or fields.msgpack
        return fields

    async def read_lines(self, request: Request, parse: Callable[[bytes], Line]) -> list[Line]:
        """Read a body of lines of JSON, and return what `parse` makes of each; empty ones are passed over.

        Errors are those of `read`, and those of `parse` with the number of the line before them.
        """
        if self._media_type(context_of(request)) not in LINES_TYPES:
            raise _unsupported(LINES_TYPES)
        body = await self._read_bytes(request, _WITH_BASE64_DECODED)
        return await self._pool.run(_parsed_lines, body, parse)

    async def _read_form(
        self, request: Request, content_type: str, options_model: type[Options]
    ) -> PictureRequest[Options]:
        boundary = _boundary(content_type)
        query = _query(request)
        context = context_of(request)
        takes_others = issubclass(options_model, CompareFields)
        body = await self._read_bytes(request)

        def understand() -> PictureRequest[Options]:
            form = _Form(body, boundary, query, max_files=self._limits.max_images, takes_others=takes_others)
            fields = _joined(form.fields)
            context.ignored += _misspelt(fields, options_model)
            options = validate(options_model, fields)
            return PictureRequest(form.pictures(FILE_FIELD), options, form.pictures(OTHER_FIELD) or None)

        return await self._pool.run(understand) if len(body) > _LARGE_BODY_BYTES else understand()

    async def _read_bytes(self, request: Request, growth: float = 1.0, *, is_untyped: bool = False) -> bytes:
        """Read a body that takes `growth` times its length until its request is answered.

        One that is untyped is refused as soon as it does not begin as an object of JSON.
        """
        pieces: list[bytes] = []
        num_bytes, has_more = 0, True
        share: Share | None = None
        while has_more:
            piece, has_more = await self._read_piece(request, num_bytes)
            num_bytes += len(piece)
            pieces.append(piece)
            if is_untyped and ((begun := piece.lstrip(b" \t\r\n")) or not has_more):
                if not begun.startswith(b"{"):
                    raise _unsupported(ACCEPTED_TYPES)
                is_untyped = False
            if num_bytes > UNCOUNTED_BYTES:
                context = context_of(request)
                grown = len(piece)
                if share is None:
                    share, grown = self._share(context), num_bytes
                await share.grow(round(grown * growth), deadline=context.deadline)
        if share is not None:
            share.complete()
        if num_bytes > _LONG_BODY_BYTES:
            return await self._pool.run(partial(b"".join, pieces))
        return b"".join(pieces)

    def _share(self, context: RequestContext) -> Share:
        share = self._byte_budget.share(lambda: context.end(too_slow()))
        context.held_bytes = lambda: share.held
        context.at_end = share.close
        return share

    async def _read_piece(self, request: Request, num_before: int) -> tuple[bytes, bool]:
        """Return the next bytes of a body, and whether more come. Counts: a declared length may be missing or a lie."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if num_before + len(piece) > self._limits.max_body_bytes:
            raise BodyTooLargeError("The body is too long.", max_body_bytes=self._limits.max_body_bytes)
        return piece, message.get("more_body", False)


class _Form:
    """A form that was read whole: where its files lie, and its fields.

    The boundary is looked for in the body as it lies. A parser that is fed goes through what looks like the beginning
    of one byte by byte, and keeps each file once more.
    """

    def __init__(
        self, body: bytes, boundary: bytes, fields: list[tuple[str, str]], *, max_files: int, takes_others: bool
    ) -> None:
        """Find the parts.

        Args:
            body: The whole of it.
            boundary: What its Content-Type says.
            fields: Those of the query; the form's come after them.
            max_files: Most files.
            takes_others: Whether there are two kinds of files.

        Raises:
            RequestError: Cut off or otherwise broken, too many parts, a field too long, a file that nothing takes.
        """
        self.fields = fields
        self._body = body
        self._files: dict[str, list[tuple[int, int]]] = {FILE_FIELD: [], OTHER_FIELD: []}
        num_fields = num_files = 0
        for head, start, end in _parts(body, boundary):
            name, is_file = _name_of_part(head)
            kind = _kind_of_file(name, takes_others=takes_others)
            # Some clients give neither a file name nor a type; a picture that is no field's text is told by its bytes.
            is_file = is_file or is_picture(body[start : min(end, start + _SNIFFED_BYTES)])
            if kind is not None:
                num_files += 1
                if num_files > max_files:
                    raise _too_many_pictures(max_files)
                self._files[kind].append((start, end))
            elif is_file:
                raise RequestError(
                    f"{_shown(name)}: no file is taken under this name; pictures are parts named {FILE_FIELD}."
                )
            else:
                num_fields += 1
                if num_fields > _MAX_FIELDS:
                    raise RequestError("Too many fields in the form.", max_fields=_MAX_FIELDS)
                if end - start > _MAX_FIELD_BYTES:
                    raise RequestError(f"{_shown(name)}: too long.", max_field_bytes=_MAX_FIELD_BYTES)
                fields.append((name, body[start:end].decode("utf-8", "replace")))
        if not self._files[FILE_FIELD]:
            raise RequestError(
                f"{FILE_FIELD}: a multipart body has at least one file part of this name.", missing=FILE_FIELD
            )

    def pictures(self, kind: str) -> list[PictureSource]:
        """Return the files of `FILE_FIELD` or `OTHER_FIELD`, in the order in which they came."""
        return [EncodedPicture(self._body[start:end]) for start, end in self._files[kind]]


def _parsed_lines(body: bytes, parse: Callable[[bytes], Line]) -> list[Line]:
    parsed: list[Line] = []
    start = 0
    for number in range(1, _MAX_LINES + 1):
        end = body.find(b"\n", start)
        line = body[start : end if end >= 0 else len(body)]
        try:
            if line.strip():
                parsed.append(parse(line))
        except RequestError as error:
            raise RequestError(f"Line {number}: {error.message}", retry_after_s=None, **error.details) from None
        start = end + 1
        if not 0 < start < len(body):
            return parsed
    raise RequestError("Too many lines in one request.", max_lines=_MAX_LINES)


def _parts(body: bytes, boundary: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the head of each part of a form, and where its content begins and ends.

    Raises:
        RequestError: Not a form of this boundary, or cut off.
    """
    delimiter = b"\r\n--" + boundary
    found = _places(body, delimiter)
    start = len(delimiter) - 2 if body.startswith(delimiter[2:]) else next(found, -1) + len(delimiter)
    while not body.startswith(b"--", start):
        line_end = body.find(b"\r\n", start, start + _MAX_PART_HEAD_BYTES)
        head_end = body.find(b"\r\n\r\n", line_end, line_end + _MAX_PART_HEAD_BYTES)
        if line_end < 0 or head_end < 0 or body[start:line_end].strip(b" \t"):
            raise RequestError("The form is broken, or the head of a part is too long.")
        end = next((place for place in found if place >= head_end + 4), -1)
        if end < 0:
            raise RequestError("The form is cut off: its closing boundary is missing.")
        yield body[line_end:head_end], head_end + 4, end
        start = end + len(delimiter)


def _places(body: bytes, delimiter: bytes) -> Iterator[int]:
    """Yield where the delimiter of a form's parts is.

    A search of bytes takes up to 4 ms for a megabyte that was made for it, under the interpreter's lock; numpy's
    comparisons take less, and let go of it.

    Raises:
        RequestError: There is too much that looks like one.
    """
    if len(body) <= _LARGE_BODY_BYTES:
        place = body.find(delimiter)
        while place >= 0:
            yield place
            place = body.find(delimiter, place + len(delimiter))
        return
    first = int.from_bytes(delimiter[:4], "little")
    num_places = 0
    for start in range(0, len(body), _SEARCHED_BYTES):
        places: list[int] = []
        for begin in range(start, start + 4):
            num_words = max(0, min(_SEARCHED_BYTES, len(body) - begin)) // 4
            found = np.flatnonzero(np.frombuffer(body, "<u4", num_words, min(begin, len(body))) == first)
            num_places += len(found)
            if num_places > _MAX_PLACES:
                raise RequestError("The form has too many lines that begin as a boundary does.")
            places += (4 * found + begin).tolist()
        yield from (place for place in sorted(places) if body.startswith(delimiter, place))


def _name_of_part(head: bytes) -> tuple[str, bool]:
    """Return the name that the head of a part says, and whether it speaks of a file: by its name, or by its type.

    Raises:
        RequestError: It has no name.
    """
    name: bytes | None = None
    is_file = False
    for line in head.split(b"\r\n", _MAX_PART_HEADERS):
        field, _, value = line.partition(b":")
        header = field.strip().lower()
        if header == b"content-disposition" and name is None:
            _, said = parse_options_header(value.strip())
            name = said.get(b"name")
            # Its other spelling, `filename*`, is nothing to the parser.
            is_file = is_file or b"filename" in said or b"filename*" in value.lower()
        elif header == b"content-type":
            is_file = is_file or value.strip().lower().startswith((b"image/", b"application/octet-stream"))
    if name is None:
        raise RequestError("Each part of a form needs a Content-Disposition with a name.")
    return name.decode("utf-8", "replace"), is_file


def _kind_of_file(name: str, *, takes_others: bool) -> str | None:
    """Return the field that pictures under a part's name belong to; None: they are no pictures."""
    if _FILE_NAMES.fullmatch(name):
        return FILE_FIELD
    return OTHER_FIELD if takes_others and _OTHER_NAMES.fullmatch(name) else None


def _shown(name: str) -> str:
    """Return a name that the client made up, as far as it may be repeated."""
    return "".join(re.findall(r"[A-Za-z0-9_.\[\]-]", name[:64])) or "a part"


def _boundary(content_type: str) -> bytes:
    """Return a form's boundary.

    Raises:
        RequestError: There is none, or one that no client makes.
    """
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestError("A multipart body needs a boundary of 1 to 70 characters in its Content-Type.")
    return boundary


def _query(request: Request) -> list[tuple[str, str]]:
    """Return the fields of the query.

    Raises:
        RequestError: There are too many, or too much of it is escaped.
    """
    query: bytes = request.scope["query_string"]
    if query.count(b"%") > _MAX_ESCAPES:
        raise RequestError("Too much of the query is escaped; send it in a form.", max_escapes=_MAX_ESCAPES)
    try:
        return parse_qsl(query.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)
    except ValueError:
        raise RequestError("Too many fields in the query.", max_fields=_MAX_FIELDS) from None


def _misspelt(given: Mapping[str, Any], model: type[BaseModel]) -> list[str]:
    """Return what `x-ignored` says of fields that no option is called, but that look like one misspelt."""
    unknown = given.keys() - _names_of(model) - _INERT
    if not unknown:
        return []
    first = itertools.islice((name for name in given if name in unknown), _MAX_MISSPELT)
    likely = ((name, _likely_option(name, model)) for name in first if len(name) <= _MAX_OPTION_CHARS)
    return [f"{name.strip()};like={option}" for name, option in likely if option]


@cache
def _names_of(model: type[BaseModel]) -> frozenset[str]:
    return frozenset(model.model_fields)


@lru_cache(1024)
def _likely_option(name: str, model: type[BaseModel]) -> str | None:
    """Return the option that somebody may have meant by a name; callers say the same again and again."""
    found = _OPTION_NAME.fullmatch(name)
    if not found:
        return None
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[.-]", "_", found[1]).lower()
    known = _OF_INSIGHTFACE.get(plain)
    if known in model.model_fields:
        return known
    close = difflib.get_close_matches(plain, model.model_fields, n=1, cutoff=_LEAST_LIKENESS)
    return _only_one_begun(plain, model) or next(iter(close), None) or _only_one_begun(plain.rpartition("_")[2], model)


def _only_one_begun(beginning: str, model: type[BaseModel]) -> str | None:
    begun = [option for option in model.model_fields if option.startswith(beginning)]
    return begun[0] if len(begun) == 1 and len(beginning) >= _LEAST_BEGINNING else None


def _joined(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return fields by name; what is named more than once is joined: `a` and `b` to `a,b`, `[1]` and `[2]` to `[1,2]`.

    Where one value alone is meant, several are refused when they are checked.
    """
    joined: dict[str, Any] = {}
    for name, value in fields:
        before = joined.get(name)
        if before is None:
            joined[name] = value
        elif before.endswith("]") and value.startswith("["):
            joined[name] = f"{before[:-1]},{value[1:]}"
        else:
            joined[name] = f"{before},{value}"
    return joined


def _restored(structure: Structure, max_images: int) -> dict[str, Any]:
    """Return a body's fields with what was cut out of them, as far as it can belong there.

    Raises:
        RequestError: Not an object, or too many pictures: counted before any is looked at.
    """
    if not isinstance(structure.value, dict):
        raise RequestError("The body is not an object.")
    fields = _with_lists(structure.value)
    for images in (fields.get("images"), fields.get("others")):
        if isinstance(images, dict):
            lists = {name: items for name in ("data", "urls") if isinstance(items := images.get(name), list)}
            if any(len(items) > max_images for items in lists.values()):
                raise _too_many_pictures(max_images)
            for name, items in lists.items():
                images[name] = list(map(structure.found if name == "data" else structure.text, items))
    if structure.cuts:
        headers = fields.get("img_req_headers")
        if isinstance(headers, dict):
            fields["img_req_headers"] = {name: structure.text(value) for name, value in headers.items()}
        if isinstance(vectors := fields.get("vectors"), list):
            fields["vectors"] = [structure.text(vector) for vector in vectors]
        fields = {name: structure.text(value) for name, value in fields.items()}
    return fields


def _with_lists(fields: dict[str, Any]) -> dict[str, Any]:
    """Return fields with a picture that stands alone as a list of one."""
    for name, kind in _ALONE.items():
        if name in fields and kind not in fields:
            fields[kind] = {"data": [fields.pop(name)]}
    return fields


def _whole(value: Any, structure: Structure, depth: int = 0) -> Any:
    """Return a value with all texts that were cut out of it.

    Raises:
        RequestError: It is nested too deep.
    """
    if depth > _MAX_DEPTH:
        raise RequestError("The body is nested too deep.", max_depth=_MAX_DEPTH)
    if isinstance(found := structure.found(value), Cut):
        return structure.text(value) if found.is_text else None
    if isinstance(value, dict):
        return {key: _whole(item, structure, depth + 1) for key, item in value.items()}
    return [_whole(item, structure, depth + 1) for item in value] if isinstance(value, list) else value


def _unsupported(accepted: Sequence[str]) -> UnsupportedMediaError:
    return UnsupportedMediaError(f"Send one of these as Content-Type: {', '.join(accepted)}.", accepted=list(accepted))


def _too_many_pictures(max_images: int) -> RequestError:
    return RequestError("Too many pictures in one request.", max_images=max_images)


def _pictures(images: Images, name: str, headers: Mapping[str, str], structure: Structure) -> list[PictureSource]:
    """Return the sources a body names; URLs win over data, as in InsightFace-REST."""
    if images.urls:
        return [RemotePicture(url, headers) for url in images.urls]
    if images.data is None and images.urls is None:
        raise RequestError(f"{name}: either data or urls is needed.")
    return [_picture(picture, structure) for picture in images.data or ()]


def _picture(picture: str | bytes | Cut, structure: Structure) -> PictureSource:
    if isinstance(picture, bytes):
        return EncodedPicture(picture)
    if isinstance(picture, str):
        return Base64Picture(picture)
    if picture.is_text:
        return Base64Picture(structure.base64(picture))
    return EncodedPicture(structure.body[picture.start : picture.end])
