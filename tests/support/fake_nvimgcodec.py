"""Stands in for `nvidia.nvimgcodec`: the names that ours uses, held to those of version 0.9; OpenCV decodes."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np


@dataclass(frozen=True)
class Stream:
    """An encoded picture."""

    data: bytes


@dataclass(frozen=True, kw_only=True)
class Params:
    """How it is to be decoded."""

    apply_exif_orientation: bool
    sample_format: str


class Image:
    """A decoded picture on the GPU."""

    def __init__(self, pixels: np.ndarray[Any, Any]) -> None:
        self._pixels = pixels

    def cpu(self) -> np.ndarray[Any, Any]:
        """Copy it to the host."""
        return self._pixels


class Codec:
    """The module. One that has no GPU raises as the real one does."""

    CodeStream = Stream
    DecodeParams = Params
    SampleFormat = SimpleNamespace(I_BGR="I_BGR")

    def __init__(self, *, has_gpu: bool = True, can_decode: bool = True, fails: bool = False) -> None:
        self.has_gpu = has_gpu
        self.can_decode = can_decode
        self.fails = fails
        self.num_decoders = 0
        self.threads: list[int] = []

    def Decoder(self, *, max_num_cpu_threads: int) -> Codec:  # noqa: N802 - the library's name
        """Open a decoder."""
        if max_num_cpu_threads < 1:
            raise ValueError(max_num_cpu_threads)
        if not self.has_gpu:
            raise RuntimeError("CUDA Runtime failure: '#35'")
        self.num_decoders += 1
        return self

    def decode(self, stream: Stream, *, params: Params) -> Image | None:
        """Decode as stored, or None."""
        assert params == Params(apply_exif_orientation=False, sample_format="I_BGR")
        self.threads.append(threading.get_ident())
        if self.fails:
            raise RuntimeError("nvImageCodec failure: '#2'")
        if not self.can_decode:
            return None
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(stream.data, np.uint8), flags)
        return None if pixels is None else Image(pixels)
