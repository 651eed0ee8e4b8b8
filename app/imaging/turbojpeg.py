"""JPEG through PyTurboJPEG: into our array, no larger than the header claimed, its warnings told apart."""

from __future__ import annotations

import warnings

import numpy as np
from turbojpeg import TJPF_BGR, TurboJPEG

from app.domain import Image
from app.errors import BackendUnavailableError
from app.imaging.header import damaged, truncated

_TJFLAG_LIMITSCANS = 32768
"""From libturbojpeg 2.1 on: no more than 500 scans; ignored before. The header's reader is stricter; this guards the
difference. Source: turbojpeg.h."""


class TurboJpeg:
    """Decodes JPEG with libturbojpeg. Thread-safe: every call has its own handle; the interpreter lock is released."""

    def __init__(self, library: str | None = None) -> None:
        """Load the library, and let its warnings be raised.

        PyTurboJPEG tells of a truncated picture by a warning only. A filter for warnings of that one module turns them
        into exceptions, once and for the process: catching them call by call is not thread-safe.

        Args:
            library: Path of libturbojpeg; None looks where the system keeps its libraries.

        Raises:
            BackendUnavailableError: It is not installed, or cannot be loaded.
        """
        try:
            self._jpeg = TurboJPEG(library)
        except (RuntimeError, OSError, AttributeError) as cause:
            raise BackendUnavailableError("libturbojpeg is not installed.") from cause
        warnings.filterwarnings("error", module="turbojpeg")

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
        try:
            claimed_width, claimed_height, *_ = self._jpeg.decode_header(data)
        except (UserWarning, OSError) as cause:
            raise damaged() from cause
        if (claimed_height, claimed_width) != stored_hw:
            raise damaged()
        image = np.empty((height, width, 3), np.uint8)
        try:
            self._jpeg.decode(data, TJPF_BGR, (1, denominator), _TJFLAG_LIMITSCANS, dst=image)
        except UserWarning as warning:
            # Every viewer passes over other damage; the pixels are all there by then.
            if "remature end" in str(warning):
                raise truncated() from None
        except OSError as cause:
            raise damaged() from cause
        return image
