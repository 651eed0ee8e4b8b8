"""Licences that were accepted: who said yes to which words, when, and for which models; kept beside the weights.

Only `jetface models pull` asks. The service downloads what its settings name, as an operator has set it up, and logs
each licence that forbids commercial use (docs/models.md).
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from jetface.errors import ModelFileError
from jetface.specs import ModelSpec

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
            except ValueError:
                continue
            if isinstance(entry, dict) and isinstance(entry.get("license"), str):
                accepted.add(entry["license"])
        return accepted


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user need not have a name
        return f"user {os.getuid()}"
