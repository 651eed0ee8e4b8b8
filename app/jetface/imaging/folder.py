"""Pictures of this machine: files below one folder, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from jetface.errors import UrlRefusedError

_MAX_LINKS = 40
"""As many as Linux follows on one path."""

_WITHOUT_WAITING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe that nobody writes to would hold the thread for ever."""


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Reads files below `root`. Thread-safe; blocks."""

    root: Path
    max_bytes: int

    def read(self, path: str) -> bytes:
        """Read a file.

        Args:
            path: Relative to `root`, or absolute and below it. One whose `..` lead out is refused as it is written;
                links are followed as long as they stay below the root.

        Raises:
            UrlRefusedError: Not below the root, not a regular file, too long; whether something is there outside the
                root cannot be told from it.
        """
        descriptor, _ = self._open_file(path)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise self._too_long()
        return content

    def length(self, path: str) -> int:
        """Return how many bytes a file has that may be read; path and errors are those of `read`."""
        descriptor, num_bytes = self._open_file(path)
        os.close(descriptor)
        if num_bytes > self.max_bytes:
            raise self._too_long()
        return num_bytes

    def _open_file(self, path: str) -> tuple[int, int]:
        """Return the descriptor and the length of a regular file."""
        try:
            descriptor = self._open(self._inside(path))
        except (OSError, ValueError) as cause:  # ValueError: a NUL
            raise _not_there() from cause
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise _not_there()
        return descriptor, found.st_size

    def _too_long(self) -> UrlRefusedError:
        return UrlRefusedError(f"The file is longer than {self.max_bytes} bytes.")

    def _inside(self, path: str) -> list[str]:
        """Return the parts of a path below the root, without asking the file system for them.

        Raises:
            UrlRefusedError: It leads out.
        """
        if Path(path).is_absolute():
            for root in (os.path.normpath(self.root.absolute()), str(self.root.resolve())):
                if os.path.commonpath((root, os.path.normpath(path))) == root:
                    path = os.path.relpath(path, root)
                    break
            else:
                raise _not_there()
        parts = Path(os.path.normpath(path)).parts
        if os.pardir in parts:
            raise _not_there()
        return list(parts)

    def _open(self, parts: list[str]) -> int:
        """Open a file folder by folder, each by its name in the one before: what is moved meanwhile leads nowhere else.

        A link is read and taken as a piece of the path, by these same rules.

        Raises:
            UrlRefusedError: A link leads out, or there are too many.
            OSError: It is not there.
        """
        folders = [os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        todo = parts[::-1]
        num_links = 0
        try:
            while todo:
                part = todo.pop()
                if part == os.pardir:
                    if len(folders) == 1:
                        raise _not_there()
                    os.close(folders.pop())
                elif (found := _open_unless_link(part, folders[-1])) is None:
                    num_links += 1
                    if num_links > _MAX_LINKS:
                        raise _not_there()
                    target = Path(os.readlink(part, dir_fd=folders[-1]))
                    while target.is_absolute() and len(folders) > 1:
                        os.close(folders.pop())
                    todo += reversed(self._inside(str(target)) if target.is_absolute() else target.parts)
                elif todo:
                    folders.append(found)
                else:
                    return found
            raise _not_there()
        finally:
            for each in folders:
                os.close(each)


def _open_unless_link(name: str, folder: int) -> int | None:
    """Open a file of a folder; None for a link."""
    try:
        return os.open(name, _WITHOUT_WAITING, dir_fd=folder)
    except OSError as cause:
        if cause.errno == errno.ELOOP:
            return None
        raise


def _not_there() -> UrlRefusedError:
    return UrlRefusedError("There is no such picture.")
