"""How a body arrives: in pieces, kept as they come."""

from __future__ import annotations

from typing_extensions import Self


class Pieces:
    """A body's bytes until they are read, in place of the bytearray that uvicorn keeps them in.

    Has what uvicorn asks of that: it grows by a piece, has a length, and becomes bytes. A photograph mostly comes in
    one piece or two; copies of it would hold the interpreter's lock for longer than most that the event loop does.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def __iadd__(self, piece: bytes) -> Self:
        """Keep one more."""
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        return self

    def __len__(self) -> int:
        """Count the bytes of all."""
        return self._num_bytes

    def __bytes__(self) -> bytes:
        """Return all of them; a piece that is alone is not copied."""
        return b"".join(self._pieces)
