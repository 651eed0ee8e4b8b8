"""Prepared graphs kept between starts: a model file and a sidecar with its facts, both written atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from jetface.atomic import whole_file

_log = structlog.get_logger(__name__)

_KEY_DIGITS = 16
"""Hexadecimal digits of the key in a file name: 64 bits tell the few files of a folder apart."""


class PreparedFiles:
    """Folders of prepared graphs. Safe for several processes: each file appears whole, under its final name."""

    def __init__(self, *folders: Path) -> None:
        """Name the folders.

        Args:
            folders: Where graphs are looked for, in order; the first that can be written keeps new ones.
        """
        self.folders = folders

    def load(self, name: str, key: Sequence[str]) -> tuple[Path, Mapping[str, Any]] | None:
        """Return the file kept under `key` and its facts; None when there is none that can be trusted."""
        return next(filter(None, (_load(name, *_paths(folder, name, key)) for folder in self.folders)), None)

    def store(self, name: str, key: Sequence[str], serialized: bytes, facts: Mapping[str, Any]) -> Path | None:
        """Keep a graph; None when no folder can be written, which is logged and no failure."""
        sha256 = hashlib.sha256(serialized).hexdigest()
        for folder in self.folders:
            model, sidecar = _paths(folder, name, key)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _write(model, serialized)
                _write(sidecar, json.dumps({**facts, "sha256": sha256}, indent=2).encode())
            except OSError as cause:
                _log.info(
                    "prepared graph is not kept: the folder cannot be written",
                    model=name, folder=str(folder), reason=cause.strerror,
                )  # fmt: skip
                continue
            return model
        return None


def _load(name: str, model: Path, sidecar: Path) -> tuple[Path, Mapping[str, Any]] | None:
    try:
        facts = json.loads(sidecar.read_bytes())
        is_intact = facts["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as cause:
        _log.warning("prepared graph is unreadable and made anew", model=name, reason=repr(cause))
        return None
    if not is_intact:
        _log.warning("prepared graph is damaged and made anew", model=name)
        return None
    return model, facts


def _paths(folder: Path, name: str, key: Sequence[str]) -> tuple[Path, Path]:
    digest = hashlib.sha256("\n".join(key).encode()).hexdigest()[:_KEY_DIGITS]
    return folder / f"{name}-{digest}.onnx", folder / f"{name}-{digest}.json"


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)
