"""JPEG through libturbojpeg: into our array, no larger than the header claimed, its warnings told from its errors."""

from __future__ import annotations

import ctypes
import platform
from ctypes import POINTER, byref, c_char_p, c_int, c_ulong, c_void_p
from ctypes.util import find_library
from pathlib import Path

from turbojpeg import DEFAULT_LIB_PATHS, TJERR_WARNING, TJPF_BGR

from app.domain import Image
from app.errors import BackendUnavailableError
from app.imaging.header import damaged, truncated
from app.imaging.memory import PictureMemory

_TJFLAG_LIMITSCANS = 32768
"""From libturbojpeg 2.1 on: no more than 500 scans; ignored before. The header's reader is stricter; this guards the
difference. Source: turbojpeg.h."""


class TurboJpeg:
    """Decodes JPEG with libturbojpeg. Thread-safe: each call has a handle of its own.

    PyTurboJPEG knows where the library may be, and no more is used of it: its way to decode reads the header twice and
    lets go of the interpreter lock for each of seven calls. Here one lets go of it, the one that makes pixels.
    """

    def __init__(self, library: str | None = None) -> None:
        """Load the library.

        Args:
            library: Path of libturbojpeg; None looks where the system keeps its libraries.

        Raises:
            BackendUnavailableError: It is not installed, or cannot be loaded.
        """
        try:
            self._library = _Library(library or _find_library())
        except (OSError, AttributeError) as cause:
            raise BackendUnavailableError("libturbojpeg is not installed.") from cause
        self._memory = PictureMemory()

    def decode(self, data: bytes, stored_hw: tuple[int, int]) -> Image:
        """Decode a grayscale or YCbCr/RGB picture.

        Args:
            data: The file.
            stored_hw: The size its header claims; nothing larger is ever written.

        Returns:
            (H, W, 3) uint8 BGR as stored, C-contiguous; nobody else has it.

        Raises:
            ImageDecodeError: Truncated or damaged beyond decoding. Damage that leaves a whole picture is passed over.
        """
        library = self._library
        # A new one each time: a handle keeps its last picture's tables, and would lend them to one without.
        handle = library.init()
        if not handle:
            raise MemoryError("libturbojpeg has no memory for a handle")
        try:
            width, height, sampling, colours = c_int(), c_int(), c_int(), c_int()
            said = byref(width), byref(height), byref(sampling), byref(colours)
            if library.read_header(handle, data, len(data), *said) or (height.value, width.value) != stored_hw:
                raise damaged()
            rows, columns = stored_hw
            image = self._memory.take((rows, columns, 3))
            if library.decompress(
                handle, data, len(data), image.ctypes.data, columns, 0, rows, TJPF_BGR, _TJFLAG_LIMITSCANS
            ):
                if library.error_code(handle) != TJERR_WARNING:
                    raise damaged()
                # Every viewer passes over other damage; the pixels are all there by then.
                if b"remature end" in library.error_text(handle):
                    raise truncated()
            return image
        finally:
            library.destroy(handle)


class _Library:
    """What is called of libturbojpeg. Source: turbojpeg.h of libjpeg-turbo 2.0."""

    def __init__(self, path: str) -> None:
        # These take microseconds: to wait for the interpreter lock again would take longer.
        quick = ctypes.PyDLL(path)
        self.init = quick.tjInitDecompress
        self.init.argtypes, self.init.restype = (), c_void_p
        self.destroy = quick.tjDestroy
        self.destroy.argtypes = (c_void_p,)
        self.read_header = quick.tjDecompressHeader3
        self.read_header.argtypes = (c_void_p, c_char_p, c_ulong, *[POINTER(c_int)] * 4)
        self.error_code = quick.tjGetErrorCode
        self.error_code.argtypes = (c_void_p,)
        self.error_text = quick.tjGetErrorStr2
        self.error_text.argtypes, self.error_text.restype = (c_void_p,), c_char_p
        self.decompress = ctypes.CDLL(path).tjDecompress2
        self.decompress.argtypes = (c_void_p, c_char_p, c_ulong, c_void_p, *[c_int] * 5)


def _find_library() -> str:
    """Return where libturbojpeg is.

    Raises:
        OSError: Nowhere that is known.
    """
    found = find_library("turbojpeg")
    usual = (path for path in DEFAULT_LIB_PATHS.get(platform.system(), ()) if Path(path).exists())
    path = found or next(usual, None)
    if path is None:
        raise OSError("libturbojpeg is nowhere to be found")
    return path
