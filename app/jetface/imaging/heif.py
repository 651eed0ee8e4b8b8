"""HEIC and AVIF headers: size, turn, and what the coded pictures inside claim, before a decoder sees them.

Both are boxes of one container that lead to pictures coded as HEVC or AV1. A decoder makes room for what the coded
picture says, whatever the container says, so both are read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from jetface.errors import ImageDecodeError
from jetface.imaging.header import PictureHeader, damaged, truncated

BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis"})
"""Source: ISO/IEC 23008-12, 10.2 and annex B.4; AV1 Image File Format, section 6."""

MAX_BOXES = 4096
"""A photograph of 48 million pixels has some hundred; bounds the time a hostile file costs."""

MAX_UNITS = 65_536
"""Most pieces of coded data of one file that are looked at; a still picture has a handful for each of its tiles."""

_SPARE_SIDE_PX = 1024
"""A picture cut into tiles may be smaller than they are by up to a tile on each side; phones write tiles of 512 px."""

_SPS, _SEQUENCE_HEADER = 33, 1


@dataclass(slots=True)
class _Contents:
    """What the `meta` box says."""

    primary: int | None = None
    types: dict[int, bytes] = field(default_factory=dict)
    extents: dict[int, list[memoryview]] = field(default_factory=dict)
    properties: list[tuple[bytes, memoryview]] = field(default_factory=list)
    of_item: dict[int, list[int]] = field(default_factory=dict)
    """Numbers of an item's properties, from 1."""
    parts: dict[int, list[int]] = field(default_factory=dict)
    """Items that a derived item is made of."""

    def properties_of(self, item: int) -> Iterator[tuple[bytes, memoryview]]:
        """Yield an item's properties in the order in which they are applied."""
        for number in self.of_item.get(item, ()):
            if 1 <= number <= len(self.properties):
                yield self.properties[number - 1]

    def find(self, item: int, kind: bytes) -> memoryview:
        """Return a property that an item cannot be without."""
        found = next((payload for name, payload in self.properties_of(item) if name == kind), None)
        if found is None:
            raise damaged()
        return found

    def size_of(self, item: int) -> tuple[int, int]:
        """Return the height and width an item claims."""
        width, height = struct.unpack_from(">II", self.find(item, b"ispe"), 4)
        return height, width


def is_heif(data: bytes) -> bool:
    """Whether the first bytes say HEIF, of which HEIC and AVIF are kinds."""
    return data[4:8] == b"ftyp" and (data[8:12] in BRANDS or bool(BRANDS & _compatible_brands(data)))


def read_header(data: bytes) -> PictureHeader:
    """Read a HEIC's or AVIF's boxes and the sequence headers of all its coded pictures.

    Raises:
        ImageDecodeError: Truncated, damaged, of no kind that is read here, or larger inside than it claims.

    Source: ISO/IEC 23008-12 (HEIF), ISO/IEC 14496-12 (boxes), AV1 Image File Format.
    """
    try:
        return _read(data)
    except (struct.error, IndexError, ValueError):
        raise damaged() from None


def _read(data: bytes) -> PictureHeader:
    contents = _read_contents(memoryview(data))
    primary = contents.primary
    if primary is None or primary not in contents.types:
        raise damaged()
    kinds = set(contents.types.values())
    if contents.types[primary] not in {b"hvc1", b"av01", b"grid"} or b"iovl" in kinds:
        raise ImageDecodeError("The picture is a kind of HEIF that is not supported: only HEVC and AV1 are.")
    is_avif = b"av01" in kinds
    if is_avif and b"hvc1" in kinds:
        raise damaged()
    height, width = contents.size_of(primary)
    _check_coded(contents, (height + _SPARE_SIDE_PX) * (width + _SPARE_SIDE_PX))
    planes = _plane_bytes(contents)
    if is_avif:
        # Measured beyond the two pictures that each decode is charged: Pillow 13 with libavif 1.4.
        return PictureHeader(
            format="avif",
            stored_hw=(height, width),
            orientation=_orientation(contents, primary),
            side_bytes_per_pixel=planes + 4.8,
        )
    # libheif applies what is said of turns and cuts itself. Measured: libheif 1.23 with libde265 1.1.
    return PictureHeader(
        format="heic", stored_hw=_shown_hw(contents, primary), side_bytes_per_pixel=max(0.0, 2 * planes - 2.8)
    )


def _plane_bytes(contents: _Contents) -> float:
    """Return the bytes a pixel takes as it is coded: brightness, colours, alpha."""
    most = 0.0
    for kind, payload in contents.properties:
        if kind == b"hvcC":
            across_and_down = {0: 0.0, 1: 0.5, 2: 1.0, 3: 2.0}[payload[16] & 3]
            most = max(most, (1 + across_and_down) * (2 if payload[17] & 7 else 1))
        elif kind == b"av1C":
            flags = payload[2]
            colours = 0.0 if flags & 16 else 2.0 / (2 if flags & 8 else 1) / (2 if flags & 4 else 1)
            most = max(most, (1 + colours) * (2 if flags & 64 else 1))
    has_alpha = any(kind == b"auxC" and b"alpha" in bytes(payload) for kind, payload in contents.properties)
    return most + 3 * has_alpha


def _read_contents(data: memoryview) -> _Contents:
    contents = _Contents()
    budget = iter(range(MAX_BOXES))
    for kind, payload in _boxes(data, budget):
        if kind == b"meta":
            boxes = dict(_boxes(payload[4:], budget))
            _read_primary(boxes, contents)
            _read_types(boxes.get(b"iinf"), contents, budget)
            _read_extents(boxes.get(b"iloc"), data, boxes.get(b"idat"), contents)
            _read_properties(boxes.get(b"iprp"), contents, budget)
            _read_parts(boxes.get(b"iref"), contents, budget)
            return contents
    raise truncated()


def _boxes(data: memoryview, budget: Iterator[int]) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the boxes that fill `data`.

    Raises:
        ImageDecodeError: One is longer than what is there, or there are too many.
    """
    position = 0
    while position + 8 <= len(data):
        if next(budget, None) is None:
            raise damaged()
        length, kind = struct.unpack_from(">I4s", data, position)
        start = position + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, start)
            start += 8
        elif length == 0:
            length = len(data) - position
        if length < start - position:
            raise damaged()
        if position + length > len(data):
            raise truncated()
        yield kind, data[start : position + length]
        position += length


def _read_primary(boxes: Mapping[bytes, memoryview], contents: _Contents) -> None:
    pitm = boxes.get(b"pitm")
    if pitm is not None:
        (contents.primary,) = struct.unpack_from(">I" if pitm[0] else ">H", pitm, 4)


def _read_types(iinf: memoryview | None, contents: _Contents, budget: Iterator[int]) -> None:
    if iinf is None:
        raise damaged()
    for kind, infe in _boxes(iinf[8 if iinf[0] else 6 :], budget):
        if kind == b"infe" and infe[0] in {2, 3}:
            item, _, item_type = struct.unpack_from(">HH4s" if infe[0] == 2 else ">IH4s", infe, 4)
            contents.types[item] = item_type


def _read_extents(iloc: memoryview | None, data: memoryview, idat: memoryview | None, contents: _Contents) -> None:
    if iloc is None:
        raise damaged()
    version = iloc[0]
    offset_bytes, length_bytes = iloc[4] >> 4, iloc[4] & 15
    base_bytes, index_bytes = iloc[5] >> 4, iloc[5] & 15 if version else 0
    position = 6

    def take(num_bytes: int) -> int:
        nonlocal position
        if position + num_bytes > len(iloc):
            raise truncated()
        position += num_bytes
        return int.from_bytes(iloc[position - num_bytes : position], "big")

    for _ in range(take(4 if version == 2 else 2)):
        item = take(4 if version == 2 else 2)
        method = take(2) & 15 if version else 0
        take(2)
        base = take(base_bytes)
        where = {0: data, 1: idat}.get(method)
        for _ in range(take(2)):
            take(index_bytes)
            start, length = base + take(offset_bytes), take(length_bytes)
            if where is None or start + length > len(where):
                raise truncated()
            contents.extents.setdefault(item, []).append(where[start : start + length] if length else where[start:])


def _read_properties(iprp: memoryview | None, contents: _Contents, budget: Iterator[int]) -> None:
    if iprp is None:
        raise damaged()
    for kind, payload in _boxes(iprp, budget):
        if kind == b"ipco":
            contents.properties = list(_boxes(payload, budget))
        elif kind == b"ipma":
            _read_associations(payload, contents)


def _read_associations(ipma: memoryview, contents: _Contents) -> None:
    has_wide_items, has_wide_numbers = ipma[0] > 0, ipma[3] & 1
    (num_items,) = struct.unpack_from(">I", ipma, 4)
    position = 8
    for _ in range(num_items):
        (item,) = struct.unpack_from(">I" if has_wide_items else ">H", ipma, position)
        position += 4 if has_wide_items else 2
        count = ipma[position]
        position += 1
        numbers = struct.unpack_from(f">{count}{'H' if has_wide_numbers else 'B'}", ipma, position)
        position += count * (2 if has_wide_numbers else 1)
        mask = 0x7FFF if has_wide_numbers else 0x7F
        contents.of_item.setdefault(item, []).extend(number & mask for number in numbers)


def _read_parts(iref: memoryview | None, contents: _Contents, budget: Iterator[int]) -> None:
    if iref is None:
        return
    letter = "I" if iref[0] else "H"
    for kind, payload in _boxes(iref[4:], budget):
        if kind == b"dimg":
            item, count = struct.unpack_from(f">{letter}H", payload)
            contents.parts[item] = list(
                struct.unpack_from(f">{count}{letter}", payload, struct.calcsize(f">{letter}H"))
            )


def _check_coded(contents: _Contents, most_pixels: int) -> None:
    """Refuse a file whose coded pictures, or all tiles of one picture, are larger than what it claims to show."""
    units = iter(range(MAX_UNITS))
    pixels: dict[int, int] = {}
    for item, kind in contents.types.items():
        if kind in {b"hvc1", b"av01"}:
            sizes = [height * width for height, width in _coded_sizes(contents, item, kind, units)]
            if not sizes:
                raise damaged()
            pixels[item] = max(sizes)
    tiled = [sum(pixels.get(part, 0) for part in parts) for parts in contents.parts.values()]
    if max([*pixels.values(), *tiled], default=0) > most_pixels:
        raise damaged()


def _coded_sizes(contents: _Contents, item: int, kind: bytes, units: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Yield height and width of every sequence header a decoder of this item would see."""
    coded = b"".join(contents.extents.get(item, ()))
    if kind == b"av01":
        config = bytes(contents.find(item, b"av1C"))
        for part in (config[4:], coded):
            yield from _av1_sizes(part, units)
        return
    config = bytes(contents.find(item, b"hvcC"))
    position = 23
    for _ in range(config[22]):
        (count,) = struct.unpack_from(">H", config, position + 1)
        position += 3
        for _ in range(count):
            (length,) = struct.unpack_from(">H", config, position)
            yield from _hevc_size(config[position + 2 : position + 2 + length])
            position += 2 + length
    prefix_bytes = (config[21] & 3) + 1
    position = 0
    while position + prefix_bytes < len(coded):
        if next(units, None) is None:
            raise damaged()
        length = int.from_bytes(coded[position : position + prefix_bytes], "big")
        position += prefix_bytes
        yield from _hevc_size(coded[position : position + min(length, 512)])
        position += length


def _hevc_size(unit: bytes) -> Iterator[tuple[int, int]]:
    """Yield the size in a sequence parameter set, nothing for another unit. Source: ITU-T H.265, 7.3.2.2 and 7.3.3."""
    if len(unit) < 3 or unit[0] >> 1 & 63 != _SPS:
        return
    bits = _Bits(unit[2:512].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    num_sub_layers = bits.take(3)
    bits.take(1 + 96)
    has_parts = [(bits.take(1), bits.take(1)) for _ in range(num_sub_layers)]
    if num_sub_layers:
        bits.take(2 * (8 - num_sub_layers))
    for has_profile, has_level in has_parts:
        bits.take(88 * has_profile + 8 * has_level)
    bits.take_exp_golomb()
    if bits.take_exp_golomb() == 3:
        bits.take(1)
    width, height = bits.take_exp_golomb(), bits.take_exp_golomb()
    yield height, width


def _av1_sizes(coded: bytes, units: Iterator[int]) -> Iterator[tuple[int, int]]:
    """Yield the size in each sequence header of some open bitstream units. Source: AV1 specification, 5.3 to 5.5."""
    position = 0
    while position < len(coded):
        if next(units, None) is None:
            raise damaged()
        head = coded[position]
        position += 2 if head & 4 else 1
        length = len(coded) - position
        if head & 2:
            length, position = _leb128(coded, position)
        if head >> 3 & 15 == _SEQUENCE_HEADER:
            yield _av1_size(coded[position : position + min(length, 512)])
        position += length


def _leb128(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for index in range(8):
        byte = data[position + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, position + index + 1
    raise damaged()


def _av1_size(header: bytes) -> tuple[int, int]:
    bits = _Bits(header)
    bits.take(4)
    if bits.take(1):
        bits.take(5)
    else:
        delay_bits = 0
        if bits.take(1):
            bits.take(64)
            if bits.take(1):
                bits.take_exp_golomb()
            if bits.take(1):
                delay_bits = bits.take(5) + 1
                bits.take(42)
        has_display_delay = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if delay_bits and bits.take(1):
                bits.take(2 * delay_bits + 1)
            if has_display_delay and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    width, height = bits.take(width_bits) + 1, bits.take(height_bits) + 1
    return height, width


class _Bits:
    """Reads bits from the front; beyond the end is an `IndexError`."""

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next bits as a number."""
        if count > self._left:
            raise IndexError(count)
        self._left -= count
        return self._value >> self._left & (1 << count) - 1

    def take_exp_golomb(self) -> int:
        """Return the next unsigned Exp-Golomb code."""
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def _shown_hw(contents: _Contents, primary: int) -> tuple[int, int]:
    """Return height and width once an item's cuts and turns are applied."""
    height, width = contents.size_of(primary)
    for kind, payload in contents.properties_of(primary):
        if kind == b"clap":
            width_over, width_under, height_over, height_under = struct.unpack_from(">4I", payload)
            if not width_under or not height_under:
                raise damaged()
            height, width = height_over // height_under, width_over // width_under
        elif kind == b"irot" and payload[0] & 1:
            height, width = width, height
    return height, width


def _orientation(contents: _Contents, primary: int) -> int:
    """Return the EXIF orientation that stands for an item's turn and mirror; EXIF's own is not to be looked at."""
    quarters, axis = 0, None
    for kind, payload in contents.properties_of(primary):
        if kind == b"irot":
            quarters = payload[0] & 3
        elif kind == b"imir":
            axis = payload[0] & 1
    return _ORIENTATIONS[axis][quarters]


_ORIENTATIONS: Mapping[int | None, tuple[int, int, int, int]] = {
    None: (1, 8, 3, 6),
    0: (4, 5, 2, 7),
    1: (2, 7, 4, 5),
}
"""By mirror (none, top to bottom, left to right) and quarter turns against the clock before it."""


def _compatible_brands(data: bytes) -> set[bytes]:
    length = min(int.from_bytes(data[:4], "big"), 256, len(data))
    return {data[position : position + 4] for position in range(16, length - 3, 4)}
