"""What the registry says of a model: `models/*.toml`, one file a model, read into frozen values.

A model is data. Code knows families (`scrfd`, `arcface`), never file names; a new model of a known family is a new
TOML. Which families there are, and what each wants of its entries, `jetface.heads.families` knows.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal
from urllib.parse import quote, urljoin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""What a registry name looks like."""

DATA_FILE_PATTERN = r"^[^./\\\x00][^/\\\x00]*$"
"""What a file of data may be called: a name without a path, not hidden."""

_WORD_PATTERN = r"^[a-z][a-z0-9_]*$"
"""What a task and a family are called."""

RESERVED_NAMES = frozenset({"auto", "none"})
"""Words that settings use where a registry name may stand."""


DEFAULT_SCORE_THRESHOLD = 0.6
"""Least detector score where nobody names one, as InsightFace-REST has it."""
DEFAULT_MATCH_THRESHOLD = 0.35
"""Least similarity of one person where nobody names one: above what the recognizers that were measured need for one
false match in 10,000 at 512 numbers a face (docs/models.md); not measured for any other."""


class RegistryError(ValueError):
    """A registry file cannot be read, or a setting names no entry of it; one line: what, and what is wrong with it."""


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class InputSpec(_Entry):
    """What a graph wants to be fed: `(pixel - mean) / std`, NCHW."""

    height_px: int = Field(ge=0, multiple_of=16, description="0: free, any multiple of 32.")
    width_px: int = Field(ge=0, multiple_of=16, description="0: free, any multiple of 32.")
    mean: float
    std: float = Field(gt=0)
    channel_order: Literal["rgb", "bgr"] = "rgb"


class DataSpec(_Entry):
    """A file in which an ONNX file keeps weights, as large exports do: `my_model.onnx.data`."""

    file: str = Field(
        pattern=DATA_FILE_PATTERN, max_length=255, description="As the ONNX file names it; it lies in the same folder."
    )
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class DownloadSpec(_Entry):
    """Where the official file comes from, alone or inside a zip archive."""

    url: str = Field(pattern=r"^https://")
    archive_member: str | None = Field(
        None, min_length=1, description="File inside the zip, in any folder of it; None: the URL is the file itself."
    )
    archive_sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")

    def beside(self, name: str) -> DownloadSpec:
        """Return where a file comes from that is published beside this one: in its archive, or at its address."""
        if self.archive_member is not None:
            return self.model_copy(update={"archive_member": name})
        return self.model_copy(update={"url": urljoin(self.url, quote(name))})


class ModelSpec(_Entry):
    """One registry entry."""

    name: str = Field(pattern=NAME_PATTERN, max_length=64)
    task: str = Field(pattern=_WORD_PATTERN, max_length=64, description="What it does; its family says which it is.")
    family: str = Field(pattern=_WORD_PATTERN, max_length=64, description="Which code reads its outputs.")
    license: str
    non_commercial: bool = Field(
        False, description="The licence forbids commercial use: `jetface models pull` wants it accepted once."
    )
    packs: tuple[Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)], ...] = Field(
        (), description="Names under which it is pulled together with others."
    )
    aliases: tuple[Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)], ...] = Field(
        (), description="Names under which others have the same model; settings and commands take them, too."
    )
    nearest_to: tuple[Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)], ...] = Field(
        (), description="Models of others that are not served: who names one is told of this one."
    )
    source: str = Field(description="Who made the weights and where they are published.")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$", description="Of the ONNX file; enforced at load.")
    md5: str | None = Field(None, pattern=r"^[0-9a-f]{32}$", description="Only where the publisher gives no sha256.")
    file: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$", description="Default: NAME.onnx.")
    embedding_length: int | None = Field(None, ge=1, le=8192, description="Recognition only.")
    box_enlargement: float | None = Field(
        None,
        ge=1,
        le=8,
        description="Its picture is not the aligned crop but this many times as wide and high as the box of the face, "
        "or of the plate.",
    )
    labels: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), max_length=1024, description="Classifiers only: the class of each number the graph answers, in order."
    )
    activation: Literal["softmax", "none"] = Field(
        "softmax", description="Classifiers only: what makes probabilities of these; none: they are already."
    )
    alphabet: str | None = Field(
        None, min_length=2, max_length=1024, description="Plate readers only: the characters a slot may hold, in order."
    )
    slots: int | None = Field(None, ge=1, le=64, description="Plate readers only: the most characters of a text.")
    pad: str | None = Field(
        None, min_length=1, max_length=1, description="Plate readers only: the character of slots behind the text."
    )
    score_threshold: float | None = Field(
        None, ge=0, le=1, description="Detection only: its default threshold, where the usual one does not suit it."
    )
    match_threshold: float | None = Field(
        None, ge=-1, le=1, description="Recognition only: the least cosine similarity of one person, on its own scale."
    )
    false_match_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Share of the pairs of two people that reach `match_threshold`; None where it is not known.",
    )
    keeps_bf16: bool = Field(
        False, description="Measured: run in bfloat16, its answers stay within the limits of docs/adr/0008-openvino.md."
    )
    fp32_sums: bool = Field(
        False,
        description="Measured: cast to FP16 it stays within the limits of docs/adr/0009-fp16-graphs.md only when its "
        "additions and normalizations stay in FP32; `jetface models convert` says so.",
    )
    data: tuple[DataSpec, ...] = Field((), description="Files beside the ONNX file that hold weights of it.")
    input: InputSpec
    download: DownloadSpec | None = None

    @property
    def file_name(self) -> str:
        """Name of the ONNX file in the weights folder or mirror."""
        return self.file or f"{self.name}.onnx"

    @property
    def data_specs(self) -> tuple[ModelSpec, ...]:
        """Return the files of data as entries of their own: found, downloaded and verified as a model's file is."""
        return tuple(
            self.model_copy(
                update={
                    "file": part.file,
                    "sha256": part.sha256,
                    "md5": None,
                    "data": (),
                    "download": self.download and self.download.beside(part.file),
                }
            )
            for part in self.data
        )

    @property
    def least_score(self) -> float:
        """Detector score from which a face counts where nobody says it; engines and conversions are judged at it."""
        return DEFAULT_SCORE_THRESHOLD if self.score_threshold is None else self.score_threshold

    @property
    def least_similarity(self) -> float:
        """Cosine from which two faces are one person's where the request does not say it."""
        return DEFAULT_MATCH_THRESHOLD if self.match_threshold is None else self.match_threshold

    @property
    def is_detector(self) -> bool:
        """Whether it looks for things on canvases; all other models are asked about pictures of one size."""
        return self.task.endswith("detection")

    @model_validator(mode="after")
    def _is_consistent(self) -> ModelSpec:
        if self.false_match_rate is not None and self.match_threshold is None:
            raise ValueError("false_match_rate is that of match_threshold, which is missing")
        if self.sha256 is None and self.md5 is None:
            raise ValueError("sha256 (or, where the publisher gives no other, md5) is needed")
        if self.name.lower() in RESERVED_NAMES:
            raise ValueError(f"{self.name} is a word of the settings, not a model's name")
        return self


def default_registry_dir() -> Path:
    """Return the folder of the registry files that come with jetface.

    Installed as a wheel they lie in the package; in a checkout (or an editable install) in `models/` beside it.
    """
    package = Path(__file__).resolve().parent
    packaged = package / "registry"
    return packaged if packaged.is_dir() else package.parents[1] / "models"


def read_spec(path: Path) -> ModelSpec:
    """Read one registry file.

    Raises:
        RegistryError: Not TOML, or not a valid entry.
    """
    try:
        return ModelSpec.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as cause:
        raise RegistryError(f"{path.name}: {cause}") from cause
    except ValidationError as cause:
        first = cause.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "entry"
        raise RegistryError(f"{path.name}: {where}: {first['msg']}") from cause


class Registry(Mapping[str, ModelSpec]):
    """Entries by name. One that cannot be read is an error for whoever asks for it by name, and for nobody else."""

    def __init__(self, entries: Mapping[str, ModelSpec], unreadable: Mapping[str, RegistryError]) -> None:
        """Hold entries.

        Args:
            entries: Those that can be read.
            unreadable: What is wrong with the others, by the name they would have.
        """
        self._entries = entries
        self._by_alias = {alias: spec for spec in entries.values() for alias in spec.aliases}
        self.unreadable = unreadable

    def __getitem__(self, name: str) -> ModelSpec:
        """Return an entry, also by an alias that no entry has for its name.

        Raises:
            KeyError: There is none of that name.
            RegistryError: There is, and it cannot be read.
        """
        if name in self.unreadable:
            raise RegistryError(str(self.unreadable[name]))
        return self._entries[name] if name in self._entries else self._by_alias[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is an entry of that name which can be read."""
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of those that can be read."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many can be read."""
        return len(self._entries)


def read_registry(directories: Iterable[Path]) -> Registry:
    """Read `*.toml` of each directory; later directories add to and override earlier ones by name.

    A file that cannot be read hides what it would have overridden, and so do two of one directory that share a name.

    Args:
        directories: The shipped registry first, then the user's weights folder. Missing ones are skipped.
    """
    entries: dict[str, ModelSpec] = {}
    unreadable: dict[str, RegistryError] = {}
    for directory in directories:
        found: set[str] = set()
        for path in sorted(directory.glob("*.toml")):
            fault = None
            try:
                spec = read_spec(path)
                name = spec.name
            except RegistryError as error:
                name, fault = _name_meant(path), error
            if name in found:
                fault = RegistryError(f"{path.name}: another file in the same folder is named {name} too")
            found.add(name)
            entries.pop(name, None)
            if fault is None:
                unreadable.pop(name, None)
                entries[name] = spec
            else:
                unreadable[name] = fault
    return Registry(MappingProxyType(entries), MappingProxyType(unreadable))


def _name_meant(path: Path) -> str:
    """Return the name an entry that cannot be read would have, as far as can be told: else that of its file."""
    try:
        name = tomllib.loads(path.read_text(encoding="utf-8")).get("name")
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return path.stem
    return name if isinstance(name, str) else path.stem
