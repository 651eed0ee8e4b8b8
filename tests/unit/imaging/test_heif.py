"""HEIC and AVIF: what the boxes say, and what the coded pictures in them say."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.errors import ImageDecodeError, ImageTooLargeError, ServiceError
from jetface.imaging.decode import Decoder
from jetface.imaging.formats import sniff
from jetface.imaging.header import PictureHeader
from jetface.imaging.heif import is_heif, read_header


def avif(width: int, height: int, **options: Any) -> bytes:
    """A gray picture."""
    file = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (90, 120, 40)).save(file, "AVIF", speed=10, quality=30, **options)
    return file.getvalue()


AVIF = avif(64, 48)
DECODER = Decoder()


def claiming(data: bytes, width: int, height: int) -> bytes:
    """The same file with another size in its container."""
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


@pytest.fixture(scope="session")
def heic(shared_dir: Path) -> bytes:
    """A photograph of 440x538."""
    return (shared_dir / "cases" / "formats" / "photo.heic").read_bytes()


def test_sizes_are_read(heic: bytes) -> None:
    assert is_heif(heic)
    assert (read_header(heic).format, read_header(heic).stored_hw) == ("heic", (538, 440))
    assert (read_header(AVIF).format, read_header(AVIF).stored_hw) == ("avif", (48, 64))


def test_a_claim_above_the_limit_is_refused_before_a_pixel_is_decoded(heic: bytes) -> None:
    for data in (heic, AVIF):
        with pytest.raises(ImageTooLargeError):
            sniff(claiming(data, 30_000, 30_000), max_pixels=50_000_000)


def test_a_coded_picture_larger_than_the_claim_is_refused() -> None:
    """A decoder makes room for what is coded, whatever the container says."""
    bomb = claiming(avif(4000, 3000), 64, 48)
    with pytest.raises(ImageDecodeError, match="damaged"):
        sniff(bomb, max_pixels=50_000_000)


def test_a_hevc_sequence_header_larger_than_the_claim_is_refused(heic: bytes) -> None:
    """In front of the picture and among its coded data alike; 16376 x 16376."""
    bits = "0" * 4 + "000" + "1" + "0" * 96
    for number in (0, 1, 16376, 16376):
        coded = f"{number + 1:b}"
        bits += "0" * (len(coded) - 1) + coded
    bits += "1" + "0" * (-(len(bits) + 1) % 8)
    parameters = int(bits, 2).to_bytes(len(bits) // 8, "big")
    escaped = parameters.replace(b"\0\0\0", b"\0\0\3\0").replace(b"\0\0\1", b"\0\0\3\1")
    unit = b"\x42\x01" + escaped
    start = heic.index(b"mdat") + 4
    bomb = heic[:start] + struct.pack(">I", len(unit)) + unit + heic[start + 4 + len(unit) :]
    with pytest.raises(ImageDecodeError, match="damaged"):
        sniff(bomb, max_pixels=50_000_000)


@pytest.mark.parametrize("claim", [(64, 480), (640, 48), (1, 1)])
def test_what_is_shown_is_never_larger_than_the_claim(heic: bytes, claim: tuple[int, int]) -> None:
    """A HEIC is refused; an AVIF is scaled to what it claims, as the specification wants it."""
    lie = claiming(heic, *claim)
    with pytest.raises(ImageDecodeError, match="damaged"):
        DECODER.decode(lie, sniff(lie, max_pixels=50_000_000))
    lie = claiming(AVIF, *claim)
    assert DECODER.decode(lie, sniff(lie, max_pixels=50_000_000)).shape == (claim[1], claim[0], 3)


@given(st.data())
def test_a_truncated_one_is_refused(heic: bytes, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([heic, AVIF]))
    cut = whole[: data.draw(st.integers(32, len(whole) - 1))]
    with pytest.raises(ImageDecodeError, match=r"truncated|damaged"):
        sniff(cut, max_pixels=50_000_000)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=5000)
@given(st.data())
def test_any_change_gives_a_picture_or_our_error(heic: bytes, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([heic[:2000] + heic[2000:], AVIF]))
    mutated = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(12, min(len(mutated) - 1, 500)))] = data.draw(st.integers(0, 255))
    try:
        header: PictureHeader = sniff(bytes(mutated), max_pixels=10**6)
        image = DECODER.decode(bytes(mutated), header)
    except ServiceError:
        return
    assert image.shape == (*header.source_hw, 3)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"avif"])
@given(tail=st.binary(max_size=300))
def test_any_boxes_give_a_header_or_our_error(brand: bytes, tail: bytes) -> None:
    data = b"\0\0\0\x10ftyp" + brand + bytes(4) + tail
    with pytest.raises(ImageDecodeError):
        sniff(data, max_pixels=10**6)


def test_many_boxes_and_many_units_end(heic: bytes) -> None:
    """Each costs a little; there are more than any file has."""
    boxes = b"\0\0\0\x08free" * 100_000
    with pytest.raises(ImageDecodeError, match="damaged"):
        read_header(heic[:28] + boxes + heic[28:])
