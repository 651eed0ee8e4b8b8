"""JPEG on the GPU, through nvImageCodec: pixels come back to the host, where pictures are cut and turned."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
import structlog

from jetface.domain import Image
from jetface.errors import BackendUnavailableError
from jetface.imaging.header import damaged

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
