"""Shared libraries without code: as much of an ELF file as says what it is linked to."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

_AARCH64 = 183
_LOAD, _DYNAMIC = 1, 2
_END, _NEEDED, _STRING_TABLE, _STRINGS_BYTES, _SONAME, _RPATH, _RUNPATH = 0, 1, 5, 10, 14, 15, 29
_HEADER_BYTES, _SEGMENT_BYTES = 64, 56


def write_library(
    path: Path, needed: Sequence[str] = (), *, machine: int = _AARCH64, rpath: str = "", runpath: str = ""
) -> Path:
    """Write a library of 64 bits that is linked to others; return its path.

    Args:
        path: Where; its folder is made. Its name is its soname.
        needed: Names of what it is linked to.
        machine: As `e_machine` numbers them.
        rpath: Folders of DT_RPATH, as they stand there.
        runpath: Those of DT_RUNPATH.
    """
    entries = [(_SONAME, path.name), *((_NEEDED, name) for name in needed)]
    entries += [(tag, folders) for tag, folders in ((_RPATH, rpath), (_RUNPATH, runpath)) if folders]
    strings, tags = b"\0", []
    for tag, text in entries:
        tags.append((tag, len(strings)))
        strings += text.encode() + b"\0"
    start = _HEADER_BYTES + 2 * _SEGMENT_BYTES
    dynamic_bytes = 16 * (len(tags) + 3)
    tags += [(_STRING_TABLE, start + dynamic_bytes), (_STRINGS_BYTES, len(strings)), (_END, 0)]
    whole = start + dynamic_bytes + len(strings)
    header = b"\x7fELF" + bytes([2, 1, 1, 0]) + bytes(8)
    header += struct.pack("<HHIQQQIHHHHHH", 3, machine, 1, 0, _HEADER_BYTES, 0, 0, 64, _SEGMENT_BYTES, 2, 64, 0, 0)
    segments = struct.pack("<IIQQQQQQ", _LOAD, 4, 0, 0, 0, whole, whole, 4096)
    segments += struct.pack("<IIQQQQQQ", _DYNAMIC, 6, start, start, start, dynamic_bytes, dynamic_bytes, 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + segments + b"".join(struct.pack("<qQ", *tag) for tag in tags) + strings)
    return path
