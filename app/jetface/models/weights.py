"""Weights of models, and their licences: in a folder of the user, the registry, a mirror, or a package.

Only `jetface models pull` asks. The service downloads what its settings name, as an operator has set it up, and logs
each licence that forbids commercial use (docs/models.md).

Every file is checked against its registry entry before it is used, whoever put it there.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import quote, urlsplit

import structlog

from jetface.atomic import whole_file
from jetface.errors import ModelFileError
from jetface.models.download import (
    DAMAGED_SUFFIX,
    Fetcher,
    VerifiedFiles,
    digest_words,
    has_digest,
    locked,
    set_aside,
)
from jetface.registry import ModelSpec, RegistryError

RECORD_NAME = "accepted_licenses.jsonl"
"""One JSON object a line, never rewritten."""


@dataclass(frozen=True, slots=True)
class LicenseRecord:
    """The licences accepted for one folder of weights. Several processes may add to it at the same time."""

    folder: Path

    @property
    def path(self) -> Path:
        """The file, which need not exist."""
        return self.folder / RECORD_NAME

    def asks(self, spec: ModelSpec) -> bool:
        """Whether a model's licence has to be accepted before its weights come here."""
        return spec.non_commercial and spec.license not in self._accepted()

    def accept(self, specs: Sequence[ModelSpec], *, at: datetime | None = None) -> None:
        """Record that the licences of some models were accepted, by whom this process runs as.

        Args:
            specs: Models of any licences, one line of the record for each licence.
            at: When; None is now.

        Raises:
            ModelFileError: The record cannot be written.
        """
        when = (at or datetime.now(timezone.utc)).isoformat(timespec="seconds")
        lines = [
            json.dumps(
                {
                    "accepted_at": when,
                    "accepted_by": _user(),
                    "license": text,
                    "models": [spec.name for spec in specs if spec.license == text],
                    "sources": sorted({spec.source for spec in specs if spec.license == text}),
                },
                ensure_ascii=False,
            )
            for text in dict.fromkeys(spec.license for spec in specs)
        ]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as cause:
            raise ModelFileError(f"{self.path} cannot be written: {cause.strerror}.") from cause

    def _accepted(self) -> set[str]:
        """Words of the licences that were accepted. A line that cannot be read accepts nothing."""
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return set()
        accepted = set()
        for line in lines:
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(entry, dict) and isinstance(entry.get("license"), str):
                accepted.add(entry["license"])
        return accepted


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return f"user {os.getuid()}"


def packs_of(registry: Mapping[str, ModelSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return the names of each pack's models, both in order."""
    packs: dict[str, list[str]] = {}
    for name, spec in sorted(registry.items()):
        for pack in spec.packs:
            packs.setdefault(pack, []).append(name)
    return {pack: tuple(names) for pack, names in sorted(packs.items())}


def expand(names: Iterable[str], registry: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    """Return the models that are meant by names of models and packs, each once, in the order they are named.

    A name that is both is the model.

    Raises:
        RegistryError: Some are neither, and the line names them all; or the entry of one cannot be read.
    """
    packs = packs_of(registry)
    names = list(names)
    unknown = [name for name in names if registry.get(name) is None and name not in packs]
    if unknown:
        raise RegistryError(f"neither model nor pack: {', '.join(unknown)}; see `jetface models list`")
    meant = (model for name in names for model in ((name,) if name in registry else packs[name]))
    return [registry[model] for model in dict.fromkeys(meant)]


_log = structlog.get_logger(__name__)

_NOT_HERE = "it is not here"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Where weights are asked for before their official package: a folder or an http(s) URL, or neither."""

    folder: Path | None = None
    """Read in place, never written: it may be read-only."""
    url: str | None = None

    @classmethod
    def parse(cls, text: str) -> Mirror:
        """Read the setting `MODEL_MIRROR`; empty is no mirror."""
        if urlsplit(text).scheme in {"http", "https"}:
            return cls(url=text.rstrip("/"))
        return cls(folder=Path(text).expanduser()) if text else cls()

    def url_of(self, spec: ModelSpec) -> str | None:
        """Return the address of a model's file on a mirror that is a URL."""
        return f"{self.url}/{quote(spec.file_name)}" if self.url else None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFolder:
    """Finds, verifies and, when it may, downloads weights. Thread-safe; several processes may share the folder."""

    folder: Path
    """`MODELS_DIR`: looked into first, and where downloads go."""
    registry_dir: Path | None = None
    """Folder of the shipped registry: starter models lie beside their entries."""
    mirror: Mirror = field(default_factory=Mirror)
    fetcher: Fetcher | None = None
    """How files are downloaded; None never downloads."""
    registry: Mapping[str, ModelSpec] = field(default_factory=dict, repr=False)
    """All entries: models of one archive are taken out of it together."""
    _verified: VerifiedFiles = field(default_factory=VerifiedFiles, init=False, repr=False)

    def is_at_hand(self, spec: ModelSpec) -> bool:
        """Whether the weights are on this machine: existing, not yet verified. A URL is not asked."""
        return any(_is_file(path) for path in self._candidates(spec))

    def locate(self, spec: ModelSpec) -> Path:
        """Return the verified file of a model, downloading it when nothing on this machine has it.

        Blocks, for minutes when it downloads; call it from a thread. A second process that needs the same file waits
        for the first.

        Raises:
            ModelFileError: It cannot be had; the message says what to do.
        """
        return self.find(spec) or self.fetch(spec)

    def find(self, spec: ModelSpec) -> Path | None:
        """Return the verified file of a model; None when this machine has none. Blocks while it is hashed.

        A file in `folder` that fails its checksum is put aside, as `NAME.onnx.damaged`.
        """
        for path in self._candidates(spec):
            if self._is_sound(path, spec) and all(
                self._is_sound(path.parent / part.file_name, part) for part in spec.data_specs
            ):
                return path
        return None

    def _is_sound(self, path: Path, spec: ModelSpec) -> bool:
        if not _is_file(path):
            return False
        if self._verified.check(path, spec):
            return True
        if path.parent != self.folder:
            _log.error("file has another checksum and is not used", model=spec.name, file=str(path))
        elif _fault_of(path) is None:
            self._set_aside(path, spec)
        return False

    def fetch(self, spec: ModelSpec, on_progress: Callable[[int, int], None] | None = None) -> Path:
        """Download the file of a model that is not on this machine; blocks, for minutes.

        Args:
            spec: The model.
            on_progress: Called as bytes arrive: how many have, and of how many; 0 when the server does not say.

        Raises:
            ModelFileError: It cannot be had; the message says what to do.
        """
        for part in (spec, *spec.data_specs):
            path = self.folder / part.file_name
            if not (_is_file(path) and self._verified.check(path, part)):
                self._fetch(part, path, on_progress)
        return self.folder / spec.file_name

    def _fetch(self, spec: ModelSpec, path: Path, on_progress: Callable[[int, int], None] | None) -> None:
        mirror_url = self.mirror.url_of(spec)
        reason = self._why_not_here(spec)
        # What is here and cannot be judged is never overwritten.
        if self.fetcher is None or _fault_of(path) or not (mirror_url or spec.download):
            if self.fetcher is None and mirror_url:
                reason += ", and MODEL_DOWNLOAD=0 keeps the address in MODEL_MIRROR from being asked"
            raise self._not_to_be_had(spec, reason)
        url = spec.download.url if spec.download else None
        if spec.non_commercial:
            accepted = not LicenseRecord(self.folder).asks(spec)
            _log.warning("weights are not for commercial use", model=spec.name, license=spec.license, accepted=accepted)
        files = (part for other in self.registry.values() for part in (other, *other.data_specs))
        siblings = [part for part in files if part.download and part.download.url == url]
        fetcher = replace(self.fetcher, on_progress=on_progress) if on_progress else self.fetcher
        others = [part for part in siblings if (part.name, part.file_name) != (spec.name, spec.file_name)]
        try:
            fetcher.fetch(spec, path, mirror_url=mirror_url, siblings=others)
        except ModelFileError as cause:
            here = "" if reason == _NOT_HERE else f"{reason}; "
            raise self._not_to_be_had(spec, here + cause.message) from cause

    def export(self, spec: ModelSpec, folder: Path) -> Path:
        """Put the verified file of a model into a folder that another machine takes for its mirror.

        Copied from this machine when it is here, else downloaded there; another file of that name stays, and is an
        error. Blocks; errors are those of `locate`.
        """
        mirror = Mirror(url=self.mirror.url)
        there = replace(self, folder=folder, registry_dir=None, mirror=mirror)
        parts = (spec, *spec.data_specs)
        for part in parts:
            target = folder / part.file_name
            if target.exists() and not self._verified.check(target, part):
                raise ModelFileError(f"{part.file_name} is there with another checksum: {target} stays as it is.")
        if not (folder / spec.file_name).exists() and self.is_at_hand(spec):
            source = replace(self, fetcher=None).locate(spec)
            for part in parts:
                _copy(source if part is spec else source.parent / part.file_name, folder / part.file_name)
        return there.locate(spec)

    def _candidates(self, spec: ModelSpec) -> Iterator[Path]:
        folders = (self.folder, self.registry_dir, self.mirror.folder)
        yield from dict.fromkeys(folder / spec.file_name for folder in folders if folder is not None)
        for name in (spec.name, *spec.aliases):
            yield self.folder / "onnx" / name / f"{name}.onnx"  # where InsightFace-REST keeps it

    def _set_aside(self, path: Path, spec: ModelSpec) -> None:
        """Put a file aside that failed its checksum, unless somebody is at it."""
        before = path.stat()
        try:
            with locked(path.with_name(f".{path.name}.lock"), spec, timeout_s=0), path.open("rb") as file:
                is_sound, after = has_digest(file, spec), os.fstat(file.fileno())
                if not is_sound and (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
                    set_aside(path, spec)
                    return
            _log.warning("file is being written, and has another checksum so far", model=spec.name, file=str(path))
        except OSError as cause:
            _log.error(
                "file has another checksum, is not used and cannot be put aside",
                model=spec.name, file=str(path), reason=cause.strerror or str(cause),
            )  # fmt: skip

    def _why_not_here(self, spec: ModelSpec) -> str:
        """Say in a clause why no file of this machine serves, without reading one through."""
        for path in self._candidates(spec):
            if fault := _fault_of(path):
                return fault
            if _is_file(path):
                return "the file that is here has another checksum"
            if _is_file(path.with_name(path.name + DAMAGED_SUFFIX)):
                return f"the file that was here has another checksum and is put aside as {path.name}{DAMAGED_SUFFIX}"
        if self.mirror.folder is not None and not self.mirror.folder.is_dir():
            return "it is not here, and the folder that MODEL_MIRROR names is not either"
        return _NOT_HERE

    def _not_to_be_had(self, spec: ModelSpec, reason: str) -> ModelFileError:
        digest = digest_words(spec)
        _log.error(
            "weights are missing",
            model=spec.name,
            reason=reason,
            file=spec.file_name,
            digest=digest,
            models_dir=str(self.folder.absolute()),
            mirror=self.mirror.url or (str(self.mirror.folder) if self.mirror.folder else None),
            download=spec.download.url if spec.download and self.fetcher else None,
            license=spec.license,
        )
        return ModelFileError(
            f"The weights of model {spec.name} cannot be had: {reason.rstrip('.')}. Supply {spec.file_name} ({digest}) "
            "in one of three ways: put it into MODELS_DIR; set MODEL_MIRROR to a folder or URL that has it; or allow "
            "its download with MODEL_DOWNLOAD=1" + ("." if spec.download else ", for models that have an address.")
        )


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as original, whole_file(target) as copy:
            shutil.copyfileobj(original, copy)
    except OSError as cause:
        raise ModelFileError(f"{target} cannot be written: {cause.strerror}.") from cause


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a folder above it may not be entered, or links go in a circle
        return False


def _fault_of(path: Path) -> str | None:
    """Say in a clause what keeps a file from being read; None where nothing does, or it is not there."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # to open a pipe that nobody writes to would hang
            return f"{path.name} is here and cannot be read (it is no file)"
        with path.open("rb") as file:
            file.read(1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as cause:
        cure = ""
        if isinstance(cause, PermissionError):
            cure = f"; let user {os.getuid()}, as who the service runs, read it: chown -R {os.getuid()} FOLDER"
        return f"{path.name} is here and cannot be read ({cause.strerror}){cure}"
    return None
