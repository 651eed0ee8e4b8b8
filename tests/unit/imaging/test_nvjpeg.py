"""JPEG on the GPU: what goes there, what does not, and what is said where there is none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import structlog

from jetface.domain import Image
from jetface.errors import BackendUnavailableError, ImageDecodeError
from jetface.imaging.decode import Decoder, NvJpeg
from jetface.imaging.formats import sniff
from tests.support.encoded import encode, exif, jpeg_with_exif, smooth_image
from tests.support.fake_nvimgcodec import Codec

PICTURE = smooth_image(45, 70)
JPEG = encode(".jpg", PICTURE)


def decode(decoder: Decoder, data: bytes) -> Image:
    return decoder.decode(data, sniff(data, max_pixels=10**6))


def on_gpu(codec: Codec) -> Decoder:
    return Decoder(NvJpeg(codec))


def test_pictures_come_back_as_from_the_cpu() -> None:
    """Turned upright, in memory of their own."""
    for data in (JPEG, jpeg_with_exif(JPEG, exif(6)), encode(".jpg", PICTURE[..., 0])):
        ours, reference = decode(on_gpu(Codec()), data), decode(Decoder(), data)
        np.testing.assert_array_equal(ours, reference)
        assert ours.flags.c_contiguous
        assert ours.flags.writeable


@pytest.mark.parametrize("codec", [Codec(can_decode=False), Codec(fails=True)])
def test_what_the_gpu_cannot_decode_the_cpu_does(codec: Codec) -> None:
    assert decode(on_gpu(codec), JPEG).shape == (45, 70, 3)
    assert codec.threads


def test_a_gpu_that_fails_is_told_once() -> None:
    decoder = on_gpu(Codec(fails=True))
    with structlog.testing.capture_logs() as lines:
        for _ in range(3):
            decode(decoder, JPEG)
    assert [line["log_level"] for line in lines] == ["warning"]


def test_other_formats_stay_on_the_cpu() -> None:
    codec = Codec()
    assert decode(on_gpu(codec), encode(".png", PICTURE)).shape == (45, 70, 3)
    assert codec.threads == []


def test_a_size_that_was_not_announced_is_refused() -> None:
    """The header's reader counted on it."""
    with pytest.raises(ImageDecodeError):
        NvJpeg(Codec()).decode(JPEG, (45, 71))


def test_each_thread_has_a_decoder_of_its_own() -> None:
    """They are not said to be thread-safe."""
    codec = Codec()
    nvjpeg = NvJpeg(codec)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: nvjpeg.decode(JPEG, (45, 70)), range(20)))
    assert codec.num_decoders == 1 + len(set(codec.threads))


class TestWithoutGpu:
    def test_asked_for_and_not_there_is_said_at_start(self) -> None:
        with structlog.testing.capture_logs() as lines:
            decoder = Decoder.best(use_nvjpeg=True, open_nvjpeg=lambda: NvJpeg(Codec(has_gpu=False)))
        assert "nvjpeg" not in decoder.name
        (line,) = (line for line in lines if line["event"] == "USE_NVJPEG is on, but JPEG is decoded on the CPU")
        assert "driver" in line["reason"]
        assert decode(decoder, JPEG).shape == (45, 70, 3)

    def test_not_installed_says_how_to_install_it(self) -> None:
        """It is not among the packages that tests need."""
        with pytest.raises(BackendUnavailableError, match="pip install 'nvidia-nvimgcodec"):
            NvJpeg()

    def test_not_asked_for_it_is_not_looked_for(self) -> None:
        def fail() -> NvJpeg:
            pytest.fail("looked for")

        with structlog.testing.capture_logs() as lines:
            Decoder.best(open_nvjpeg=fail)
        assert not [line for line in lines if "NVJPEG" in line["event"]]

    def test_with_a_gpu_it_comes_first(self) -> None:
        assert Decoder.best(use_nvjpeg=True, open_nvjpeg=lambda: NvJpeg(Codec())).name == ("nvjpeg+simplejpeg")
