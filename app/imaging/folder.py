"""Pictures of this machine: files below one folder, and nothing else."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from app.errors import UrlRefusedError


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Reads files below `root`. Thread-safe; blocks."""

    root: Path
    max_bytes: int

    def read(self, path: str) -> bytes:
        """Read a file.

        Args:
            path: Relative to `root`, or absolute and below it; `..` and links are followed first, then judged.

        Raises:
            UrlRefusedError: Not below the root, not a regular file, too long; whether something is there outside the
                root cannot be told from it.
        """
        try:
            root = self.root.resolve(strict=True)
            found = (root / path).resolve(strict=True)
            if not found.is_relative_to(root):
                raise _not_there()
            # Not blocking: a pipe that nobody writes to would hold the thread for ever.
            descriptor = os.open(found, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (OSError, ValueError, RuntimeError) as cause:  # ValueError: a NUL; RuntimeError: a loop of links
            raise _not_there() from cause
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise _not_there()
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise UrlRefusedError(f"The file is longer than {self.max_bytes} bytes.")
        return content


def _not_there() -> UrlRefusedError:
    return UrlRefusedError("There is no such picture.")
