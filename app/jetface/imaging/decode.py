"""Encoded bytes to pixels: JPEG by libjpeg-turbo or a GPU, HEIC by libheif, AVIF and GIF by Pillow, else by OpenCV."""

from __future__ import annotations

import importlib
import math
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
import pi_heif
import PIL.AvifImagePlugin
import PIL.Image
import simplejpeg
import structlog
from numpy.typing import NDArray

from jetface.domain import Image
from jetface.errors import BackendUnavailableError, ImageDecodeError
from jetface.imaging.formats import plain_png, with_png_end
from jetface.imaging.header import PictureFormat, PictureHeader, damaged, truncated, turn_upright

_MOST_PIECES = 8
"""Pieces kept for the next pictures: those in use come and go one by one, so few are free at a time."""

_LEAST_BYTES = 2**20
"""Below, the allocator keeps memory itself."""

_MOST_BYTES = 2**24
"""Above, pictures are rare, and memory better given back; with `_MOST_PIECES` it bounds what is kept: 128 MiB."""

_MOST_TIMES = 2
"""A piece this many times as large as a picture is left to a larger one."""


class PictureMemory:
    """Makes arrays for pictures. Thread-safe, and without a lock: arrays may end on any thread, at any time."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.uint8]] = deque(maxlen=_MOST_PIECES)

    @property
    def num_free(self) -> int:
        """Pieces that wait for a picture."""
        return len(self._free)

    def take(self, shape: tuple[int, int, int]) -> Image:
        """Return an uint8 array, not cleared; its memory is its own until the last view of it has ended."""
        num_bytes = math.prod(shape)
        if not _LEAST_BYTES <= num_bytes <= _MOST_BYTES:
            return np.empty(shape, np.uint8)
        return np.asarray(_Piece(self._free, self._fitting(num_bytes), shape))

    def _fitting(self, num_bytes: int) -> NDArray[np.uint8]:
        for _ in range(len(self._free)):
            try:
                memory = self._free.pop()  # the latest: what is in caches, if anything is
            except IndexError:  # another thread was quicker
                break
            if num_bytes <= memory.size <= _MOST_TIMES * num_bytes:
                return memory
            self._free.appendleft(memory)
        return np.empty(num_bytes, np.uint8)


class _Piece:
    """Owns memory for as long as there is an array of it; NumPy makes one by `__array_interface__`."""

    __slots__ = ("__array_interface__", "_free", "_memory")

    def __init__(self, free: deque[NDArray[np.uint8]], memory: NDArray[np.uint8], shape: tuple[int, ...]) -> None:
        self._free = free
        self._memory = memory
        self.__array_interface__ = {
            "version": 3,
            "data": (memory.ctypes.data, False),
            "shape": shape,
            "typestr": "|u1",
        }

    def __del__(self) -> None:
        """Leave the memory to another picture; the piece that is free for longest goes where there are too many."""
        self._free.append(self._memory)


_log = structlog.get_logger(__name__)

_INSTALL = "pip install 'nvidia-nvimgcodec-cu12[nvjpeg]', or -cu13 for a driver from 580 on"


class NvJpeg:
    """Decodes JPEG with nvImageCodec. Thread-safe: each thread has a decoder of its own, and with it a stream.

    On an H200 800 to 900 pictures of 1280x886 a second, however many threads ask: most of it goes into the way back to
    the host. One core decodes 380 with libturbojpeg, sixteen 5,500: this is for hosts of one or two free cores. On a
    Jetson unverified; `python -m tests.device.nvjpeg` compares the two.
    """

    def __init__(self, module: Any = None) -> None:
        """Open the GPU.

        Args:
            module: `nvidia.nvimgcodec`; None imports it.

        Raises:
            BackendUnavailableError: It is not installed, or there is no GPU it can use; says what to do.
        """
        try:
            self._module = module or importlib.import_module("nvidia.nvimgcodec")
        except ImportError as cause:
            raise BackendUnavailableError(f"nvImageCodec cannot be imported: {_INSTALL}.") from cause
        self._decoders = threading.local()
        self._has_failed = False
        try:
            self._decoder()
        except RuntimeError as cause:
            raise BackendUnavailableError(
                "nvImageCodec finds no GPU it can use: is one handed to this process, and its driver new enough?"
            ) from cause
        self._params = self._module.DecodeParams(
            apply_exif_orientation=False, sample_format=self._module.SampleFormat.I_BGR
        )

    def decode(self, data: bytes, stored_hw: tuple[int, int]) -> Image | None:
        """Decode a grayscale or YCbCr/RGB picture.

        Damage within the coded data is passed over: what is missing is grey.

        Args:
            data: The file.
            stored_hw: The size its header claims.

        Returns:
            (H, W, 3) uint8 BGR as stored, C-contiguous, new; None for a kind of JPEG it does not decode.

        Raises:
            ImageDecodeError: Not of the size its header claims.
        """
        try:
            decoded = self._decoder().decode(self._module.CodeStream(data), params=self._params)
        except RuntimeError as cause:
            if not self._has_failed:
                # Once: a GPU that is gone would say so for each picture.
                self._has_failed = True
                _log.warning("nvImageCodec failed: JPEG is decoded on the CPU where it does", exc_info=cause)
            return None
        if decoded is None:
            return None
        image: Image = np.asarray(decoded.cpu())
        if image.shape != (*stored_hw, 3) or image.dtype != np.uint8:
            raise damaged()
        # The array is a view of the codec's buffer, which goes back to its pool with `decoded`.
        return np.array(image, order="C")

    def _decoder(self) -> Any:
        if not hasattr(self._decoders, "mine"):
            # By default each has as many threads of its own as there are cores: sixteen decoders then answer a tenth.
            self._decoders.mine = self._module.Decoder(max_num_cpu_threads=1)
        return self._decoders.mine


_BYTES_PER_PIXEL = 3

_END_OF_JPEG = b"\xff\xd9"
_LIMIT_SCANS = 32768
"""`TJFLAG_LIMITSCANS`: no more than 500 scans. Ignored before libturbojpeg 2.1; the header's reader is stricter."""

_PREMATURE = re.compile(r"remature end|found marker 0xd9 instead of RST")
"""In what libjpeg says of a picture that ends too early, within the coded data or at a restart marker."""


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Memory of one decode, in pixels of three bytes."""

    working_pixels: int
    """At most, while decoding."""
    kept_pixels: int
    """Afterwards, as long as the picture is held."""


JpegDecoder = Literal["simplejpeg", "pyturbojpeg"]
"""What decodes JPEG on the CPU: libjpeg-turbo as simplejpeg brings it along, or the system's, by PyTurboJPEG."""


def open_pyturbojpeg() -> Any:
    """Open the system's libturbojpeg.

    Returns:
        A `turbojpeg.TurboJPEG`, which says what damage it passed over by a warning that is raised.

    Raises:
        BackendUnavailableError: The package or the library is not installed.
    """
    try:
        import turbojpeg  # noqa: PLC0415 - an extra

        opened = turbojpeg.TurboJPEG()
    except (ImportError, OSError, RuntimeError) as cause:
        raise BackendUnavailableError(
            "JPEG_DECODER=pyturbojpeg cannot be had: install the package pyturbojpeg 1.x and the system's libturbojpeg "
            "(Debian: libturbojpeg0, Ubuntu: libturbojpeg), or leave JPEG_DECODER at simplejpeg."
        ) from cause
    warnings.filterwarnings("error", category=UserWarning, module="turbojpeg")
    return opened


class Decoder:
    """Decodes every accepted format to the same kind of picture. Thread-safe; pixels are made without the lock."""

    def __init__(self, nvjpeg: NvJpeg | None = None, turbojpeg: Any = None) -> None:
        """Create a decoder.

        Args:
            nvjpeg: Decodes JPEG before the CPU does, as far as it can.
            turbojpeg: What `open_pyturbojpeg` returned; None: simplejpeg decodes JPEG.
        """
        # OpenCV writes lines of its own to stderr for every damaged picture; the error we raise says it to the caller.
        # Before OpenCV 5, the Jetsons' version among them, the function is in another place.
        set_log_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        set_log_level(0)
        # Pictures are decoded side by side, one a thread; how large they may be is said by the header's limits.
        pi_heif.options.DECODE_THREADS = PIL.AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        pi_heif.options.THUMBNAILS = pi_heif.options.DEPTH_IMAGES = pi_heif.options.AUX_IMAGES = False
        PIL.Image.MAX_IMAGE_PIXELS = None
        self._nvjpeg = nvjpeg
        self._turbojpeg = turbojpeg
        self._memory = PictureMemory()

    @classmethod
    def best(
        cls,
        jpeg_decoder: JpegDecoder = "simplejpeg",
        *,
        use_nvjpeg: bool = False,
        open_nvjpeg: Callable[[], NvJpeg] = NvJpeg,
    ) -> Decoder:
        """Use the GPU for JPEG if that is wanted; say in the log where it cannot be had.

        Args:
            jpeg_decoder: What decodes JPEG on the CPU.
            use_nvjpeg: Whether the GPU is wanted.
            open_nvjpeg: Opens it.

        Raises:
            BackendUnavailableError: `jpeg_decoder` is not installed.
        """
        turbojpeg = open_pyturbojpeg() if jpeg_decoder == "pyturbojpeg" else None
        if not use_nvjpeg:
            return cls(turbojpeg=turbojpeg)
        try:
            return cls(open_nvjpeg(), turbojpeg)
        except BackendUnavailableError as error:
            structlog.get_logger(__name__).warning(
                "USE_NVJPEG is on, but JPEG is decoded on the CPU", reason=error.message
            )
            return cls(turbojpeg=turbojpeg)

    @property
    def name(self) -> str:
        """What decodes JPEG, for the log."""
        on_cpu = "simplejpeg" if self._turbojpeg is None else "pyturbojpeg"
        return on_cpu if self._nvjpeg is None else f"nvjpeg+{on_cpu}"

    def cost(self, header: PictureHeader) -> DecodeCost:
        """Foresee the memory of a decode; never less than is needed by more than rounding."""
        # OpenCV decodes into memory of its own and copies it into an array; a quarter turn needs a second array too.
        copies = 2 if header.is_transposed or not _is_usual_jpeg(header) else 1
        num_pixels = header.num_pixels
        side = int(num_pixels * header.side_bytes_per_pixel / _BYTES_PER_PIXEL)
        return DecodeCost(working_pixels=copies * num_pixels + side, kept_pixels=num_pixels)

    def decode(self, data: bytes, header: PictureHeader) -> Image:
        """Decode a picture and turn it upright.

        Alpha is dropped, 16 bits become 8, an animation gives its first frame, a PNG's its still picture.

        Args:
            data: The file that `header` was read from.
            header: What `sniff` said of it.

        Returns:
            (H, W, 3) uint8 BGR, C-contiguous, owned by the caller, EXIF orientation applied.

        Raises:
            ImageDecodeError: Truncated, damaged, or not what its header claims.
        """
        if not _is_usual_jpeg(header):
            image = _WAYS[header.format](data, header)
        else:
            gpu_image = None if self._nvjpeg is None else self._nvjpeg.decode(data, header.stored_hw)
            image = self._decode_jpeg(data, header) if gpu_image is None else gpu_image
            if gpu_image is not None and (image[-1] == image[-1, 0]).all():
                # The GPU fills what is missing with one colour and says nothing.
                _check_whole(data, "GRAY")
        return turn_upright(image, header.orientation)

    def _decode_jpeg(self, data: bytes, header: PictureHeader) -> Image:
        data, image = _with_end(data), self._memory.take((*header.stored_hw, 3))
        if self._turbojpeg is not None:
            return self._decode_by_turbojpeg(data, image, header)
        decode = partial(simplejpeg.decode_jpeg, data, colorspace="BGR", buffer=image)
        try:
            image = decode(strict=True)
        except ValueError as cause:
            if _PREMATURE.search(str(cause)):
                raise truncated() from cause
            try:
                # Every viewer passes over other damage.
                image = decode(strict=False)
            except ValueError:
                raise damaged() from cause
        return _checked(image, header)

    def _decode_by_turbojpeg(self, data: bytes, image: Image, header: PictureHeader) -> Image:
        try:
            # It makes an array of its own where the picture is not as large as its header says.
            image = self._turbojpeg.decode(data, flags=_LIMIT_SCANS, dst=image)
        except UserWarning as cause:
            if _PREMATURE.search(str(cause)):
                raise truncated() from cause
            # Every viewer passes over other damage; the pixels are there.
        except OSError as cause:
            raise damaged() from cause
        return _checked(image, header)


_LIBRARY_ERRORS = (ValueError, RuntimeError, OSError, EOFError, SyntaxError, LookupError)
"""What Pillow and libheif's wrapper raise of damaged files."""


def _is_usual_jpeg(header: PictureHeader) -> bool:
    """Whether libjpeg-turbo makes BGR of it, right into an array of ours; of CMYK it makes nothing but CMYK."""
    return header.format == "jpeg" and header.num_channels != 4


def _with_end(jpeg: bytes) -> bytes:
    """Return a JPEG that ends with its marker: where that alone is missing, all pixels are there."""
    return jpeg if jpeg.endswith(_END_OF_JPEG) else jpeg + _END_OF_JPEG


def _check_whole(jpeg: bytes, colorspace: str) -> None:
    """Refuse a truncated JPEG that is decoded by what does not say so. Reads the coded data, makes an eighth of it."""
    try:
        simplejpeg.decode_jpeg(_with_end(jpeg), colorspace=colorspace, min_factor=8, strict=True)
    except ValueError as cause:
        if _PREMATURE.search(str(cause)):
            raise truncated() from cause


def _decode_cmyk(data: bytes, header: PictureHeader) -> Image:
    _check_whole(data, "CMYK")
    return _decode_by_opencv(_with_end(data), header)


def _decode_png(data: bytes, header: PictureHeader) -> Image:
    return _decode_by_opencv(plain_png(with_png_end(data)), header)


def _decode_gif(data: bytes, header: PictureHeader) -> Image:
    try:
        indices, colours = _indices_of_gif(data, header)
    except _LIBRARY_ERRORS as cause:
        raise damaged() from cause
    return _checked(cv2.applyColorMap(indices, colours), header)


def _indices_of_gif(data: bytes, header: PictureHeader) -> tuple[np.ndarray, np.ndarray]:
    """Return (H, W) uint8 and the (256, 1, 3) BGR they stand for. When it returns, what Pillow holds is gone."""
    with PIL.Image.open(BytesIO(data), formats=["GIF"]) as opened:
        if opened.size != header.stored_hw[::-1]:  # a frame reaches beyond: Pillow would make room for it
            raise damaged()
        opened.load()
        palette = opened.getpalette()
        # Without a palette, or with that of all greys, the indices are brightness.
        colours = np.repeat(np.arange(256, dtype=np.uint8), 3)
        if palette is not None:
            colours[:] = 0
            colours[: len(palette)] = palette
        return np.asarray(opened), np.ascontiguousarray(colours.reshape(256, 1, 3)[:, :, ::-1])


def _decode_by_opencv(data: bytes, header: PictureHeader) -> Image:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error as cause:
        raise damaged() from cause
    if image is None:
        raise ImageDecodeError("The picture is damaged or truncated.")
    return _checked(image, header)


def _decode_heic(data: bytes, header: PictureHeader) -> Image:
    try:
        opened = pi_heif.open_heif(data, convert_hdr_to_8bit=True, bgr_mode=True)
        image = np.asarray(opened[opened.primary_index])
    except _LIBRARY_ERRORS as cause:
        raise damaged() from cause
    if image.ndim == 2 or image.shape[2] < 3:
        gray = image if image.ndim == 2 else image[:, :, 0]
        image = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    # Bytes of Python's, which cannot be written to: turning some pictures upright does.
    return _checked(np.array(image[:, :, :3], order="C"), header)


def _decode_avif(data: bytes, header: PictureHeader) -> Image:
    if data[8:12] == b"avis":
        # A sequence is read from its tracks, whose size is another matter, unless its still picture is asked for.
        data = data[:8] + b"avif" + data[12:]
    try:
        pixels = _pixels_of_avif(data)
    except _LIBRARY_ERRORS as cause:
        raise damaged() from cause
    way = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGR
    return _checked(cv2.cvtColor(pixels, way), header)


def _pixels_of_avif(data: bytes) -> np.ndarray:
    """Return RGB or RGBA. A function of its own: when it returns, what Pillow holds is gone."""
    with PIL.Image.open(BytesIO(data), formats=["AVIF"]) as opened:
        opened.load()
        return np.asarray(opened if opened.mode in {"RGB", "RGBA"} else opened.convert("RGB"))


def _checked(image: np.ndarray, header: PictureHeader) -> Image:
    """Refuse what is not what the header said."""
    if image.shape != (*header.stored_hw, 3) or image.dtype != np.uint8:
        raise damaged()
    return np.ascontiguousarray(image, np.uint8)


_WAYS: Mapping[PictureFormat, Callable[[bytes, PictureHeader], Image]] = {
    "jpeg": _decode_cmyk,
    "png": _decode_png,
    "webp": _decode_by_opencv,
    "bmp": _decode_by_opencv,
    "gif": _decode_gif,
    "tiff": _decode_by_opencv,
    "heic": _decode_heic,
    "avif": _decode_avif,
}
"""All but usual JPEGs. AVIF is not for OpenCV, which holds two to three times the memory that Pillow does; nor is GIF,
which OpenCV 4.11, the Jetsons' version, does not read."""
