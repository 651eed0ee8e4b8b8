"""Control groups: which one this process is in, and where the limits of it and of those around it are."""

from __future__ import annotations

from pathlib import Path


def group_path(root: Path, controller: str) -> str:
    """Return the path of this process's control group, `/` when it cannot be told.

    Args:
        root: Where `/proc` is.
        controller: One of the first hierarchies' (`cpu`, `memory`); empty: the unified hierarchy.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return "/"
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "", "")[:3]
        if controller in controllers.split(","):
            return path
    return "/"


def folders_upwards(mount: Path, group: str) -> list[Path]:
    """Return the folders of a group and of the groups it is in, the mount point last.

    Inside a container the group's own path is that of the host and often is not there; the mount point then is the
    container's group.
    """
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:depth]) for depth in range(len(parts), -1, -1)]


def read_words(path: Path) -> tuple[str, ...]:
    """Return the words of a small file; none when it cannot be read."""
    try:
        return tuple(path.read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return ()
