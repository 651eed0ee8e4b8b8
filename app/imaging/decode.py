"""Encoded bytes to pixels: JPEG through the GPU or libturbojpeg where they are to be had, the rest through OpenCV."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import structlog

from app.domain import Image
from app.errors import BackendUnavailableError, ImageDecodeError
from app.imaging.header import PictureHeader, damaged
from app.imaging.nvjpeg import NvJpeg
from app.imaging.orientation import turn_upright
from app.imaging.turbojpeg import TurboJpeg

_BYTES_PER_PIXEL = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Memory of one decode, in pixels of three bytes."""

    working_pixels: int
    """At most, while decoding."""
    kept_pixels: int
    """Afterwards, as long as the picture is held."""


class Decoder:
    """Decodes every accepted format to the same kind of picture. Thread-safe; pixels are made without the lock."""

    def __init__(self, turbojpeg: TurboJpeg | None, nvjpeg: NvJpeg | None = None) -> None:
        """Create a decoder.

        Args:
            turbojpeg: Decodes JPEG; None leaves it to OpenCV.
            nvjpeg: Decodes JPEG before those, in full size and as far as it can.
        """
        # OpenCV writes lines of its own to stderr for every damaged picture; the error we raise says it to the caller.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self._turbojpeg = turbojpeg
        self._nvjpeg = nvjpeg

    @classmethod
    def best(
        cls, library: str | None = None, *, use_nvjpeg: bool = False, open_nvjpeg: Callable[[], NvJpeg] = NvJpeg
    ) -> Decoder:
        """Use libturbojpeg if it is installed, and the GPU if that is wanted; say in the log what cannot be had.

        Args:
            library: Path of libturbojpeg; None looks where the system keeps its libraries.
            use_nvjpeg: Whether the GPU is wanted.
            open_nvjpeg: Opens it.
        """
        return cls(
            _open(lambda: TurboJpeg(library), "JPEG is decoded by OpenCV, with twice the memory for large pictures"),
            _open(open_nvjpeg, "USE_NVJPEG is on, but JPEG is decoded on the CPU") if use_nvjpeg else None,
        )

    @property
    def name(self) -> str:
        """What decodes, for the log."""
        ways = {"nvjpeg": self._nvjpeg, "turbojpeg": self._turbojpeg, "opencv": self}
        return "+".join(name for name, way in ways.items() if way is not None)

    def cost(self, header: PictureHeader) -> DecodeCost:
        """Foresee the memory of a decode; never less than is needed by more than rounding."""
        # OpenCV decodes into memory of its own and copies it into an array; a quarter turn needs a second array too.
        copies = 2 if header.is_transposed or not self._is_for_turbojpeg(header) else 1
        side = int(header.num_pixels * header.side_bytes_per_pixel / _BYTES_PER_PIXEL)
        return DecodeCost(working_pixels=copies * header.num_pixels + side, kept_pixels=header.num_pixels)

    def decode(self, data: bytes, header: PictureHeader) -> Image:
        """Decode a picture and turn it upright.

        Alpha is dropped, 16 bits become 8, an animation gives its first frame.

        Args:
            data: The file that `header` was read from.
            header: What `sniff` said of it.

        Returns:
            (H, W, 3) uint8 BGR, C-contiguous, owned by the caller, EXIF orientation applied.

        Raises:
            ImageDecodeError: Truncated, damaged, or not what its header claims.
        """
        image = self._decode_on_gpu(data, header)
        if image is None and self._turbojpeg is not None and self._is_for_turbojpeg(header):
            image = self._turbojpeg.decode(data, header.stored_hw)
        if image is None:
            image = _decode_by_opencv(data, header)
        return turn_upright(image, header.orientation)

    def _decode_on_gpu(self, data: bytes, header: PictureHeader) -> Image | None:
        """Return None where there is no GPU for it, or for CMYK, which is not for it."""
        if self._nvjpeg is None or header.format != "jpeg" or header.num_channels == 4:
            return None
        return self._nvjpeg.decode(data, header.stored_hw)

    def _is_for_turbojpeg(self, header: PictureHeader) -> bool:
        """TurboJPEG converts CMYK to nothing but CMYK."""
        return self._turbojpeg is not None and header.format == "jpeg" and header.num_channels != 4


def _open(way: Callable[[], T], otherwise: str) -> T | None:
    try:
        return way()
    except BackendUnavailableError as error:
        structlog.get_logger(__name__).warning(otherwise, reason=error.message)
        return None


def _decode_by_opencv(data: bytes, header: PictureHeader) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as cause:
        raise damaged() from cause
    if image is None:
        raise ImageDecodeError("The picture is damaged or truncated.")
    if image.shape != (*header.stored_hw, 3) or image.dtype != np.uint8:
        raise damaged()
    return np.ascontiguousarray(image, np.uint8)
