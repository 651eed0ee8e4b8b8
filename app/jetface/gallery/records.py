"""What a gallery keeps and answers: collections, persons, faces, matches; and what their names may be."""

from __future__ import annotations

import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from jetface.domain import Vector
from jetface.errors import RequestError

MAX_ID_CHARS = 256
MAX_METADATA_BYTES = 16 * 2**10
MAX_METADATA_DEPTH = 64
"""As bodies have it: an answer puts metadata some levels deeper."""
_MAX_WRITTEN_DEPTH = 254
"""orjson writes nothing deeper."""
LIKENESS_OF_DUPLICATES = 0.92
"""Cosine similarity from which two faces are taken for one picture. With w600k_mbf_dequantized on LFW two photographs
of one person are alike to 0.90 at most (200 people, three each), and one photograph saved again as JPEG of quality 50
is to 0.93 at least (120 of them)."""

UNSET_CLOCK_BEFORE_S = 1_735_689_600.0
"""Start of 2025: what was stored before was stored by a clock that had not been set, as that of a Jetson without a
battery at its start. Nobody knows how old it is, so for `GALLERY_TTL_DAYS` it counts from when that is noticed."""

_CONTROLS = frozenset({"Cc", "Cs"})
"""Unicode's categories: controls, halves of characters."""
_TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPin:
    """The recognizer whose embeddings a collection holds; those of another cannot be compared with them."""

    name: str
    sha256: str
    """Of its file, as the registry has it."""
    embedding_length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A set of persons that are searched together."""

    name: str
    model: ModelPin
    metadata: Mapping[str, Any]
    created_s: float
    """Seconds since 1970."""
    num_persons: int
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody of a collection."""

    id: str
    """The client's, or one that was made up."""
    name: str
    metadata: Mapping[str, Any]
    created_s: float
    num_faces: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFace:
    """A face of a person, without its vector."""

    id: str
    person_id: str
    quality: float | None
    """`Quality.score` when it was enrolled; None where there was no picture."""
    created_s: float
    has_crop: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPerson:
    """A person to be added."""

    id: str
    name: str
    metadata: str
    """JSON, as `check_metadata` returns it."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NewFace:
    """A face to be stored."""

    vector: Vector
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    quality: float | None = None
    crop: bytes | None = None
    """The aligned crop as JPEG; None where crops are not kept."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Exported:
    """All that is kept of a face."""

    face: StoredFace
    vector: Vector
    crop: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A person, and how alike the most alike of its faces is."""

    person_id: str
    name: str
    metadata: Mapping[str, Any]
    face_id: str
    similarity: float
    """Cosine, [-1, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Query:
    """One face that is looked for."""

    vector: Vector
    top_k: int
    """Most persons that are wanted, >= 1; one more is found, so that its distance from the last can be told."""
    threshold: float
    """Least similarity of one person: what is less alike is of interest only as the next best."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list."""

    items: Sequence[T]
    next: str | None
    """What `after` is for the part behind it; None at the end."""


def place_of(after: str) -> int:
    """Return the row behind which a page begins; 0 for the first.

    Raises:
        RequestError: Not what a page said.
    """
    if not after:
        return 0
    if not (after.isascii() and after.isdigit() and len(after) <= 18):
        raise RequestError("after: what `next` of the page before says.")
    return int(after)


def made_up_id() -> str:
    """Return an id that nothing else has."""
    return str(uuid.uuid4())


def check_name(what: str, value: str) -> str:
    """Return a name as it is kept: in Unicode's composed form, which not every system writes.

    Raises:
        RequestError: Empty, too long, or with control characters. Joiners, which Persian, Sinhala and emoji are written
            with, are none; what turns the direction of the text around it is.
    """
    if len(value) > 4 * MAX_ID_CHARS:  # before anything looks at all of it
        raise RequestError(f"{what}: at most {MAX_ID_CHARS} characters.", max_chars=MAX_ID_CHARS)
    composed = unicodedata.normalize("NFC", value)
    if not composed.strip() or len(composed) > MAX_ID_CHARS:
        raise RequestError(f"{what}: 1 to {MAX_ID_CHARS} characters.", max_chars=MAX_ID_CHARS)
    if any(map(_is_control, composed)):
        raise RequestError(f"{what}: no control characters.")
    return composed


def _is_control(char: str) -> bool:
    return unicodedata.category(char) in _CONTROLS or unicodedata.bidirectional(char) in _TURNS


def check_id(what: str, value: str) -> str:
    """Return an id, or the name of a collection, as it is kept: a name that can stand in a path.

    Raises:
        RequestError: It cannot.
    """
    checked = check_name(what, value)
    if "/" in checked or checked in {".", ".."}:
        raise RequestError(f"{what}: no slash, and not only dots.")
    return checked


def check_metadata(value: Mapping[str, Any]) -> str:
    """Return metadata as JSON.

    Raises:
        RequestError: Too long, nested too deep, or not JSON.
    """
    try:
        written = orjson.dumps(value)
    except TypeError:
        raise RequestError("metadata: an object of JSON values.") from None
    if len(written) > MAX_METADATA_BYTES:
        raise RequestError(f"metadata: at most {MAX_METADATA_BYTES} bytes as JSON.", max_bytes=MAX_METADATA_BYTES)
    deeper: object = value
    for _ in range(_MAX_WRITTEN_DEPTH - MAX_METADATA_DEPTH):
        deeper = [deeper]
    try:
        orjson.dumps(deeper)  # a hundred times as fast as to look
    except TypeError:
        raise RequestError("metadata: nested too deep.", max_depth=MAX_METADATA_DEPTH) from None
    return written.decode()


def is_same_metadata(there: Mapping[str, Any], written: str) -> bool:
    """Whether metadata says what `written`, which `check_metadata` returned, does, in whatever order."""
    return orjson.dumps(there) == written.encode() or _sorted(there) == _sorted(orjson.loads(written))


def _sorted(value: object) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def unit_rows(vectors: Sequence[Sequence[float] | NDArray[Any]], length: int) -> NDArray[np.float32]:
    """Return (N, length) float32 rows of unit length.

    Raises:
        RequestError: A vector has another length, or is not finite, or is zero; its number is told.
    """
    rows = np.empty((len(vectors), length), np.float32)
    for number, vector in enumerate(vectors):
        if len(vector) != length:
            raise RequestError(
                f"vectors.{number}: {len(vector)} numbers; the collection's recognizer has {length}.",
                embedding_length=length,
            )
        with np.errstate(over="ignore"):
            rows[number] = vector
        rows[number] = unit_row(rows[number], f"vectors.{number}")
    return rows


def unit_row(vector: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Return a vector of unit length.

    Raises:
        RequestError: Not finite, or zero; `name` is told.
    """
    wide = vector.astype(np.float64)
    norm = float(np.linalg.norm(wide))
    if not np.isfinite(norm) or norm < 1e-6:
        raise RequestError(f"{name}: not finite, or all zeros.")
    unit: NDArray[np.float32] = (wide / norm).astype(np.float32)
    return unit
