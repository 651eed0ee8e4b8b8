"""Encoded bytes to pixels."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.domain import Image
from jetface.errors import BackendUnavailableError, ImageDecodeError, ServiceError
from jetface.imaging.decode import Decoder, open_pyturbojpeg
from jetface.imaging.formats import sniff
from jetface.imaging.header import PictureHeader, turn_upright
from tests.support.encoded import (
    ANIMATED_WEBP,
    CMYK_JPEG,
    chunk,
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
RESTARTING_JPEG = encode(".jpg", IMAGE, [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])
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


@pytest.fixture(scope="module", params=["simplejpeg", "pyturbojpeg"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Return what decodes where there is no GPU."""
    if request.param == "simplejpeg":
        return Decoder()
    try:
        return Decoder(turbojpeg=open_pyturbojpeg())
    except BackendUnavailableError as error:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(error.message)


def decode(decoder: Decoder, data: bytes) -> Image:
    return decoder.decode(data, sniff(data, max_pixels=10**8))


def avif(picture: PIL.Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "AVIF", quality=90, speed=10, **options)
    return file.getvalue()


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

    def test_a_gif_without_colours_is_grey(self, decoder: Decoder) -> None:
        file = io.BytesIO()
        PIL.Image.fromarray(GRAY).save(file, "GIF")
        assert np.array_equal(decode(decoder, file.getvalue()), np.repeat(GRAY[:, :, None], 3, axis=2))

    def test_a_gif_whose_frame_reaches_beyond_it_is_refused(self, decoder: Decoder) -> None:
        """Before there is room for the frame, which may be any size."""
        data = bytearray(WHOLE_FILES["gif"])
        data[6:10] = struct.pack("<HH", 1, 1)  # its size
        with pytest.raises(ImageDecodeError, match="damaged"):
            decode(decoder, bytes(data))

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
    @pytest.mark.parametrize("blend", [0, 1])
    def test_of_an_animated_png_the_still_picture_counts(self, decoder: Decoder, mode: str, blend: int) -> None:
        still = PIL.Image.fromarray(IMAGE[:, :, ::-1])
        pictures = [picture.convert(mode) for picture in (still, still.rotate(180))]
        file = io.BytesIO()
        pictures[0].save(file, "PNG", save_all=True, append_images=pictures[1:], blend=blend)
        plain = io.BytesIO()
        pictures[0].save(plain, "PNG")
        assert np.array_equal(decode(decoder, file.getvalue()), decode(decoder, plain.getvalue()))

    @pytest.mark.parametrize("side_px", [8, 60_000])
    @pytest.mark.parametrize("coded", [b"", b"\x78\x9c\xff\xff", zlib.compress(bytes(30))])
    @pytest.mark.parametrize("is_still_a_frame", [False, True])
    def test_damage_to_the_animation_of_a_png_costs_nothing(
        self, decoder: Decoder, side_px: int, coded: bytes, *, is_still_a_frame: bool
    ) -> None:
        """OpenCV gives other pixels or ends the process."""
        control = struct.pack(">IIIIHHBB", side_px, side_px, 0, 0, 1, 10, 0, 0)
        first = chunk(b"fcTL", bytes(4) + control)
        frames = first if is_still_a_frame else first + chunk(b"fdAT", struct.pack(">I", 1) + coded)
        second = chunk(b"fcTL", struct.pack(">I", 2) + control) + chunk(b"fdAT", struct.pack(">I", 3) + coded)
        start, still, end = WHOLE_FILES["png"][:33], WHOLE_FILES["png"][33:-12], WHOLE_FILES["png"][-12:]
        pieces = [frames, still, second] if is_still_a_frame else [still, frames, second]
        animated = start + chunk(b"acTL", struct.pack(">II", 2, 0)) + b"".join(pieces) + end
        assert np.array_equal(decode(decoder, animated), IMAGE)

    @pytest.mark.parametrize("data", [encode(".png", np.full((1, 1, 3), 7, np.uint8)), encode(".jpg", IMAGE[:1])])
    def test_slim_pictures_decode(self, decoder: Decoder, data: bytes) -> None:
        assert decode(decoder, data).shape[0] == 1

    def test_a_jpeg_has_the_pixels_that_other_programs_see(self, decoder: Decoder, shared_images: Path) -> None:
        for path in sorted(shared_images.glob("*.jpg"))[:6]:
            data = path.read_bytes()
            ours = decode(decoder, data)
            with PIL.Image.open(path) as opened:
                assert np.array_equal(ours, np.asarray(opened.convert("RGB"))[:, :, ::-1]), path.name
            opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            assert np.abs(ours.astype(int) - opencv).max() <= 4, path.name

    def test_heic_is_decoded(self, decoder: Decoder, shared_dir: Path) -> None:
        """The photograph is the JPEG's beside it."""
        folder = shared_dir / "cases" / "formats"
        heic, jpeg = (decode(decoder, (folder / name).read_bytes()) for name in ("photo.heic", "plain.jfif"))
        assert_is_image(heic, (538, 440))
        assert jpeg.shape == heic.shape
        assert np.abs(heic.astype(int) - jpeg).mean() < 6

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
    @pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
    def test_avif_is_decoded(self, decoder: Decoder, mode: str, subsampling: str) -> None:
        picture = PIL.Image.fromarray(IMAGE[:, :, ::-1]).convert(mode)
        image = decode(decoder, avif(picture, subsampling=subsampling))
        assert_is_image(image, (45, 70))
        assert np.abs(image.astype(int) - np.asarray(picture.convert("RGB"))[:, :, ::-1]).mean() < 8

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_an_avif_is_turned_as_its_container_says(self, decoder: Decoder, orientation: int) -> None:
        """By its own mirror and turn, which encoders make of EXIF."""
        tagged = PIL.Image.Exif()
        tagged[0x0112] = orientation
        image = decode(decoder, avif(PIL.Image.fromarray(IMAGE[:, :, ::-1]), exif=tagged))
        expected = UPRIGHT[orientation](IMAGE)
        assert_is_image(image, expected.shape[:2])
        assert np.abs(image.astype(int) - expected).mean() < 8

    def test_an_animated_avif_gives_a_picture(self, decoder: Decoder) -> None:
        frames = [PIL.Image.new("RGB", (64, 48), (value, value, value)) for value in (50, 200)]
        image = decode(decoder, avif(frames[0], save_all=True, append_images=frames[1:]))
        assert image.shape == (48, 64, 3)
        assert np.abs(image.astype(int) - 50).max() < 8

    @pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
    def test_tiff_is_decoded(self, decoder: Decoder, compression: str | None, mode: str) -> None:
        if (compression, mode) == ("jpeg", "RGBA"):
            pytest.skip("there is no such TIFF")
        file = io.BytesIO()
        PIL.Image.fromarray(IMAGE[:, :, ::-1]).convert(mode).save(file, "TIFF", compression=compression)
        header = sniff(file.getvalue(), max_pixels=10**8, accept_tiff=True)
        image = decoder.decode(file.getvalue(), header)
        assert_is_image(image, (45, 70))
        if mode == "RGB":
            assert np.abs(image.astype(int) - IMAGE).mean() < 6


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

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "I;16"])
    def test_a_tiff_is_turned_once(self, decoder: Decoder, mode: str, orientation: int) -> None:
        """OpenCV turns a TIFF itself."""
        picture = PIL.Image.fromarray(GRAY if mode in {"L", "I;16"} else IMAGE[:, :, ::-1])
        if mode == "I;16":
            picture = PIL.Image.fromarray(GRAY.astype(np.uint16) * 257)
        tagged = PIL.Image.Exif()
        tagged[0x0112] = orientation
        file = io.BytesIO()
        (picture.convert("CMYK") if mode == "CMYK" else picture).save(file, "TIFF", exif=tagged)
        expected = UPRIGHT[orientation](np.repeat(GRAY[:, :, None], 3, axis=2) if mode in {"L", "I;16"} else IMAGE)
        header = sniff(file.getvalue(), max_pixels=10**8, accept_tiff=True)
        image = decoder.decode(file.getvalue(), header)
        assert header.source_hw == expected.shape[:2]
        assert np.abs(image.astype(int) - expected).max() <= 2

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

    @pytest.mark.parametrize("name", list(WHOLE_FILES))
    def test_a_truncated_picture_is_refused(self, decoder: Decoder, name: str) -> None:
        """A half-grey picture would be answered "no faces"."""
        data = WHOLE_FILES[name]
        end = len(data) - (12 if name == "png" else 4)
        for length in range(len(data) // 3, end, max(1, len(data) // 40)):
            with pytest.raises(ImageDecodeError):
                decode(decoder, data[:length])

    @pytest.mark.parametrize("data", [JPEG, CMYK_JPEG, encode(".jpg", GRAY)], ids=["colour", "cmyk", "gray"])
    def test_half_a_jpeg_is_truncated_though_it_has_an_end(self, decoder: Decoder, data: bytes) -> None:
        scan = data.index(b"\xff\xda")
        half = data[: (scan + len(data)) // 2] + b"\xff\xd9"
        with pytest.raises(ImageDecodeError, match="truncated"):
            decode(decoder, half)

    @pytest.mark.parametrize("end", [b"", b"\xff\xd9"], ids=["cut", "cut-with-end"])
    def test_a_jpeg_with_restart_markers_is_truncated_wherever_it_is_cut(self, decoder: Decoder, end: bytes) -> None:
        """Cameras write them; a cut before one is not told as one within the coded data is."""
        data = RESTARTING_JPEG
        for length in range(data.index(b"\xff\xda") + 14, len(data) - 3):
            with pytest.raises(ImageDecodeError, match="truncated"):
                decode(decoder, data[:length] + end)

    def test_a_jpeg_whose_rest_was_never_written_is_truncated(self, decoder: Decoder) -> None:
        """Zeros are coded pixels of one colour; behind a whole picture they are nothing."""
        data = RESTARTING_JPEG
        half = data[: len(data) // 2]
        with pytest.raises(ImageDecodeError, match="truncated"):
            decode(decoder, half + bytes(600))
        assert np.array_equal(decode(decoder, data + bytes(600)), decode(decoder, data))

    @pytest.mark.parametrize("missing", range(1, 13))
    def test_a_png_that_lacks_its_last_chunk_alone_is_shown(self, decoder: Decoder, missing: int) -> None:
        """All of its pixels are there."""
        assert np.array_equal(decode(decoder, encode(".png", IMAGE)[:-missing]), IMAGE)

    def test_a_png_cut_between_two_chunks_of_pixels_is_refused(self, decoder: Decoder) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
        data = encode(".png", noise)
        with pytest.raises(ImageDecodeError):
            decode(decoder, data[: data.rindex(b"IDAT") - 4])

    def test_a_bmp_of_another_order_of_colours_is_read_right_or_refused(self, decoder: Decoder) -> None:
        rows = np.dstack([IMAGE[::-1, :, ::-1], np.zeros(IMAGE.shape[:2], np.uint8)]).tobytes()
        masks = struct.pack("<4I", 0xFF, 0xFF00, 0xFF0000, 0)
        for header_bytes, masks_behind in ((40, masks[:12]), (56, b"")):
            header = struct.pack("<IiiHHIIiiII", header_bytes, 70, 45, 1, 32, 3, len(rows), 0, 0, 0, 0) + masks
            start = 14 + header_bytes + len(masks_behind)
            head = b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start)
            data = head + header[:header_bytes] + masks_behind + rows
            if masks_behind:
                with pytest.raises(ImageDecodeError, match="a kind of BMP that is not supported"):
                    decode(decoder, data)
            else:
                assert np.array_equal(decode(decoder, data), IMAGE)

    @pytest.mark.parametrize("name", ["half_jpeg_with_end_marker.jpg"])
    def test_what_is_truncated_is_said_to_be(self, decoder: Decoder, shared_dir: Path, name: str) -> None:
        with pytest.raises(ImageDecodeError, match="truncated"):
            decode(decoder, (shared_dir / "cases" / "formats" / name).read_bytes())

    @pytest.mark.parametrize(
        ("name", "image_hw"), [("gif_without_trailer.gif", (269, 220)), ("jpeg_without_eoi.jpg", (538, 440))]
    )
    def test_a_picture_without_its_end_marker_is_shown(
        self, decoder: Decoder, shared_dir: Path, name: str, image_hw: tuple[int, int]
    ) -> None:
        """All of its pixels are there."""
        assert_is_image(decode(decoder, (shared_dir / "cases" / "formats" / name).read_bytes()), image_hw)

    @pytest.mark.parametrize("name", ["jpeg", "progressive", "cmyk", "gif", "exif"])
    def test_an_end_marker_adds_nothing(self, decoder: Decoder, name: str) -> None:
        data = WHOLE_FILES[name]
        without = data[: -1 if name == "gif" else -2]
        assert np.array_equal(decode(decoder, without), decode(decoder, data))

    def test_orientation_of_another_kind_of_number_is_honoured(self, decoder: Decoder, shared_dir: Path) -> None:
        data = (shared_dir / "cases" / "formats" / "exif_orientation_as_long.jpg").read_bytes()
        assert decode(decoder, data).shape == (538, 440, 3)

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

    @pytest.mark.parametrize("at_end", [False, True])
    def test_texts_that_unpack_to_gigabytes_cost_nothing(self, decoder: Decoder, *, at_end: bool) -> None:
        """Libpng unpacks and keeps a thousand of them, of 8 MB each: 8 GB."""
        plain = encode(".png", IMAGE)
        texts = [(b"zTXt", b"a\0\0"), (b"iTXt", b"a\0\1\0\0\0")]
        bomb = b"".join(chunk(kind, head + zlib.compress(bytes(7_900_000))) for kind, head in texts) * 400
        place = plain.rindex(b"IEND") - 4 if at_end else 33
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        np.testing.assert_array_equal(decode(decoder, plain[:place] + bomb + plain[place:]), IMAGE)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 2**10

    def test_what_is_coded_beyond_the_picture_is_damage(self, decoder: Decoder) -> None:
        """Libpng unpacks all of it before it passes over it: four minutes for 64 MiB."""
        noise = np.random.default_rng(0).integers(0, 255, (1200, 1300, 3), np.uint8)
        rows = b"".join(b"\0" + row.tobytes() for row in noise)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1300, 1200, 8, 2, 0, 0, 0))
        png = b"\x89PNG\r\n\x1a\n" + head

        def coded(content: bytes) -> bytes:
            packed = zlib.compress(content)
            return b"".join(chunk(b"IDAT", packed[start : start + 65536]) for start in range(0, len(packed), 65536))

        end = chunk(b"IEND", b"")
        np.testing.assert_array_equal(decode(decoder, png + coded(rows) + end), noise[:, :, ::-1])
        with pytest.raises(ImageDecodeError, match="damaged"):
            decode(decoder, png + coded(rows + bytes(64 * 2**20)) + end)

    def test_nothing_is_written_to_stderr(self, decoder: Decoder, capfd: pytest.CaptureFixture[str]) -> None:
        """OpenCV and libpng would write a line for each broken upload; OpenCV's libjpeg cannot be kept from it."""
        for data in WHOLE_FILES.values():
            sniffed = sniff(data, max_pixels=10**8).format
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
    """What decodes, and what it costs."""

    def test_nothing_is_said_where_nothing_is_missing(self) -> None:
        with structlog.testing.capture_logs() as lines:
            assert Decoder.best().name == "simplejpeg"
        assert lines == []

    def test_costs_are_what_each_way_holds(self, decoder: Decoder) -> None:
        """One picture where the library writes into our array, two where one is copied or turned."""
        plain = decoder.cost(sniff(JPEG, max_pixels=10**8))
        assert (plain.working_pixels, plain.kept_pixels) == (45 * 70, 45 * 70)
        turned = decoder.cost(sniff(jpeg_with_exif(JPEG, exif(6)), max_pixels=10**8))
        assert turned.working_pixels == 45 * 70 * 2
        bomb = decoder.cost(sniff(png_bomb(50), max_pixels=10**8))
        assert (bomb.working_pixels, bomb.kept_pixels) == (5000, 2500)
        progressive = decoder.cost(sniff(WHOLE_FILES["progressive"], max_pixels=10**8))
        assert progressive.working_pixels > plain.working_pixels
