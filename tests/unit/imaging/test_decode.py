"""Encoded bytes to pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.domain import Image
from app.errors import BackendUnavailableError, ImageDecodeError, ServiceError
from app.imaging.decode import Decoder
from app.imaging.header import PictureHeader
from app.imaging.orientation import turn_upright
from app.imaging.sniff import sniff
from app.imaging.turbojpeg import TurboJpeg
from tests.support.encoded import (
    ANIMATED_WEBP,
    CMYK_JPEG,
    core_bmp,
    encode,
    exif,
    gif_of,
    jpeg_with_exif,
    png_bomb,
    png_with_exif,
    smooth_image,
    top_down_bmp,
    webp_with_exif,
)

IMAGE = smooth_image(45, 70)
GRAY = IMAGE[:, :, 0]
JPEG = encode(".jpg", IMAGE, [cv2.IMWRITE_JPEG_QUALITY, 95])
WHOLE_FILES = {
    "jpeg": JPEG,
    "progressive": encode(".jpg", IMAGE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "png": encode(".png", IMAGE),
    "webp": encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 80]),
    "lossless": encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "bmp": encode(".bmp", IMAGE),
    "gif": encode(".gif", IMAGE),
    "cmyk": CMYK_JPEG,
    "exif": jpeg_with_exif(JPEG, exif(6)),
}
UPRIGHT: dict[int, Callable[[Image], Image]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, 1),
}
"""What CIPA DC-008 says of each orientation, in numpy."""


def turbo_or_none() -> TurboJpeg | None:
    try:
        return TurboJpeg()
    except BackendUnavailableError:
        return None


@pytest.fixture(params=["turbojpeg", "opencv"], scope="module")
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Return each way of decoding JPEG."""
    library = turbo_or_none()
    if request.param == "opencv":
        return Decoder(None)
    if library is None:
        pytest.skip("libturbojpeg is not installed")
    return Decoder(library)


def decode(decoder: Decoder, data: bytes) -> Image:
    return decoder.decode(data, sniff(data, max_pixels=10**8))


def assert_is_image(image: Image, image_hw: tuple[int, int]) -> None:
    assert image.shape == (*image_hw, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    assert image.flags.writeable


class TestDecode:
    """Every format gives the same kind of picture."""

    @pytest.mark.parametrize(
        "data",
        [
            encode(".png", IMAGE),
            encode(".png", IMAGE.astype(np.uint16) * 257),
            encode(".png", np.dstack([IMAGE, np.full((45, 70), 100, np.uint8)])),
            encode(".bmp", IMAGE),
            encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 101]),
            core_bmp(IMAGE),
            top_down_bmp(IMAGE),
        ],
        ids=["png", "png16", "png-alpha", "bmp", "webp-lossless", "bmp-core", "bmp-top-down"],
    )
    def test_lossless_formats_give_every_pixel(self, decoder: Decoder, data: bytes) -> None:
        """Alpha is dropped, not blended: colours stay what they are."""
        image = decode(decoder, data)
        assert_is_image(image, (45, 70))
        assert np.array_equal(image, IMAGE)

    @pytest.mark.parametrize("data", [encode(".png", GRAY), encode(".png", GRAY.astype(np.uint16) * 257)])
    def test_gray_becomes_three_equal_channels(self, decoder: Decoder, data: bytes) -> None:
        assert np.array_equal(decode(decoder, data), np.dstack([GRAY] * 3))

    @pytest.mark.parametrize("name", ["jpeg", "progressive", "webp"])
    def test_lossy_formats_come_close(self, decoder: Decoder, name: str) -> None:
        image = decode(decoder, WHOLE_FILES[name])
        assert_is_image(image, (45, 70))
        assert np.abs(image.astype(int) - IMAGE).mean() < 5

    def test_gray_jpeg_becomes_three_equal_channels(self, decoder: Decoder) -> None:
        image = decode(decoder, encode(".jpg", GRAY, [cv2.IMWRITE_JPEG_QUALITY, 95]))
        assert_is_image(image, (45, 70))
        assert np.abs(image.astype(int) - GRAY[:, :, None]).max() < 12

    def test_cmyk_jpeg_becomes_colours(self, decoder: Decoder) -> None:
        image = decode(decoder, CMYK_JPEG)
        assert_is_image(image, (8, 16))
        assert np.abs(image.astype(int) - (190, 48, 207)).max() < 6

    def test_of_an_animation_the_first_frame_counts(self, decoder: Decoder) -> None:
        image = decode(decoder, ANIMATED_WEBP)
        assert_is_image(image, (8, 12))
        assert (image == 50).all()

    def test_a_gif_keeps_its_palette(self, decoder: Decoder) -> None:
        colours = np.array([[10, 20, 30], [200, 100, 50], [255, 255, 255], [0, 0, 0]], np.uint8)
        image = np.ascontiguousarray(colours[np.arange(40 * 60).reshape(40, 60) % 4])
        data = gif_of(np.arange(40 * 60).reshape(40, 60) % 4, colours)
        assert np.array_equal(decode(decoder, data), image)

    @pytest.mark.parametrize("data", [encode(".png", np.full((1, 1, 3), 7, np.uint8)), encode(".jpg", IMAGE[:1])])
    def test_slim_pictures_decode(self, decoder: Decoder, data: bytes) -> None:
        assert decode(decoder, data).shape[0] == 1

    def test_both_decoders_of_jpeg_agree(self, shared_images: Path) -> None:
        """The fallback changes speed, not answers."""
        library = turbo_or_none()
        if library is None:
            pytest.skip("libturbojpeg is not installed")
        for path in sorted(shared_images.glob("*.jpg"))[:6]:
            data = path.read_bytes()
            ours, fallback = (decode(Decoder(each), data) for each in (library, None))
            assert np.abs(ours.astype(int) - fallback).max() <= 4, path.name


class TestOrientation:
    """Pictures come out upright, whatever decodes them."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_format_is_turned(self, decoder: Decoder, orientation: int) -> None:
        tiff = exif(orientation)
        lossless = encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 101])
        expected = UPRIGHT[orientation](IMAGE)
        for data in (png_with_exif(encode(".png", IMAGE), tiff), webp_with_exif(lossless, tiff, (45, 70))):
            image = decode(decoder, data)
            assert_is_image(image, expected.shape[:2])
            assert np.array_equal(image, expected)
        turned = decode(decoder, jpeg_with_exif(JPEG, tiff))
        assert np.array_equal(turned, UPRIGHT[orientation](decode(decoder, JPEG)))

    @given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 8), st.randoms(use_true_random=False))
    def test_turning_equals_numpy(self, height: int, width: int, orientation: int, random: object) -> None:
        seed = random.getrandbits(32)  # type: ignore[attr-defined]  # hypothesis types it as object
        image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        expected = np.ascontiguousarray(UPRIGHT[orientation](image.copy()))
        turned = turn_upright(image, orientation)
        assert np.array_equal(turned, expected)
        assert turned.flags.c_contiguous


class TestBroken:
    """A clear error, nothing else."""

    @pytest.mark.parametrize("name", [name for name in WHOLE_FILES if name != "gif"])
    def test_a_truncated_picture_is_refused(self, decoder: Decoder, name: str) -> None:
        """A half-grey picture would be answered "no faces"."""
        data = WHOLE_FILES[name]
        for length in range(len(data) // 3, len(data) - 1, max(1, len(data) // 40)):
            with pytest.raises(ImageDecodeError):
                decode(decoder, data[:length])

    def test_a_jpeg_that_ends_early_behind_a_fine_header_is_refused(self, decoder: Decoder) -> None:
        header = sniff(JPEG, max_pixels=10**8)
        with pytest.raises(ImageDecodeError):
            decoder.decode(JPEG[: len(JPEG) // 2], header)

    def test_a_header_that_lied_is_refused(self, decoder: Decoder) -> None:
        for data in (JPEG, encode(".png", IMAGE)):
            picture_format = sniff(data, max_pixels=10**8).format
            with pytest.raises(ImageDecodeError, match="damaged"):
                decoder.decode(data, PictureHeader(format=picture_format, stored_hw=(45, 71)))

    def test_bytes_that_are_gone_are_damage(self, decoder: Decoder) -> None:
        for picture_format in ("jpeg", "png"):
            with pytest.raises(ImageDecodeError):
                decoder.decode(b"", PictureHeader(format=picture_format, stored_hw=(1, 1)))

    def test_no_tables_is_damage(self, decoder: Decoder) -> None:
        data = JPEG.replace(b"\xff\xdb", b"\xff\xfe")
        with pytest.raises(ImageDecodeError):
            decode(decoder, data)

    def test_nothing_is_written_to_stderr(self, decoder: Decoder, capfd: pytest.CaptureFixture[str]) -> None:
        """OpenCV and libpng would write a line for each broken upload; OpenCV's libjpeg cannot be kept from it."""
        for data in WHOLE_FILES.values():
            sniffed = sniff(data, max_pixels=10**8).format if decoder.name != "opencv" else ""
            for length in (len(data) // 2, len(data) - 2):
                with contextlib.suppress(ImageDecodeError):
                    decode(decoder, data[:length] + (b"\xff\xd9" if sniffed == "jpeg" else b""))
        assert capfd.readouterr().err == ""

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=2000)
    @given(st.data())
    def test_mutated_files_raise_nothing_but_our_errors(self, decoder: Decoder, data: st.DataObject) -> None:
        mutated = bytearray(WHOLE_FILES[data.draw(st.sampled_from(sorted(WHOLE_FILES)))])
        for _ in range(data.draw(st.integers(1, 5))):
            mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(mutated)))
        try:
            header = sniff(bytes(mutated[:cut] if data.draw(st.booleans()) else mutated), max_pixels=10**6)
            image = decoder.decode(bytes(mutated), header)
        except ServiceError:
            return
        assert_is_image(image, header.source_hw)


class TestDecoder:
    """Which library decodes."""

    @pytest.mark.parametrize("library", ["libnowhere.so.0", "libm.so.6"])
    def test_without_the_library_opencv_takes_over_and_says_so(self, library: str) -> None:
        with structlog.testing.capture_logs() as lines:
            decoder = Decoder.best(library)
        assert decoder.name == "opencv"
        assert [line["event"] for line in lines] == [
            "JPEG is decoded by OpenCV, with twice the memory for large pictures"
        ]
        assert decode(decoder, JPEG).shape == (45, 70, 3)

    def test_with_the_library_nothing_is_said(self) -> None:
        if turbo_or_none() is None:
            pytest.skip("libturbojpeg is not installed")
        with structlog.testing.capture_logs() as lines:
            assert Decoder.best().name == "turbojpeg+opencv"
        assert lines == []

    def test_a_missing_library_says_what_is_missing(self) -> None:
        with pytest.raises(BackendUnavailableError, match="libturbojpeg"):
            TurboJpeg("libnowhere.so.0")

    def test_costs_are_what_each_way_holds(self, decoder: Decoder) -> None:
        """One picture where the library writes into our array, two where OpenCV copies or the picture is turned."""
        has_library = decoder.name != "opencv"
        plain = decoder.cost(sniff(JPEG, max_pixels=10**8))
        assert (plain.working_pixels, plain.kept_pixels) == (45 * 70 * (1 if has_library else 2), 45 * 70)
        turned = decoder.cost(sniff(jpeg_with_exif(JPEG, exif(6)), max_pixels=10**8))
        assert turned.working_pixels == 45 * 70 * 2
        bomb = decoder.cost(sniff(png_bomb(50), max_pixels=10**8))
        assert (bomb.working_pixels, bomb.kept_pixels) == (5000, 2500)
        progressive = decoder.cost(sniff(WHOLE_FILES["progressive"], max_pixels=10**8))
        assert progressive.working_pixels > plain.working_pixels
