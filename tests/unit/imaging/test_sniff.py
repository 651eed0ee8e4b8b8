"""What a file says it is, before a pixel is decoded."""

from __future__ import annotations

import contextlib
import struct

import cv2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.errors import ImageDecodeError, ImageTooLargeError
from jetface.imaging.formats import MAX_SCANS, MAX_SEGMENTS, sniff
from jetface.imaging.header import PictureHeader
from tests.support.encoded import (
    ANIMATED_WEBP,
    CMYK_JPEG,
    chunk,
    core_bmp,
    encode,
    exif,
    jpeg_with_exif,
    png_with_exif,
    riff,
    riff_chunk,
    segment,
    smooth_image,
    top_down_bmp,
    webp_with_exif,
)

IMAGE = smooth_image(37, 53)
JPEG, PNG, BMP, GIF = (encode(extension, IMAGE) for extension in (".jpg", ".png", ".bmp", ".gif"))
LOSSY = encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 80])
LOSSLESS = encode(".webp", IMAGE, [cv2.IMWRITE_WEBP_QUALITY, 101])
PROGRESSIVE = encode(".jpg", IMAGE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
SOF = JPEG.index(b"\xff\xc0")
SCAN = JPEG.index(b"\xff\xda") + 2


def header_of(data: bytes) -> PictureHeader:
    return sniff(data, max_pixels=10**9)


def png_of(width: int, height: int) -> bytes:
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0)) + chunk(b"IEND", b"")
    )


class TestFormats:
    """Only the bytes decide."""

    @pytest.mark.parametrize(
        ("data", "picture_format"),
        [(JPEG, "jpeg"), (PROGRESSIVE, "jpeg"), (PNG, "png"), (LOSSY, "webp"), (LOSSLESS, "webp"), (BMP, "bmp"),
         (GIF, "gif"), (core_bmp(IMAGE), "bmp"), (top_down_bmp(IMAGE), "bmp")],
    )  # fmt: skip
    def test_format_and_size_are_found(self, data: bytes, picture_format: str) -> None:
        header = header_of(data)
        assert (header.format, header.stored_hw, header.orientation) == (picture_format, (37, 53), 1)

    @pytest.mark.parametrize(
        "data",
        [
            encode(".tiff", IMAGE),
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"hello",
            b"\xff\xd8",
            b"%PDF-1.7",
            bytes(64),
        ],
        ids=["tiff", "svg", "text", "two-bytes", "pdf", "zeros"],
    )
    def test_other_formats_are_refused_with_those_that_are_accepted(self, data: bytes) -> None:
        with pytest.raises(ImageDecodeError, match="JPEG, PNG, WebP, GIF, BMP, HEIC and AVIF are"):
            header_of(data)

    @pytest.mark.parametrize(
        ("data", "name"),
        [
            (encode(".tiff", IMAGE), "a TIFF picture"),
            (b"\xff\x0a" + bytes(20), "a JPEG XL picture"),
            (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
            (b"  <?xml version='1.0'?><svg/>", "an SVG picture"),
            (b"<!DOCTYPE html><html>", "an HTML or XML document"),
            (b"%PDF-1.7", "a PDF document"),
            (b"PK\3\4" + bytes(20), "a ZIP archive"),
            (b"\0\0\0\x18ftypmp42" + bytes(20), "a video"),
            (b"RIFF\0\0\0\0AVI LIST", "an audio or video file"),
            (b'{"error": "not found"}', "JSON"),
            (b"aGVsbG8gd29ybGQ=", "text"),
            (bytes(64), "a file of an unknown kind"),
        ],
    )
    def test_a_refusal_names_what_was_found(self, data: bytes, name: str) -> None:
        with pytest.raises(ImageDecodeError, match=f"This is {name}"):
            header_of(data)

    def test_tiff_is_read_where_it_is_wanted(self) -> None:
        header = sniff(encode(".tiff", IMAGE), max_pixels=10**9, accept_tiff=True)
        assert (header.format, header.stored_hw) == ("tiff", (37, 53))

    def test_nothing_is_said_to_be_empty(self) -> None:
        with pytest.raises(ImageDecodeError, match="is empty"):
            header_of(b"")


class TestLimits:
    """Size is judged by the header alone."""

    def test_a_picture_at_the_limit_passes_and_one_above_does_not(self) -> None:
        assert sniff(JPEG, max_pixels=37 * 53).num_pixels == 37 * 53
        with pytest.raises(ImageTooLargeError, match="53x37") as error:
            sniff(JPEG, max_pixels=37 * 53 - 1)
        assert error.value.details == {"width": 53, "height": 37, "max_pixels": 37 * 53 - 1}

    @pytest.mark.parametrize("side", [2**31 - 1, 2**32 - 1])
    def test_sizes_whose_product_would_overflow_are_too_large(self, side: int) -> None:
        with pytest.raises(ImageTooLargeError):
            header_of(png_of(side, side))

    @pytest.mark.parametrize("sides", [(0, 5), (5, 0), (0, 0)])
    def test_a_picture_without_pixels_is_refused(self, sides: tuple[int, int]) -> None:
        with pytest.raises(ImageDecodeError, match="no pixels"):
            header_of(png_of(*sides))

    def test_a_jpeg_of_689_bytes_that_claims_900_million_pixels_is_refused(self) -> None:
        data = bytearray(JPEG)
        data[SOF + 5 : SOF + 9] = struct.pack(">HH", 30000, 30000)
        with pytest.raises(ImageTooLargeError, match="30000x30000"):
            sniff(bytes(data), max_pixels=50_000_000)


class TestJpeg:
    """Markers up to the first scan."""

    def test_fill_bytes_garbage_and_lone_markers_between_segments_are_skipped(self) -> None:
        data = JPEG[:2] + b"\xff\xff\xff\xfe\0\4hi" + b"garbage\xff\0\xff\x01\xff\xd0" + JPEG[2:]
        assert header_of(data).stored_hw == (37, 53)

    def test_a_thumbnail_inside_a_segment_is_not_the_picture(self) -> None:
        thumbnail = encode(".jpg", smooth_image(8, 8))
        assert header_of(JPEG[:2] + segment(0xE1, b"Exif\0\0" + thumbnail) + JPEG[2:]).stored_hw == (37, 53)

    def test_what_follows_the_end_does_not_matter(self) -> None:
        assert header_of(JPEG + JPEG + b"trailer").stored_hw == (37, 53)

    @given(st.integers(3, SCAN))
    def test_a_picture_cut_before_its_pixels_is_refused(self, length: int) -> None:
        """What is missing of the pixels is told by who decodes them."""
        with pytest.raises(ImageDecodeError, match=r"truncated"):
            header_of(JPEG[:length])

    @pytest.mark.parametrize(
        "data",
        [
            JPEG[:2] + JPEG[SOF : SOF + 19] + JPEG[2:],
            JPEG[:2] + b"\xff\xd9" + JPEG[2:],
            JPEG[:2] + b"\xff\xe0\0\1" + JPEG[2:],
            JPEG[:2] + segment(0xC0, b"\x08\0") + JPEG[2:],
            JPEG[:2] + segment(0xC0, b"\x08\0\1\0\1\2" + bytes(6)) + JPEG[2:],
            JPEG[:2] + segment(0xC0, b"\x08\0\1\0\1\1\1\0\0") + JPEG[2:],
            JPEG[:2] + JPEG[JPEG.index(b"\xff\xda") :],
            JPEG[:2] + segment(0xFE, b"") * MAX_SEGMENTS + JPEG[2:],
        ],
        ids=["two-frames", "early-end", "length", "short-frame", "two-colours", "sampling-0", "no-frame", "segments"],
    )
    def test_a_broken_one_is_refused(self, data: bytes) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(data)

    @pytest.mark.parametrize(("marker", "precision"), [(0xC0, 12), (0xC3, 8), (0xC9, 8), (0xCF, 8)])
    def test_kinds_nobody_reads_are_told(self, marker: int, precision: int) -> None:
        data = bytearray(JPEG)
        data[SOF + 1], data[SOF + 4] = marker, precision
        with pytest.raises(ImageDecodeError, match="not supported"):
            header_of(bytes(data))

    def test_more_scans_than_any_encoder_writes_are_refused(self) -> None:
        start = PROGRESSIVE.index(b"\xff\xda")
        data = PROGRESSIVE[:-2] + PROGRESSIVE[start : start + 12] * MAX_SCANS + PROGRESSIVE[-2:]
        with pytest.raises(ImageDecodeError, match="too many scans"):
            header_of(data)

    def test_a_progressive_picture_costs_its_coefficients(self) -> None:
        assert header_of(JPEG).side_bytes_per_pixel == 0
        assert header_of(PROGRESSIVE).side_bytes_per_pixel == 2 * 1.5
        assert header_of(CMYK_JPEG).num_channels == 4


class TestPng:
    """Chunks up to the end."""

    @given(st.integers(8, len(PNG) - 13))
    def test_a_truncated_picture_is_refused(self, length: int) -> None:
        with pytest.raises(ImageDecodeError, match="truncated"):
            header_of(PNG[:length])

    @given(st.integers(16, len(PNG) - 1), st.integers(1, 255))
    def test_a_changed_byte_is_noticed(self, position: int, change: int) -> None:
        data = bytearray(PNG)
        data[position] ^= change
        with pytest.raises(ImageDecodeError, match=r"truncated|damaged"):
            header_of(bytes(data))

    def test_the_header_comes_first(self) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(PNG[:8] + chunk(b"tEXt", b"a\0b") + PNG[8:])

    def test_chunks_without_end_are_given_up(self) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(PNG[:33] + chunk(b"tEXt", b"") * 70_000 + PNG[33:])


class TestWebp:
    """Simple, lossless, extended."""

    @given(st.sampled_from([LOSSY, LOSSLESS, ANIMATED_WEBP]), st.data())
    def test_a_truncated_picture_is_refused(self, whole: bytes, data: st.DataObject) -> None:
        length = data.draw(st.integers(12, len(whole) - 1))
        with pytest.raises(ImageDecodeError, match="truncated"):
            header_of(whole[:length])

    def test_lossless_costs_more(self) -> None:
        assert header_of(LOSSY).side_bytes_per_pixel == 0
        assert header_of(LOSSLESS).side_bytes_per_pixel == 4
        assert header_of(ANIMATED_WEBP).side_bytes_per_pixel == 6
        assert header_of(webp_with_exif(LOSSY, exif(1), (37, 53))).side_bytes_per_pixel == 0

    @pytest.mark.parametrize(
        "data",
        [
            riff(riff_chunk(b"VP8 ", bytes(20))),
            riff(riff_chunk(b"VP8L", bytes(20))),
            riff(riff_chunk(b"JUNK", bytes(20))),
            riff(riff_chunk(b"VP8X", bytes(10)) + riff_chunk(b"JUNK", b"") * 5000),
        ],
        ids=["lossy", "lossless", "junk", "chunks"],
    )
    def test_a_broken_one_is_refused(self, data: bytes) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(data)

    def test_a_chunk_that_runs_past_the_end_is_truncated(self) -> None:
        with pytest.raises(ImageDecodeError, match="truncated"):
            header_of(riff(riff_chunk(b"VP8X", bytes(10)) + b"EXIF\xff\0\0\0"))


class TestBitmaps:
    """BMP and GIF."""

    def test_a_negative_height_is_a_height(self) -> None:
        assert header_of(top_down_bmp(IMAGE)).stored_hw == (37, 53)

    def test_a_negative_width_is_damage(self) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(BMP[:18] + struct.pack("<i", -53) + BMP[22:])

    def test_the_least_height_there_is_does_not_overflow(self) -> None:
        with pytest.raises(ImageTooLargeError):
            header_of(BMP[:22] + struct.pack("<i", -(2**31)) + BMP[26:])

    def test_an_unknown_header_is_damage(self) -> None:
        with pytest.raises(ImageDecodeError, match="damaged"):
            header_of(BMP[:14] + struct.pack("<I", 13) + BMP[18:])

    @pytest.mark.parametrize("data", [BMP[:25], GIF[:12], GIF[: len(GIF) // 2], GIF[:-2]])
    def test_a_header_cut_short_is_truncated(self, data: bytes) -> None:
        with pytest.raises(ImageDecodeError, match="truncated"):
            header_of(data)


class TestOrientation:
    """EXIF in the three formats that carry it."""

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_it_is_found(self, orientation: int, order: str) -> None:
        tiff = exif(orientation, order)
        files = [
            jpeg_with_exif(JPEG, tiff),
            png_with_exif(PNG, tiff),
            png_with_exif(PNG, tiff, at_end=True),
            webp_with_exif(LOSSY, tiff, (37, 53)),
            webp_with_exif(LOSSLESS, b"Exif\0\0" + tiff, (37, 53)),
        ]
        for data in files:
            header = header_of(data)
            assert header.orientation == orientation
            assert header.stored_hw == (37, 53)
            assert header.source_hw == ((53, 37) if orientation >= 5 else (37, 53))

    @pytest.mark.parametrize("order", ["<", ">"])
    @pytest.mark.parametrize("kind", [1, 4, 8, 9], ids=["BYTE", "LONG", "SSHORT", "SLONG"])
    def test_other_kinds_of_numbers_are_read_as_viewers_do(self, order: str, kind: int) -> None:
        assert header_of(jpeg_with_exif(JPEG, exif(6, order, kind=kind))).orientation == 6

    def test_the_first_of_two_counts(self) -> None:
        assert header_of(jpeg_with_exif(jpeg_with_exif(JPEG, exif(3)), exif(6))).orientation == 6

    @pytest.mark.parametrize(
        "tiff",
        [
            b"", b"II", b"XX*\0" + exif(6)[4:], exif(0), exif(9), exif(6, kind=2), exif(6, count=2),
            exif(6, tag=0x0113), exif(6)[:-14], b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\xff\xff" + bytes(12 * 600),
        ],
    )  # fmt: skip
    def test_malformed_exif_is_passed_over(self, tiff: bytes) -> None:
        assert header_of(jpeg_with_exif(JPEG, tiff)).orientation == 1


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", PNG[:8], LOSSY[:16], b"BM", b"GIF89a"]))
def test_any_bytes_give_a_header_or_a_clear_error(tail: bytes, start: bytes) -> None:
    """Never another exception."""
    with contextlib.suppress(ImageDecodeError, ImageTooLargeError):
        assert header_of(start + tail).num_pixels > 0
