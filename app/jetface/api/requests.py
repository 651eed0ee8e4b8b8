"""What requests may say: fields, types and defaults, counted before anything is built of them.

What a parser makes of a body can be a hundred times the body: a list, an object, an error for each two bytes. So a body
is first looked through without building anything. Its long strings, which are pictures if they are anything, stay where
they lie; a marker takes the place of each. What remains is the body's *structure*: it is short, the values in it are
counted, and only it is handed to the parser.

Each route has a model of its options, which a form or a query can fill, and a model of its body for JSON and msgpack,
which adds the pictures. A number or flag that is null counts as not given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import numpy as np
import orjson
import ormsgpack
from annotated_types import Ge, Le, MaxLen
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    InstanceOf,
    ValidationError,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from jetface.domain import ExtractOptions, Rotations
from jetface.errors import RequestError
from jetface.heads.families import FAMILIES
from jetface.heads.genderage import GenderAge
from jetface.heads.seeta_mask import Mask

MAX_ITEMS = 20_000
"""Most values of a body beside its pictures, lists and keys included: landmarks of 1,249 faces, boxes of 3,999."""

_MAX_TEXTS = 2**12
"""Most texts of a JSON body, keys included. There are not fifty beside pictures and headers; each is looked for."""

_LONG_BYTES = 2**9
"""A string from this length on is left where it lies; copied with the rest it would cost more than its marker."""

_MAX_STRUCTURE_BYTES = 2**18
"""Most bytes of a body's structure, beside pictures that are not long. orjson sets aside twelve times as many."""

_SHORT_BODY_BYTES = 2**14
"""A body up to this length cannot hold more than can be borne."""

_MARK = ""
"""The one key of a marker; its value is the number of the string that was cut out."""

_ITEMS_OF_PICTURE = 2
"""A picture, and the comma of `data:...;base64,` in it."""

_MAX_TEXT_BYTES = 2**16
"""Longest text of an option: a URL of 8,192 characters, each of them escaped."""

_MAX_ESCAPED_QUOTES = 2**12
"""Most quotes in one text."""

_MAX_BACKSLASHES = 256
"""A longer run of them in front of a quote is refused: whether it escapes the quote would have to be counted."""

_QUOTE, _BACKSLASH = b'"', b"\\"
_ESCAPES = (
    (b"\\/", b"/"), (b"\\u002B", b"+"), (b"\\u002b", b"+"), (b"\\u003d", b"="), (b"\\u003D", b"="),
    (b"\\u002F", b"/"), (b"\\u002f", b"/"), (b"\\n", b"\n"), (b"\\r", b"\r"), (b"\\t", b"\t"),
    (b"\\f", b"\f"), (b"\\u000B", b"\v"), (b"\\u000b", b"\v"),
)  # fmt: skip
_OPENERS = b",:[{"
"""What comes before every value of JSON but the first: as many of them, as many values or fewer."""


class Cut:
    """A long text or binary of a body, where it lies. A plain class: pydantic would describe any other to callers."""

    __slots__ = ("end", "is_text", "start")

    def __init__(self, start: int, end: int, *, is_text: bool) -> None:
        self.start = start
        self.end = end
        self.is_text = is_text


class Structure(NamedTuple):
    """A body that was taken apart."""

    value: Any
    """What was parsed; `found` tells what a marker in it stands for."""
    body: bytes
    cuts: list[Cut]
    num_bytes: int
    """Bytes that were read; what lies behind them does not belong to the value."""
    is_json: bool

    def found(self, item: Any) -> Any:
        """Return the `Cut` that `item` is the marker of; any other item as it is."""
        if type(item) is dict and len(item) == 1:
            number = item.get(_MARK)
            if type(number) is int and 0 <= number < len(self.cuts):
                return self.cuts[number]
        return item

    def text(self, item: Any) -> Any:
        """Return the text that `item` is the marker of, or as much of it as shows that it is too long for an option.

        Any other item is returned as it is.
        """
        cut = self.found(item)
        if not (isinstance(cut, Cut) and cut.is_text):
            return item
        content = self.body[cut.start : min(cut.end, cut.start + _MAX_TEXT_BYTES)]
        if self.is_json and cut.end - cut.start <= _MAX_TEXT_BYTES:
            with contextlib.suppress(orjson.JSONDecodeError):
                return orjson.loads(b'"%b"' % content)
        return content.decode("utf-8", "replace") if not self.is_json else content.decode("latin-1")

    def base64(self, cut: Cut) -> memoryview:
        """Return a text that is meant to be base64, without a copy if it needs no unescaping.

        Encoders escape `/` (PHP), `+` (.NET), `=` (Java) and the ends of lines. A text with other escapes is no base64.
        """
        if not self.is_json or self.body.find(_BACKSLASH, cut.start, cut.end) < 0:
            return memoryview(self.body)[cut.start : cut.end]
        text = self.body[cut.start : cut.end]
        for escaped, plain in _ESCAPES:
            text = text.replace(escaped, plain)
        return memoryview(text)


def parse_json(body: bytes, *, max_images: int = 0) -> Structure:
    """Take JSON apart.

    Args:
        body: UTF-8.
        max_images: Most pictures, which are allowed beyond `MAX_ITEMS`.

    Raises:
        RequestError: Not JSON, nested too deep, too many values or too much beside long strings.
    """
    structure, cuts = body, list[Cut]()
    if len(body) > _SHORT_BODY_BYTES:
        structure = _cut_json(body, cuts, max_images)
    try:
        return Structure(orjson.loads(structure), body, cuts, len(body), is_json=True)
    except orjson.JSONDecodeError:
        # Its own message may repeat a piece of the body.
        raise RequestError("The body is not JSON, or is nested too deep.") from None


def _cut_json(body: bytes, cuts: list[Cut], max_images: int) -> bytes:
    """Return JSON with markers for its long strings, whose places are added to `cuts`."""
    max_texts, max_items = _MAX_TEXTS + max_images, _max_items(max_images)
    pieces: list[bytes] = []
    find = body.find
    kept_to = end = num_cut_bytes = 0
    for _ in range(max_texts):
        start = find(_QUOTE, end)
        if start < 0:
            break
        end = find(_QUOTE, start + 1)
        if end > 0 and body[end - 1] == _BACKSLASH[0]:
            end = _closing_quote(body, start + 1, end)
        if end < 0:
            break
        if end - start > _LONG_BYTES:
            pieces += (body[kept_to:start], b'{"%b":%d}' % (_MARK.encode(), len(cuts)))
            cuts.append(Cut(start + 1, end, is_text=True))
            num_cut_bytes += end - start
            kept_to = end + 1
        end += 1
    else:
        raise RequestError("Too many texts in the body.", max_texts=max_texts)
    _check_length(len(body) - num_cut_bytes, max_images)
    structure = b"".join((*pieces, body[kept_to:])) if cuts else body
    if len(structure) - len(structure.translate(None, _OPENERS)) >= max_items:
        raise _too_many(max_items)
    return structure


def _closing_quote(body: bytes, first: int, end: int) -> int:
    """Return where a string ends whose first quote may be escaped; -1: nowhere.

    Args:
        body: JSON.
        first: Where the string's text begins.
        end: Where its first quote is.
    """
    for _ in range(_MAX_ESCAPED_QUOTES):
        before = body[max(first, end - _MAX_BACKSLASHES) : end]
        num_backslashes = len(before) - len(before.rstrip(_BACKSLASH))
        if num_backslashes == _MAX_BACKSLASHES:
            break
        if num_backslashes % 2 == 0:
            return end
        end = body.find(_QUOTE, end + 1)
        if end < 0:
            return end
    raise RequestError("A text of the body has too many escapes.")


def parse_msgpack(body: bytes, *, max_images: int = 0) -> Structure:
    """Take the first message of msgpack apart.

    Args:
        body: One message; what lies behind it is not looked at.
        max_images: Most pictures, which are allowed beyond `MAX_ITEMS`.

    Raises:
        RequestError: Not msgpack, nested too deep, too many values or too much beside long strings.
    """
    cuts: list[Cut] = []
    try:
        structure, num_bytes = _cut_msgpack(body, cuts, max_images)
        return Structure(ormsgpack.unpackb(structure), body, cuts, num_bytes, is_json=False)
    except (IndexError, KeyError, ormsgpack.MsgpackDecodeError):
        raise RequestError("The body is not msgpack, or is nested too deep.") from None


def _cut_msgpack(body: bytes, cuts: list[Cut], max_images: int) -> tuple[bytes, int]:
    """Return a message with markers for its long strings, and its length; their places are added to `cuts`."""
    max_items = _max_items(max_images)
    pieces: list[bytes] = []
    sizes, inside = _SIZES, _INSIDE
    at = kept_to = num_cut_bytes = 0
    num_left = num_items = 1
    while num_left:
        code = body[at]
        num_left -= 1
        if size := sizes[code]:
            at += size
            if num_inside := inside[code]:
                num_left += num_inside
                num_items += num_inside
        else:
            width, num_more, per_entry = _LENGTHS[code]
            start = at + 1 + width
            length = int.from_bytes(body[at + 1 : start], "big")
            if per_entry:
                num_left += per_entry * length
                num_items += per_entry * length
                at = start
            else:
                end = start + num_more + length
                if length >= _LONG_BYTES and not num_more:
                    pieces += (body[kept_to:at], b"\x81\xa0\xce" + len(cuts).to_bytes(4, "big"))
                    cuts.append(Cut(start, end, is_text=code in _TEXTS))
                    num_cut_bytes += length
                    kept_to = end
                at = end
        if num_items > max_items:
            raise _too_many(max_items)
    if at > len(body):
        raise IndexError
    _check_length(at - num_cut_bytes, max_images)
    return b"".join((*pieces, body[kept_to:at])), at


def _max_items(max_images: int) -> int:
    return MAX_ITEMS + _ITEMS_OF_PICTURE * max_images


def _check_length(num_bytes: int, max_images: int) -> None:
    most = _MAX_STRUCTURE_BYTES + _LONG_BYTES * max_images
    if num_bytes > most:
        raise RequestError("There is too much in the body beside its pictures.", max_structure_bytes=most)


def _too_many(max_items: int) -> RequestError:
    return RequestError("Too many values in the body.", max_items=max_items)


def _sizes_of_msgpack() -> tuple[bytes, bytes]:
    """Return for each first byte how many the head takes with what has no length of its own, and the values inside.

    Size 0: a length follows, see `_LENGTHS`; or 0xc1, which means nothing.
    """
    sizes, inside = bytearray([1] * 256), bytearray(256)
    for number in range(16):
        inside[0x80 + number] = 2 * number
        inside[0x90 + number] = number
    for length in range(32):
        sizes[0xA0 + length] = 1 + length
    fixed = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9,
             0xD4: 3, 0xD5: 4, 0xD6: 6, 0xD7: 10, 0xD8: 18}  # fmt: skip
    for code, size in fixed.items():
        sizes[code] = size
    for code in (0xC1, *_LENGTHS):
        sizes[code] = 0
    return bytes(sizes), bytes(inside)


_TEXTS = frozenset({0xD9, 0xDA, 0xDB})
_LENGTHS: dict[int, tuple[int, int, int]] = {
    0xC4: (1, 0, 0), 0xC5: (2, 0, 0), 0xC6: (4, 0, 0),  # binaries
    0xC7: (1, 1, 0), 0xC8: (2, 1, 0), 0xC9: (4, 1, 0),  # extensions, with their type
    0xD9: (1, 0, 0), 0xDA: (2, 0, 0), 0xDB: (4, 0, 0),  # texts
    0xDC: (2, 0, 1), 0xDD: (4, 0, 1), 0xDE: (2, 0, 2), 0xDF: (4, 0, 2),  # lists, maps
}  # fmt: skip
"""Bytes of the length, bytes between it and the content, values for each entry of a list (1) or map (2)."""
_SIZES, _INSIDE = _sizes_of_msgpack()


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much one request may ask for."""

    max_body_bytes: int = 64 * 2**20
    max_images: int = 128
    max_faces: int = 1024
    timeout_s: float = 30.0
    """Deadline of a request; a client may shorten it."""
    stall_s: float = 10.0
    """Longest silence within a body, and how long nearly nothing may come of it."""
    min_bytes_per_s: float = 1024.0
    """Slowest that a body may come in the long run: half a minute for a small photograph."""


class RequestDefaults(TypedDict):
    """What a request means that does not say; named as in InsightFace-REST's `/info`."""

    det_thresh: float
    extract_embedding: bool
    return_face_data: bool
    return_landmarks: bool
    extract_ga: bool
    detect_masks: bool


Model = TypeVar("Model", bound=BaseModel)

_INT32 = 2**31 - 1

Count = Annotated[int, Ge(-_INT32), Le(_INT32)]
Score = Annotated[float, Ge(0), Le(1), Field(allow_inf_nan=False)]
Coordinate = float
"""Any number: one that is in no picture fails the slot of the picture it was given for, not the request."""
EmbeddingFormat = Literal["float", "base64"]
TurnsLookedAt = Annotated[
    Rotations,
    Field(
        description="auto: a picture without a sure face is looked at in its other three quarter turns, too; "
        "`rotation` says which was taken, coordinates stay the picture's own."
    ),
]
Url = Annotated[str, MaxLen(8192)]
HeaderName = Annotated[str, Field(max_length=128, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
AttributeName = Annotated[str, MaxLen(64)]
_MAX_HEADERS = 64
HeaderValue = Annotated[str, Field(max_length=8192, pattern=r"^[\t -~]*$")]


_FIRST_FAULT_ENDS: Any = Field(fail_fast=True)
"""Ends the check of a list; else an error would be built for each of its items."""

_MAX_NAMES = 2**11
"""Most names in a list of them. There are not twenty, but each may come more than once."""


def comma_list(value: object) -> object:
    """Forms and queries say `a,b`; JSON may too."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",", _MAX_NAMES) if part.strip()]
    if isinstance(value, list) and len(value) > _MAX_NAMES:
        raise ValueError("too many names")
    return value


def json_text(value: object) -> object:
    """Forms and queries carry nested lists as JSON."""
    if isinstance(value, str):
        try:
            return parse_json(value.encode()).value
        except (RequestError, UnicodeEncodeError):
            raise ValueError("not JSON, or too much of it") from None
    return value


def _few_headers(value: object) -> object:
    """Count before any is looked at."""
    if isinstance(value, Mapping) and len(value) > _MAX_HEADERS:
        raise ValueError(f"more than {_MAX_HEADERS} headers")
    return value


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {name: item for name, item in value.items() if item is not None}
        return value


_TOLD_AS_TEXT: Any = WithJsonSchema({"type": "string"})
"""Of a picture: what it is in JSON."""


class Images(_Wire):
    """The pictures of a JSON or msgpack body."""

    data: Annotated[
        Annotated[list[Annotated[str | bytes | InstanceOf[Cut], _TOLD_AS_TEXT]], _FIRST_FAULT_ENDS] | None,
        Field(description="Base64, as it is or as a `data:` URL."),
    ] = None
    urls: Annotated[
        Annotated[list[Url], _FIRST_FAULT_ENDS] | None,
        Field(description="http(s) URLs, or paths below ROOT_IMAGES_DIR; `data` is ignored then."),
    ] = None


class PicturesBody(_Wire):
    """What a JSON or msgpack body has beyond the options."""

    images: Images
    img_req_headers: Annotated[
        dict[HeaderName, HeaderValue],
        MaxLen(_MAX_HEADERS),
        BeforeValidator(_few_headers),
        Field(description="Headers for downloads of `images.urls`."),
    ] = Field(default_factory=dict)


class AnswerFormat(_Wire):
    """Options every picture route takes."""

    msgpack: bool = Field(default=False, description="Answer as msgpack.")


class FaceSelection(AnswerFormat):
    """Which faces are wanted."""

    threshold: Annotated[Score | None, Field(description="Least detector score; null: the service's default.")] = None
    limit_faces: Count = Field(default=0, description="Keep the N largest by area, in that order; 0: all, by score.")
    min_face_size: Count = Field(default=0, description="Drop faces whose box is narrower, source pixels.")
    rotations: TurnsLookedAt = "none"


class InheritedSelection(FaceSelection):
    """Which faces are wanted, as InsightFace-REST takes it: any number is a threshold."""

    threshold: Annotated[
        Annotated[float, Field(allow_inf_nan=False), AfterValidator(lambda given: min(max(given, 0.0), 2.0))] | None,
        Field(description="Least detector score, null: the service's default; above 1 nothing is a face."),
    ] = None


ExtractField = Literal[
    "bbox", "prob", "num_det", "scale", "size", "norm", "vec", "gender", "age", "mask", "mask_probs", "landmarks",
    "facedata", "live", "is_live", "quality", "landmarks_from", "visible", "attributes",
]  # fmt: skip


class ExtractFields(InheritedSelection):
    """Options of `/extract`. A flag that is null or not given has the service's default."""

    embed_only: bool = Field(default=False, description="Pictures are aligned crops; nothing is detected.")
    return_face_data: bool | None = Field(default=None, description="Add `facedata`, the aligned crop as base64 JPEG.")
    return_landmarks: bool | None = Field(
        default=None, description="Add `landmarks`, 5 x [x, y], and `landmarks_from`."
    )
    landmarks_precise: bool = Field(
        default=False, description="Add `landmarks` as floats, as `/recognize` wants them, instead of whole numbers."
    )
    extract_embedding: bool | None = Field(default=None, description="Compute `vec` and `norm`.")
    extract_ga: bool | None = Field(default=None, description="Gender and age; null when no model is configured.")
    detect_masks: bool | None = Field(default=None, description="Masks; null when no model is configured.")
    detect_liveness: bool = Field(
        default=False, description="Add `live` and `is_live`; null when no model is configured. Not with `embed_only`."
    )
    attributes: Annotated[
        Annotated[tuple[AttributeName, ...], _FIRST_FAULT_ENDS, BeforeValidator(comma_list)],
        Field(description="Add what these models tell, by their names in `/info`, under `attributes`."),
    ] = ()
    return_quality: bool = Field(default=False, description="Add `quality` and `visible`. Not with `embed_only`.")
    min_quality: Score = Field(
        default=0.0,
        description="Drop faces whose quality is less, before anything else is done. Not with `embed_only`.",
    )
    verbose_timings: bool = Field(default=False, description="Add two timings to `took`.")
    embedding_format: EmbeddingFormat = Field(
        default="float", description="`vec` as numbers, or as base64 of little-endian float32."
    )
    fields: Annotated[
        Annotated[frozenset[ExtractField], _FIRST_FAULT_ENDS, BeforeValidator(comma_list)] | None,
        Field(description="Compute and return these keys of a face only; overrides the flags above."),
    ] = None


class ExtractBody(PicturesBody, ExtractFields):
    """Body of `/extract`."""

    @field_validator("images", mode="before")
    @classmethod
    def _may_be_empty(cls, value: object) -> object:
        """Neither list is no picture, as in InsightFace-REST; with a name that is no list's, it is a mistake."""
        is_empty = isinstance(value, Mapping) and all(item is None for item in value.values())
        return {"data": []} if is_empty else value


_ALWAYS = frozenset({"bbox", "prob", "num_det", "scale", "size"})
_EMBEDDING = frozenset({"norm", "vec"})
RECOGNITION_KEYS = _EMBEDDING | GenderAge.__annotations__.keys() | Mask.__annotations__.keys()
"""These come together, null where one of them was not asked for; with `embed_only` always."""
CROP_KEYS = RECOGNITION_KEYS | {"bbox", "size", "prob", "attributes"}
"""What a face may have of which there is only its crop."""

OWN_OPTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = tuple(
    (family.option, family.task, tuple(family.answer.__annotations__))
    for family in FAMILIES.values()
    if family.answer is not None and not family.is_named
)
"""Attributes with an option of their own: that, the attribute, and its keys."""

_KEYS_BY_FLAG: tuple[tuple[str, frozenset[str]], ...] = (
    ("extract_embedding", _EMBEDDING),
    *((option, frozenset(keys)) for option, _, keys in OWN_OPTIONS),
    ("attributes", frozenset({"attributes"})),
    ("return_quality", frozenset({"quality", "visible"})),
    ("landmarks_precise", frozenset({"landmarks", "landmarks_from"})),
    ("return_landmarks", frozenset({"landmarks", "landmarks_from"})),
    ("return_face_data", frozenset({"facedata"})),
)
"""What an option adds to a face beyond what is always there."""


@dataclass(frozen=True, slots=True)
class ExtractWish:
    """What a request to `/extract` wants: the keys of a face, and what has to be computed for them."""

    keys: frozenset[str]
    options: ExtractOptions
    named: tuple[str, ...]
    """Attributes that are told under `attributes`."""
    is_base64: bool
    with_warnings: bool
    """Whether what a caller should know of a face is told though nobody asked."""
    with_precise_landmarks: bool


def extract_wish(fields: ExtractFields, defaults: RequestDefaults, served: Sequence[str]) -> ExtractWish:
    """Fill in the service's defaults and decide what is computed and returned.

    Args:
        fields: The request's options.
        defaults: Of those that are null.
        served: Names of the attributes that are told by name here.

    Raises:
        RequestError: An attribute is asked for that is not among them.
    """
    for name in fields.attributes:
        if name not in served:
            known = ", ".join(served) or "none"
            raise RequestError(f"attributes: one that is not served is asked for; there are: {known}.")
    if fields.fields is not None:
        keys = computed = frozenset[str](fields.fields)
    else:
        computed = _computed_keys(fields, defaults)
        with_recognition = fields.embed_only or computed & RECOGNITION_KEYS
        keys = _ALWAYS | computed | (RECOGNITION_KEYS if with_recognition else frozenset())
    named = (fields.attributes or tuple(served)) if "attributes" in keys else ()
    own = [task for _, task, own_keys in OWN_OPTIONS if not computed.isdisjoint(own_keys)]
    return ExtractWish(
        keys=keys,
        options=ExtractOptions(
            score_threshold=defaults["det_thresh"] if fields.threshold is None else fields.threshold,
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            min_quality=fields.min_quality,
            rotations=fields.rotations,
            with_embedding=bool(computed & _EMBEDDING),
            with_crop="facedata" in computed,
            with_quality="quality" in computed,
            attributes=frozenset([*own, *named]),
        ),
        named=named,
        is_base64=fields.embedding_format == "base64",
        with_warnings=fields.fields is None,
        with_precise_landmarks=fields.landmarks_precise,
    )


def _computed_keys(fields: ExtractFields, defaults: RequestDefaults) -> frozenset[str]:
    """Return the keys the flags of a request ask for, beyond those that are always there."""
    keys: set[str] = set()
    for flag, of_flag in _KEYS_BY_FLAG:
        given = getattr(fields, flag)
        if given or (given is None and defaults.get(flag)):
            keys |= of_flag
    return frozenset(keys)


class DrawFields(InheritedSelection):
    """Options of `/draw_detections`."""

    draw_landmarks: bool = Field(default=True, description="Draw the five points.")
    draw_scores: bool = Field(default=True, description="Write the score above each box.")
    draw_sizes: bool = Field(default=True, description="Write the box's width beside the score.")


class DrawBody(PicturesBody, DrawFields):
    """Body of `/draw_detections`. The first picture is drawn."""


DetectField = Literal["box", "score", "landmarks", "landmarks_from", "visible"]


class DetectFields(FaceSelection):
    """Options of `/detect`."""

    fields: Annotated[
        Annotated[frozenset[DetectField], _FIRST_FAULT_ENDS, BeforeValidator(comma_list)] | None,
        Field(description="Return these keys of a face only."),
    ] = None


class DetectBody(PicturesBody, DetectFields):
    """Body of `/detect`."""


def _is_five_points(value: list[list[Coordinate]]) -> list[list[Coordinate]]:
    if len(value) != 5 or any(len(point) != 2 for point in value):
        raise ValueError("a face has five points [x, y]")
    return value


def _is_box(value: list[Coordinate]) -> list[Coordinate]:
    if len(value) != 4:
        raise ValueError("a box is [x1, y1, x2, y2]")
    return value


Coordinates = Annotated[list[Coordinate], _FIRST_FAULT_ENDS]
FacePoints = Annotated[list[Coordinates], _FIRST_FAULT_ENDS, AfterValidator(_is_five_points)]
FaceBox = Annotated[Coordinates, AfterValidator(_is_box)]
RecognizeField = Literal["embedding", "norm", "box", "score", "landmarks_from", "visible"]


class RecognizeFields(AnswerFormat):
    """Options of `/recognize`. Without `landmarks` and `boxes` every picture is an aligned crop."""

    landmarks: Annotated[
        Annotated[list[Annotated[list[FacePoints], _FIRST_FAULT_ENDS]], _FIRST_FAULT_ENDS, BeforeValidator(json_text)]
        | None,
        Field(description="Per picture, per face: five points [x, y], source pixels."),
    ] = None
    boxes: Annotated[
        Annotated[list[Annotated[list[FaceBox], _FIRST_FAULT_ENDS]], _FIRST_FAULT_ENDS, BeforeValidator(json_text)]
        | None,
        Field(description="Per picture, per face: [x1, y1, x2, y2], source pixels; not together with `landmarks`."),
    ] = None
    rotations: TurnsLookedAt = "none"
    embedding_format: EmbeddingFormat = "float"
    fields: Annotated[
        Annotated[frozenset[RecognizeField], _FIRST_FAULT_ENDS, BeforeValidator(comma_list)] | None,
        Field(description="Return these keys of a face only."),
    ] = None

    @model_validator(mode="after")
    def _one_kind(self) -> RecognizeFields:
        if self.landmarks is not None and self.boxes is not None:
            raise ValueError("landmarks and boxes exclude each other")
        return self


class RecognizeBody(PicturesBody, RecognizeFields):
    """Body of `/recognize`."""


class CompareFields(AnswerFormat):
    """Options of `/compare`."""

    threshold: Annotated[
        Annotated[float, Ge(-1), Le(1), Field(allow_inf_nan=False)] | None,
        Field(
            description="Least cosine similarity of one person; null: what suits the recognizer, as `/info` tells it."
        ),
    ] = None
    detection_threshold: Annotated[Score | None, Field(description="Least detector score.")] = None
    rotations: TurnsLookedAt = "none"


class CompareBody(PicturesBody, CompareFields):
    """Body of `/compare`: two pictures, or N in `images` against M in `others`."""

    others: Images | None = Field(default=None, description="Compare every picture of `images` with every one here.")


class PlatesFields(AnswerFormat):
    """Options of `/plates`."""

    threshold: Annotated[Score | None, Field(description="Least detector score; null: what suits the detector.")] = None
    limit: Count = Field(default=0, description="Keep the N largest by area, in that order; 0: all, by score.")
    min_width: Count = Field(default=0, description="Drop plates whose box is narrower, source pixels.")


class PlatesBody(PicturesBody, PlatesFields):
    """Body of `/plates`."""


def validate(model: type[Model], value: Mapping[str, Any]) -> Model:
    """Check a request.

    Raises:
        RequestError: Names the field and what is wrong with it; the input is not repeated.
    """
    try:
        return model.model_validate(value)
    except ValidationError as cause:
        found = cause.errors(include_url=False, include_input=False, include_context=False)
        # What our own validators say pydantic calls a "Value error".
        faults = [
            {"field": _name(error["loc"]), "problem": error["msg"].removeprefix("Value error, ")} for error in found[:8]
        ]
        raise RequestError(f"{faults[0]['field']}: {faults[0]['problem']}.", fields=faults) from None


def _name(location: tuple[int | str, ...]) -> str:
    """Join a location, leaving out what is not a field: a branch of a union, or a key the client made up."""
    parts = [str(part) for part in location if isinstance(part, int) or part.isidentifier()]
    return ".".join(part for part in parts if part not in {"str", "bytes"})[:80] or "body"


def to_array(value: list[Any], shape: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return nested lists that were checked as float32 of `shape`; an empty list gives no row, 1e300 infinity."""
    with np.errstate(over="ignore"):
        return np.asarray(value, np.float32).reshape(shape)
