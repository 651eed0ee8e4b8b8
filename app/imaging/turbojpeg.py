"""libturbojpeg, called straight: its errors told apart, its output where we want it.

PyTurboJPEG reports a truncated picture through `warnings`, whose filters belong to the whole process, and returns the
half-grey picture; it also allocates whatever size the file claims by then. Five functions of a C library whose binary
interface has not changed since 2.0 are less than the guards around that would be.

Source: turbojpeg.h of libjpeg-turbo 2.1 (the functions are kept in 3.x).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from app.domain import Image
from app.errors import BackendUnavailableError
from app.imaging.header import damaged, truncated

LIBRARIES = ("libturbojpeg.so.0", "libturbojpeg.0.dylib", "turbojpeg.dll")
"""Names the loader of the system is asked for, in order."""

_TJPF_BGR = 1
_TJERR_WARNING = 0
_TJFLAG_LIMITSCANS = 32768
"""From 2.1 on: no more than 500 scans; ignored before. The header's reader is stricter, this guards the difference."""


class TurboJpeg:
    """Decodes JPEG with libturbojpeg. Thread-safe: every call has its own handle (7 us); the lock is released."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        """Load the library.

        Args:
            libraries: Names or paths, tried in order.

        Raises:
            BackendUnavailableError: None can be loaded, or it is older than 2.0.
        """
        for library in libraries:
            try:
                self._library = _declare(ctypes.CDLL(library))
            except (OSError, AttributeError):
                continue
            return
        raise BackendUnavailableError("libturbojpeg 2.0 or newer is not installed.")

    def decode(self, data: bytes, stored_hw: tuple[int, int], denominator: int) -> Image:
        """Decode a grayscale or YCbCr/RGB picture.

        Args:
            data: The file.
            stored_hw: The size its header claims; nothing larger is ever written.
            denominator: 1, 2, 4 or 8: decode at that fraction.

        Returns:
            (ceil(H / denominator), ceil(W / denominator), 3) uint8 BGR as stored, C-contiguous, new.

        Raises:
            ImageDecodeError: Truncated or damaged beyond decoding. Damage that leaves a whole picture is passed over.
        """
        height, width = (-(-side // denominator) for side in stored_hw)
        with self._handle() as handle:
            claimed_width, claimed_height = ctypes.c_int(), ctypes.c_int()
            unused = ctypes.byref(ctypes.c_int())
            self._library.tjDecompressHeader3(
                handle, data, len(data), ctypes.byref(claimed_width), ctypes.byref(claimed_height), unused, unused
            )
            if (claimed_height.value, claimed_width.value) != stored_hw:
                raise damaged()
            image = np.empty((height, width, 3), np.uint8)
            status = self._library.tjDecompress2(
                handle, data, len(data), image.ctypes.data, width, 0, height, _TJPF_BGR, _TJFLAG_LIMITSCANS
            )
            if status:
                self._judge(handle)
        return image

    def _judge(self, handle: int) -> None:
        """Raise, unless the library only warned of damage that every viewer passes over."""
        message: bytes = self._library.tjGetErrorStr2(handle)
        if b"remature end" in message:
            raise truncated()
        if self._library.tjGetErrorCode(handle) != _TJERR_WARNING:
            raise damaged()

    @contextmanager
    def _handle(self) -> Iterator[int]:
        handle = self._library.tjInitDecompress()
        if not handle:
            raise MemoryError
        try:
            yield handle
        finally:
            self._library.tjDestroy(handle)


def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """Tell ctypes the signatures; an old library lacks a name and raises AttributeError."""
    out = ctypes.POINTER(ctypes.c_int)
    integer, pointer, length = ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong
    library.tjInitDecompress.argtypes = []
    library.tjInitDecompress.restype = pointer
    library.tjDestroy.argtypes = [pointer]
    library.tjGetErrorStr2.argtypes = [pointer]
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjGetErrorCode.argtypes = [pointer]
    library.tjDecompressHeader3.argtypes = [pointer, ctypes.c_char_p, length, out, out, out, out]
    library.tjDecompress2.argtypes = [
        pointer, ctypes.c_char_p, length, pointer, integer, integer, integer, integer, integer
    ]  # fmt: skip
    return library
