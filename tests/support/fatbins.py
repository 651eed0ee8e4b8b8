"""Shared libraries as far as the list of their GPU kernels goes: an ELF file of named sections, and nvcc's list in one.

Sizes of headers are those of the wheels of onnxruntime-gpu: 64 bytes, 80 of PTX, 104 from CUDA 13 on for new GPUs.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

PTX, MACHINE_CODE = 1, 2


def fatbin(*entries: tuple[int, int, int], padding_bytes: int = 24) -> bytes:
    """Return the list of one object file; an entry is a kind, an architecture such as 87 and the size of its header."""
    code = b"\x7fELF code"
    parts = [
        struct.pack("<HHIQ12xI", kind, 0x101, header_bytes, len(code), architecture).ljust(header_bytes, b"\0") + code
        for kind, architecture, header_bytes in entries
    ]
    body = b"".join(parts)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body + bytes(padding_bytes)


def elf(sections: Mapping[str, bytes]) -> bytes:
    """Return an ELF file of 64 bits with these sections and no more than it takes to find them."""
    names = b"\0" + b"".join(name.encode() + b"\0" for name in (*sections, ".shstrtab"))
    contents = [*sections.values(), names]
    table, at, content = [struct.pack("<IIQQQQIIQQ", *[0] * 10)], 64, b""
    for name, section in zip((*sections, ".shstrtab"), contents, strict=True):
        index = names.index(b"\0" + name.encode() + b"\0") + 1
        table.append(struct.pack("<IIQQQQIIQQ", index, 1, 0, 0, at + len(content), len(section), 0, 0, 1, 0))
        content += section
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 183, 1, 0, 0, at + len(content), 0, 64, 0, 0, 64,
        len(table), len(table) - 1,
    )  # fmt: skip
    return header + content + b"".join(table)
