"""Request bodies: JSON, msgpack, multipart or a picture itself become pictures and options, within limits."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

import orjson
import ormsgpack
from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from app.api.context import MSGPACK_TYPES, context_of
from app.api.schemas import AnswerFormat, Images, PicturesBody, validate
from app.api.services import RequestLimits
from app.errors import BodyTooLargeError, RequestError, UnsupportedMediaError
from app.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture
from app.pipeline.pool import WorkPool

PICTURE_TYPES = frozenset({"image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif"})
MULTIPART_TYPE = "multipart/form-data"
JSON_TYPE = "application/json"
ACCEPTED_TYPES = (JSON_TYPE, *sorted(MSGPACK_TYPES), MULTIPART_TYPE, *sorted(PICTURE_TYPES))

FILE_FIELD = "file"
OTHER_FIELD = "other"
"""Multipart field of the pictures that `/compare` compares the first ones with."""

_BOUNDARY = re.compile(rb"[ !#-\[\]-~]{1,70}")
_MAX_FIELDS = 64
_MAX_FIELD_BYTES = 2**20
_MAX_KNOWN = 256
_MAX_KNOWN_BYTES = 1024
"""Most queries whose meaning is kept, and the longest of them."""

_LARGE_BODY_BYTES = 2**18
"""A quarter of a megabyte parses in less time than a hop to another thread is worth."""

Options = TypeVar("Options", bound=AnswerFormat)


@dataclass(frozen=True, slots=True)
class PictureRequest(Generic[Options]):
    """A request that was understood."""

    pictures: list[PictureSource]
    options: Options
    others: list[PictureSource] | None = None
    """Only `/compare` has them."""


class Bodies:
    """Reads bodies. Belongs to the event loop."""

    def __init__(self, limits: RequestLimits, pool: WorkPool) -> None:
        self._limits = limits
        self._pool = pool
        self._known: dict[tuple[type[AnswerFormat], bytes], AnswerFormat] = {}

    async def read(
        self, request: Request, options_model: type[Options], body_model: type[PicturesBody]
    ) -> PictureRequest[Options]:
        """Read a request's pictures and options.

        Args:
            request: Its body has not been read.
            options_model: Filled from the form or the query when the pictures travel as such.
            body_model: `options_model` and the pictures; filled from JSON or msgpack.

        Raises:
            UnsupportedMediaError: The Content-Type is missing or none of those accepted.
            BodyTooLargeError: More bytes than allowed came.
            RequestError: The body is not what its type says, or a field is wrong.
        """
        context = context_of(request)
        content_type = context.header(b"content-type") or ""
        media_type = content_type.partition(";")[0].strip().lower()
        encoding = context.header(b"content-encoding")
        if encoding is not None and encoding.strip().lower() != "identity":
            raise UnsupportedMediaError("A compressed body is not accepted; send it as it is.")
        if media_type == JSON_TYPE:
            found = await self._read_fields(request, _parse_json, options_model, body_model)
        elif media_type in MSGPACK_TYPES:
            found = await self._read_fields(request, _parse_msgpack, options_model, body_model)
        elif media_type == MULTIPART_TYPE:
            found = await self._read_form(request, content_type, options_model)
        elif media_type in PICTURE_TYPES:
            body = await self._read_bytes(request)
            found = PictureRequest([EncodedPicture(body)], self._options_of_query(request, options_model))
        else:
            raise UnsupportedMediaError(
                f"Send one of these as Content-Type: {', '.join(ACCEPTED_TYPES)}.", accepted=list(ACCEPTED_TYPES)
            )
        context.wants_msgpack = context.wants_msgpack or found.options.msgpack
        if len(found.pictures) + len(found.others or ()) > self._limits.max_images:
            raise RequestError("Too many pictures in one request.", max_images=self._limits.max_images)
        return found

    def _options_of_query(self, request: Request, options_model: type[Options]) -> Options:
        """Return the options a query means; callers ask for the same again and again, so what it means is kept."""
        key = (options_model, request.scope["query_string"])
        options = self._known.get(key)
        if not isinstance(options, options_model):
            options = validate(options_model, _query(request))
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            if len(key[1]) <= _MAX_KNOWN_BYTES:
                self._known[key] = options
        return options

    async def _read_fields(
        self,
        request: Request,
        parse: Callable[[bytes], object],
        options_model: type[Options],
        body_model: type[PicturesBody],
    ) -> PictureRequest[Options]:
        body = await self._read_bytes(request)

        def understand() -> PictureRequest[Options]:
            value = parse(body)
            if not isinstance(value, Mapping):
                raise RequestError("The body is not an object.")
            fields = validate(body_model, value)
            if not isinstance(fields, options_model):  # pragma: no cover - every body model extends its options
                raise TypeError(f"{body_model.__name__} has no options")
            others: Images | None = getattr(fields, "others", None)
            return PictureRequest(
                _pictures(fields.images, "images", fields.img_req_headers),
                fields,
                None if others is None else _pictures(others, "others", fields.img_req_headers),
            )

        return await self._pool.run(understand) if len(body) > _LARGE_BODY_BYTES else understand()

    async def _read_form(
        self, request: Request, content_type: str, options_model: type[Options]
    ) -> PictureRequest[Options]:
        parser = _Form(
            _form_headers(content_type),
            self._stream(request),
            max_files=self._limits.max_images,
            max_fields=_MAX_FIELDS,
            max_part_size=_MAX_FIELD_BYTES,
        )
        # The body's own limit bounds what is held in memory; nothing is written to disk.
        parser.spool_max_size = self._limits.max_body_bytes + 1
        try:
            form = await parser.parse()
        except MultiPartException as cause:
            raise RequestError(cause.message) from None
        pictures: dict[str, list[PictureSource]] = {FILE_FIELD: [], OTHER_FIELD: []}
        fields: dict[str, Any] = {**_query(request)}
        for name, part in form.multi_items():
            if not isinstance(part, UploadFile):
                fields[name] = part
            elif name in pictures:
                pictures[name].append(EncodedPicture(await part.read()))
        await form.close()
        if not pictures[FILE_FIELD]:
            raise RequestError(f"{FILE_FIELD}: a multipart body has at least one file part of this name.")
        return PictureRequest(pictures[FILE_FIELD], validate(options_model, fields), pictures[OTHER_FIELD] or None)

    async def _read_bytes(self, request: Request) -> bytes:
        pieces: list[bytes] = []
        num_bytes, has_more = 0, True
        while has_more:
            piece, has_more = await self._read_piece(request, num_bytes)
            num_bytes += len(piece)
            pieces.append(piece)
        return b"".join(pieces)

    async def _stream(self, request: Request) -> AsyncGenerator[bytes, None]:
        num_bytes, has_more = 0, True
        while has_more:
            piece, has_more = await self._read_piece(request, num_bytes)
            num_bytes += len(piece)
            yield piece

    async def _read_piece(self, request: Request, num_before: int) -> tuple[bytes, bool]:
        """Return the next bytes of a body, and whether more come. Counts: a declared length may be missing or a lie."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        if num_before + len(piece) > self._limits.max_body_bytes:
            raise BodyTooLargeError("The body is too long.", max_body_bytes=self._limits.max_body_bytes)
        return piece, message.get("more_body", False)


class _Form(MultiPartParser):
    """Starlette's parser, which takes a form that was cut off for a whole one: pictures would be lost unnoticed."""

    def __init__(self, headers: Headers, stream: AsyncGenerator[bytes, None], **limits: int) -> None:
        super().__init__(headers, self._until_the_end(stream), **limits)
        self._has_ended = False

    def on_end(self) -> None:
        """Note the closing boundary."""
        self._has_ended = True

    async def _until_the_end(self, stream: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in stream:
            yield chunk
        if not self._has_ended:
            raise MultiPartException("The form is cut off: its closing boundary is missing.")


def _form_headers(content_type: str) -> Headers:
    """Return a form's Content-Type with its boundary alone.

    Of the rest the parser would look at `charset`, and decode the fields by any codec of Python's: one is made to
    fail, others take time by the square of the length.

    Raises:
        RequestError: There is no boundary, or one that no client makes.
    """
    _, parameters = parse_options_header(content_type)
    boundary = parameters.get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise RequestError("A multipart body needs a boundary of 1 to 70 characters in its Content-Type.")
    return Headers(raw=[(b"content-type", b'multipart/form-data; boundary="%s"' % boundary)])


def _query(request: Request) -> dict[str, str]:
    """Return the query; of what is named more than once, the last."""
    return dict(parse_qsl(request.scope["query_string"].decode("latin-1"), keep_blank_values=True))


def _parse_json(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        # Its own message may repeat a piece of the body.
        raise RequestError("The body is not JSON, or is nested too deep.") from None


def _parse_msgpack(body: bytes) -> object:
    try:
        return ormsgpack.unpackb(body)
    except ormsgpack.MsgpackDecodeError:
        raise RequestError("The body is not msgpack, or is nested too deep.") from None


def _pictures(images: Images, name: str, headers: Mapping[str, str]) -> list[PictureSource]:
    """Return the sources a body names; URLs win over data, as in InsightFace-REST."""
    if images.urls:
        return [RemotePicture(url, headers) for url in images.urls]
    if images.data is None and images.urls is None:
        raise RequestError(f"{name}: either data or urls is needed.")
    return [
        EncodedPicture(picture) if isinstance(picture, bytes) else Base64Picture(picture)
        for picture in images.data or ()
    ]
