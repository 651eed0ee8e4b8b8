"""Licence plates of many countries' shapes, vehicles to carry them, and signs that are none, drawn by code.

Nothing here copies a real plate: letters and digits are random, places are random words, coats of arms and scripts
other than Latin are scribbles. What counts is shape, proportion, colour and where the characters stand.
"""

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import font_fjallaone
import font_roboto
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

PLATE_WIDTH_PX: Final = 256
PLATE_HEIGHT_PX: Final = 128
VEHICLE_PX: Final = 256
LETTERS: Final = "ABCDEFGHJKLMNPRSTUVWXYZABCDEFGHIJKLMNOPQRSTUVWXYZ"
DIGITS: Final = "0123456789"
FONTS: Final = (
    font_fjallaone.FjallaOne,
    font_roboto.RobotoMedium,
    font_roboto.RobotoBold,
    font_roboto.RobotoBlack,
    font_roboto.Roboto,
)

Colour: TypeAlias = tuple[int, int, int]
Random: TypeAlias = np.random.Generator
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Art:
    """Drawings of one kind, stretched to one size.

    Attributes:
        pictures: (N, 4, H, W) RGB and opacity.
        aspect: (N,) width over height as it should be seen.
        inset: (N, 4) left, top, right, bottom: share of the sides around a plate that is its frame; of a vehicle,
            where its plate is mounted.
    """

    pictures: Pixels
    aspect: NDArray[np.float32]
    inset: NDArray[np.float32]


@cache
def _font(path: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _pick(random: Random, *choices: Colour) -> Colour:
    return choices[int(random.integers(len(choices)))]


def _near(random: Random, colour: Colour, spread: int = 14) -> Colour:
    red, green, blue = (int(np.clip(c + random.integers(-spread, spread + 1), 0, 255)) for c in colour)
    return red, green, blue


def _any_colour(random: Random) -> Colour:
    red, green, blue = (int(c) for c in random.integers(0, 256, 3))
    return red, green, blue


def _fill(random: Random, pattern: str) -> str:
    """Replace L by a letter, D by a digit, X by either."""
    kinds = {"L": LETTERS, "D": DIGITS, "X": LETTERS + DIGITS}
    return "".join(str(random.choice(list(kinds[c]))) if c in kinds else c for c in pattern)


def _word(random: Random, *, upper: bool) -> str:
    word = "".join(random.choice(list("aeiou" if i % 2 else "bcdfglmnprst")) for i in range(random.integers(3, 10)))
    return word.upper() if upper else word.capitalize()


def _scribble(random: Random, size: int, ink: Colour) -> Image.Image:
    """A square sign of random strokes, in place of a script that is not Latin."""
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    width = max(size // 12, 2)
    for _ in range(random.integers(4, 9)):
        a, b = random.uniform(0.08, 0.92, 2) * size
        if random.random() < 0.7:
            c = random.uniform(0.08, 0.92) * size
            draw.line([(a, b), (c, b)] if random.random() < 0.5 else [(a, b), (a, c)], ink, width)
        else:
            draw.arc([a * 0.5, b * 0.5, a * 0.5 + size * 0.5, b * 0.5 + size * 0.5], 0, 240, ink, width)
    return picture


def _write(
    picture: Image.Image,
    random: Random,
    text: str,
    box: tuple[float, float, float, float],
    ink: Colour,
    font: str | None = None,
) -> None:
    """Write one line of text so that it fills a box (left, top, right, bottom); `#` stands for a scribble."""
    left, top, right, bottom = box
    height = max(int(bottom - top), 4)
    path = font or str(FONTS[int(random.integers(len(FONTS)))])
    typeface = _font(path, height)
    stroke = int(random.integers(0, 1 + height // 22))
    spacing = int(random.uniform(0, 0.12) * height)
    glyphs = []
    for character in text:
        if character == " ":
            glyphs.append(Image.new("RGBA", (max(height // 4, 1), height), (0, 0, 0, 0)))
        elif character == "#":
            glyphs.append(_scribble(random, height, ink))
        else:
            bounds = typeface.getbbox(character, stroke_width=stroke)
            glyph = Image.new("RGBA", (max(int(bounds[2] - bounds[0]), 1), height), (0, 0, 0, 0))
            cap = typeface.getbbox("H", stroke_width=stroke)
            shift = -cap[1] - (cap[3] - cap[1]) / 2 + height / 2
            ImageDraw.Draw(glyph).text((-bounds[0], shift), character, ink, typeface, stroke_width=stroke)
            glyphs.append(glyph)
    total = sum(g.width for g in glyphs) + spacing * (len(glyphs) - 1)
    line = Image.new("RGBA", (max(total, 1), height), (0, 0, 0, 0))
    x = 0
    for glyph in glyphs:
        line.paste(glyph, (x, 0))
        x += glyph.width + spacing
    cap = typeface.getbbox("H")
    trim = max(int((height - (cap[3] - cap[1])) / 2) - stroke, 0)
    line = line.crop((0, trim, line.width, height - trim))
    width = min(right - left, line.width * (bottom - top) / line.height * random.uniform(0.9, 1.35))
    line = line.resize((max(int(width), 1), max(int(bottom - top), 1)), Image.Resampling.BILINEAR)
    picture.paste(line, (int(left + (right - left - width) / 2), int(top)), line)


def _sheet(random: Random, aspect: float, colour: Colour, *, height: int = 96) -> Image.Image:
    """An empty plate: a plain or graded field."""
    width = max(int(height * aspect), 8)
    other = _near(random, colour, 40) if random.random() < 0.25 else colour
    ramp = np.linspace(0, 1, height)[:, None, None]
    field = np.broadcast_to(np.array(colour) * (1 - ramp) + np.array(other) * ramp, (height, width, 3))
    return Image.fromarray(field.astype(np.uint8)).convert("RGBA")


def _border(picture: Image.Image, random: Random, ink: Colour, share: float) -> None:
    if random.random() < share:
        inset, width = int(random.integers(1, 5)), int(random.integers(1, 4))
        box = [inset, inset, picture.width - 1 - inset, picture.height - 1 - inset]
        ImageDraw.Draw(picture).rounded_rectangle(box, int(random.integers(2, 12)), None, ink, width)


def _bolts(picture: Image.Image, random: Random) -> None:
    """Bolts or their holes, and now and then a sticker in a corner."""
    draw = ImageDraw.Draw(picture)
    w, h = picture.size
    if random.random() < 0.5:
        colour = _near(random, _pick(random, (40, 40, 40), (150, 150, 150), (220, 220, 220)))
        radius = random.uniform(0.02, 0.045) * h
        for x in (0.2, 0.8):
            for y in (0.1, 0.9) if random.random() < 0.6 else (0.1,):
                draw.ellipse([x * w - radius, y * h - radius, x * w + radius, y * h + radius], colour)
    for corner in range(4):
        if random.random() < 0.12:
            x, y = (0.02 if corner % 2 else 0.86) * w, (0.04 if corner < 2 else 0.76) * h
            draw.rectangle([x, y, x + 0.12 * w, y + 0.2 * h], _any_colour(random))


DARK: Final[tuple[Colour, ...]] = ((15, 15, 20), (15, 15, 20), (20, 30, 90), (120, 20, 25), (20, 80, 45))


def draw_european(random: Random) -> Image.Image:
    """One long line, a blue band at the left, at times another at the right."""
    field = _pick(random, (240, 240, 236), (240, 240, 236), (240, 240, 236), (245, 200, 50), (250, 215, 90))
    aspect = random.uniform(4.2, 4.8)
    picture = _sheet(random, aspect, _near(random, field))
    draw = ImageDraw.Draw(picture)
    w, h = picture.size
    left, right = 0.03 * w, 0.97 * w
    if random.random() < 0.85:
        left = random.uniform(0.085, 0.115) * w
        draw.rectangle([0, 0, left, h], _near(random, (25, 60, 160)))
        _write(picture, random, _fill(random, "LL"), (0.1 * left, 0.6 * h, 0.9 * left, 0.85 * h), (240, 240, 240))
        radius = 0.3 * left
        draw.ellipse(
            [left / 2 - radius, 0.3 * h - radius, left / 2 + radius, 0.3 * h + radius], None, (240, 220, 60), 2
        )
        if random.random() < 0.2:
            right = 0.91 * w
            draw.rectangle([right, 0, w, h], _near(random, (25, 60, 160)))
    patterns = (
        "LL DD LLL",
        "L DDD LLL",
        "LL-DDD-LL",
        "LLL-DDD",
        "LL LL DDDD",
        "DDDD LLL",
        "LLDDLLL",
        "LL DDDDL",
        "LLL LDD",
    )
    pattern = str(random.choice(patterns))
    ink = _near(random, _pick(random, *DARK))
    top = random.uniform(0.12, 0.22) * h
    _write(picture, random, _fill(random, pattern), (left + 0.03 * w, top, right - 0.03 * w, h - top), ink)
    if random.random() < 0.25:
        x, y, r = left + random.uniform(0.2, 0.4) * w, h * random.uniform(0.3, 0.7), 0.11 * h
        draw.ellipse([x - r, y - r, x + r, y + r], _any_colour(random))
    _border(picture, random, ink, 0.5)
    return picture


def draw_british(random: Random) -> Image.Image:
    """White or yellow, two letters, two digits, three letters; at times with a band; at times older, on black."""
    field = _pick(random, (240, 240, 236), (245, 200, 40), (245, 200, 40), (20, 20, 20))
    is_dark = sum(field) < 200
    picture = _sheet(random, random.uniform(4.4, 4.8), _near(random, field))
    w, h = picture.size
    left = 0.03 * w
    if random.random() < 0.35:
        left = 0.1 * w
        band = _pick(random, (25, 60, 160), (20, 140, 80))
        ImageDraw.Draw(picture).rectangle([0, 0, left, h], _near(random, band))
    ink = (220, 220, 220) if is_dark else (15, 15, 15)
    text = _fill(random, "LLL DDDL" if is_dark else "LLDD LLL")
    _write(picture, random, text, (left + 0.02 * w, 0.15 * h, 0.97 * w, 0.85 * h), ink)
    if random.random() < 0.4:
        _write(picture, random, _word(random, upper=False), (0.3 * w, 0.9 * h, 0.7 * w, 0.98 * h), ink)
    return picture


def draw_american(random: Random) -> Image.Image:
    """Two to one: a state at the top, large characters, a slogan below, pictures behind; all colours."""
    fields = ((245, 245, 245), (235, 240, 250), (250, 240, 225), (200, 225, 245), (245, 215, 120), (30, 60, 130),
              (210, 235, 210), (245, 205, 190), (20, 20, 20), (250, 180, 60), (0, 100, 70))  # fmt: skip
    field = _near(random, _pick(random, *fields), 20)
    picture = _sheet(random, random.uniform(1.85, 2.15), field)
    draw = ImageDraw.Draw(picture)
    w, h = picture.size
    if random.random() < 0.5:  # a band of another colour at the top, the bottom, or both
        band = _any_colour(random)
        depth = random.uniform(0.12, 0.27) * h
        if random.random() < 0.7:
            draw.rectangle([0, 0, w, depth], band)
        if random.random() < 0.5:
            draw.rectangle([0, h - depth * 0.8, w, h], band)
    if random.random() < 0.4:  # hills, a sun, a tree: soft shapes behind
        for _ in range(random.integers(1, 6)):
            x, y = random.uniform(0, w), random.uniform(0.2, 1.1) * h
            rx, ry = random.uniform(0.05, 0.5) * w, random.uniform(0.05, 0.5) * h
            soft = _near(random, field, 55)
            if random.random() < 0.5:
                draw.ellipse([x - rx, y - ry, x + rx, y + ry], soft)
            else:
                draw.polygon([(x - rx, y + ry), (x, y - ry), (x + rx, y + ry)], soft)
    is_dark = sum(field) < 300
    inks = ((235, 235, 235), (240, 200, 60)) if is_dark else (*DARK, (30, 60, 160), (170, 30, 40))
    ink = _near(random, _pick(random, *inks))
    patterns = ("LLL DDDD", "DLLL DDD", "LLL-DDD", "DDD LLL", "LLLDDDD", "DDD-LLL", "XXX XXX", "XXXXXXX", "LL DDDDD",
                "DDDDDD", "LLL#DDD", "L DDDDD")  # fmt: skip
    text = _fill(random, str(random.choice(patterns)))
    _write(
        picture, random, text, (0.05 * w, random.uniform(0.25, 0.32) * h, 0.95 * w, random.uniform(0.7, 0.8) * h), ink
    )
    if random.random() < 0.9:
        other = ink if random.random() < 0.5 else _near(random, _pick(random, *inks, (200, 40, 40)), 30)
        _write(
            picture, random, _word(random, upper=random.random() < 0.6), (0.25 * w, 0.05 * h, 0.75 * w, 0.2 * h), other
        )
    if random.random() < 0.7:
        slogan = " ".join(_word(random, upper=random.random() < 0.5) for _ in range(random.integers(1, 4)))
        _write(picture, random, slogan, (0.15 * w, 0.84 * h, 0.85 * w, 0.95 * h), ink)
    if random.random() < 0.2:
        mark = _scribble(random, int(0.4 * h), _any_colour(random))
        picture.paste(mark, (int(random.uniform(0.02, 0.75) * w), int(0.3 * h)), mark)
    _border(picture, random, ink, 0.4)
    _bolts(picture, random)
    return picture


def draw_brazilian(random: Random) -> Image.Image:
    """Grey with a town above and three letters, four digits; or white with a blue band above."""
    w_over_h = random.uniform(2.9, 3.2)
    if random.random() < 0.6:
        field = _pick(random, (185, 188, 190), (185, 188, 190), (185, 188, 190), (180, 40, 40), (230, 230, 230))
        ink = (235, 235, 235) if field[0] == 180 else (20, 20, 20)
        picture = _sheet(random, w_over_h, _near(random, field, 25))
        w, h = picture.size
        place = f"{_fill(random, 'LL')} {_word(random, upper=True)}"
        _write(picture, random, place, (0.25 * w, 0.06 * h, 0.75 * w, 0.2 * h), ink)
        _write(picture, random, _fill(random, "LLL-DDDD"), (0.04 * w, 0.28 * h, 0.96 * w, 0.88 * h), ink)
        _border(picture, random, ink, 0.6)
    else:
        picture = _sheet(random, w_over_h, _near(random, (240, 240, 240)))
        w, h = picture.size
        ImageDraw.Draw(picture).rectangle([0, 0, w, 0.24 * h], _near(random, (20, 50, 150)))
        _write(picture, random, _word(random, upper=True), (0.35 * w, 0.05 * h, 0.65 * w, 0.19 * h), (240, 240, 240))
        text = _fill(random, str(random.choice(("LLLDLDD", "LL DDD LL", "LLLL DD"))))
        _write(picture, random, text, (0.05 * w, 0.32 * h, 0.95 * w, 0.9 * h), _near(random, _pick(random, *DARK)))
    _bolts(picture, random)
    return picture


def draw_asian(random: Random) -> Image.Image:
    """Blue, green, yellow or white fields of about three to one, a scribble first."""
    field = _pick(random, (25, 70, 170), (25, 70, 170), (100, 200, 130), (245, 195, 40), (240, 240, 240), (20, 20, 20))
    ink = (240, 240, 240) if sum(field) < 300 else (20, 20, 20)
    picture = _sheet(random, random.uniform(2.9, 3.5), _near(random, field))
    w, h = picture.size
    text = _fill(random, str(random.choice(("#L DDDDD", "#L XXXXX", "#L DXXXXX", "##DDDD", "DD#DDDD", "## DDDD"))))
    _write(picture, random, text, (0.03 * w, 0.14 * h, 0.97 * w, 0.86 * h), ink)
    _border(picture, random, ink, 0.8)
    return picture


def draw_indian(random: Random) -> Image.Image:
    """White, yellow, green or black, a long row of ten characters."""
    field = _pick(random, (240, 240, 236), (240, 240, 236), (245, 195, 40), (30, 140, 70), (15, 15, 15))
    ink = (240, 240, 240) if sum(field) < 300 else (15, 15, 15)
    picture = _sheet(random, random.uniform(3.6, 4.8), _near(random, field))
    w, h = picture.size
    left = 0.03 * w
    if random.random() < 0.5:
        _write(picture, random, "#", (0.01 * w, 0.1 * h, 0.08 * w, 0.4 * h), (60, 110, 180))
        _write(picture, random, "IND", (0.01 * w, 0.6 * h, 0.08 * w, 0.8 * h), (60, 110, 180))
        left = 0.09 * w
    text = _fill(random, str(random.choice(("LL DD LL DDDD", "LLDDLLDDDD", "LL DD L DDDD", "LL-DD-LL-DDDD"))))
    _write(picture, random, text, (left, 0.16 * h, 0.97 * w, 0.84 * h), ink)
    _border(picture, random, ink, 0.7)
    return picture


def draw_two_lines(random: Random) -> Image.Image:
    """Two lines, as on motorcycles and where there is no room for one."""
    field = _pick(
        random, (240, 240, 236), (240, 240, 236), (245, 200, 45), (25, 70, 170), (185, 188, 190), (20, 20, 20)
    )
    ink = (240, 240, 240) if sum(field) < 300 else _near(random, _pick(random, *DARK))
    picture = _sheet(random, random.uniform(0.95, 1.9), _near(random, field), height=128)
    w, h = picture.size
    left = 0.05 * w
    if random.random() < 0.35:
        ImageDraw.Draw(picture).rectangle([0, 0, 0.13 * w, 0.5 * h], _near(random, (25, 60, 160)))
        left = 0.15 * w
    above = str(random.choice(("LL DD", "LLDD", "#L", "LL", "LLL", "LL-LL", "DD LL", "L DD")))
    below = str(random.choice(("LLL", "DDDD", "LL DDDD", "DDD LL", "DDDDD", "L DDD")))
    middle = random.uniform(0.36, 0.52) * h
    _write(picture, random, _fill(random, above), (left, 0.08 * h, 0.95 * w, middle), ink)
    _write(picture, random, _fill(random, below), (0.05 * w, middle + 0.06 * h, 0.95 * w, 0.92 * h), ink)
    _border(picture, random, ink, 0.6)
    _bolts(picture, random)
    return picture


def draw_plain(random: Random) -> Image.Image:
    """One line in any proportion and any two colours that can be told apart."""
    field = _any_colour(random)
    ink = (15, 15, 15) if sum(field) > 380 else (240, 240, 240)
    picture = _sheet(random, random.uniform(2.2, 5.2), field)
    w, h = picture.size
    top = random.uniform(0.1, 0.3) * h
    text = _fill(
        random, str(random.choice(("XXXXXX", "LLL DDD", "DDD LLL", "XXXXXXX", "LL DDDD", "LDDDDD", "DD-LL-DD")))
    )
    _write(picture, random, text, (0.05 * w, top, 0.95 * w, h - random.uniform(0.1, 0.25) * h), ink)
    _border(picture, random, ink, 0.5)
    _bolts(picture, random)
    return picture


PLATES: Final[dict[Callable[[Random], Image.Image], float]] = {
    draw_european: 0.2,
    draw_british: 0.1,
    draw_american: 0.27,
    draw_brazilian: 0.13,
    draw_asian: 0.07,
    draw_indian: 0.07,
    draw_two_lines: 0.09,
    draw_plain: 0.07,
}
"""Every kind of plate and its share."""


def draw_plate(seed: int) -> tuple[Pixels, float, tuple[float, float, float, float]]:
    """One plate, a third of them framed: picture (H, W, 4), aspect with the frame, the frame's share of each side."""
    random = np.random.default_rng(seed)
    kinds = list(PLATES)
    plate = kinds[int(random.choice(len(kinds), p=list(PLATES.values())))](random)
    w, h = plate.size
    sides = (0.0, 0.0, 0.0, 0.0)
    if random.random() < 0.35:
        edge = random.uniform(0.02, 0.09) * h
        above, below = (edge + (random.uniform(0, 0.2) * h if random.random() < 0.4 else 0) for _ in range(2))
        frame = _near(random, _pick(random, (15, 15, 15), (15, 15, 15), (150, 150, 150), (230, 230, 230)))
        whole = Image.new("RGBA", (int(w + 2 * edge), int(h + above + below)), (*frame, 255))
        whole.paste(plate, (int(edge), int(above)))
        ink = (230, 230, 230) if sum(frame) < 380 else (20, 20, 20)
        for top, depth in ((0.0, above), (whole.height - below, below)):
            if depth > 0.12 * h and random.random() < 0.8:
                words = " ".join(_word(random, upper=True) for _ in range(random.integers(1, 4)))
                _write(whole, random, words, (0.15 * w, top + 0.15 * depth, 0.85 * w, top + 0.85 * depth), ink)
        sides = (edge / whole.width, above / whole.height, edge / whole.width, below / whole.height)
        plate = whole
    aspect = plate.width / plate.height
    mask = Image.new("L", plate.size, 0)
    radius = int(random.uniform(0, 0.12) * plate.height)
    ImageDraw.Draw(mask).rounded_rectangle([0, 0, plate.width - 1, plate.height - 1], radius, 255)
    plate.putalpha(mask)
    if random.random() < 0.3:  # dirt and wear
        rough = random.normal(0, 1, (6, 12)).astype(np.float32)
        spots = np.asarray(Image.fromarray(rough).resize(plate.size, Image.Resampling.BICUBIC))
        worn = np.asarray(plate).astype(np.float32)
        worn[:, :, :3] -= np.clip(spots, 0, 2)[:, :, None] * random.uniform(5, 50)
        plate = Image.fromarray(worn.clip(0, 255).astype(np.uint8))
    return np.asarray(plate.resize((PLATE_WIDTH_PX, PLATE_HEIGHT_PX), Image.Resampling.BOX)), aspect, sides


def draw_words(picture: Image.Image, random: Random, ink: Colour) -> None:
    """One to four lines of words, on a field or without one."""
    w, h = picture.size
    if random.random() < 0.4:
        picture.paste((0, 0, 0, 0), (0, 0, w, h))
    num_lines = int(random.integers(1, 5))
    for line in range(num_lines):
        words = " ".join(_word(random, upper=random.random() < 0.4) for _ in range(random.integers(1, 3)))
        if random.random() < 0.2:
            words = _fill(random, str(random.choice(("DDDD DDD DDD", "D.DD", "DD:DD", "www.LLLLL.LL", "DDDD DDDDDD"))))
        top = (line + 0.12) * h / num_lines
        _write(picture, random, words, (0.06 * w, top, 0.94 * w, top + 0.7 * h / num_lines), ink)


def draw_grille(picture: Image.Image, random: Random, ink: Colour) -> None:
    """Bars, as of a grille, a radiator or blinds."""
    w, h = picture.size
    steps = int(random.integers(3, 14))
    is_upright = random.random() < 0.5
    for step in range(steps):
        a, b = (step + 0.2) / steps, (step + 0.7) / steps
        ImageDraw.Draw(picture).rectangle([a * w, 0, b * w, h] if is_upright else [0, a * h, w, b * h], ink)


def draw_lamp(picture: Image.Image, random: Random, _: Colour) -> None:
    """A lamp, glowing or not."""
    w, h = picture.size
    colour = _near(random, _pick(random, (200, 20, 30), (255, 120, 20), (255, 250, 230), (255, 60, 70)), 30)
    picture.paste((0, 0, 0, 0), (0, 0, w, h))
    draw = ImageDraw.Draw(picture)
    draw.rounded_rectangle([0, 0, w - 1, h - 1], int(random.uniform(0.1, 0.5) * h), colour)
    for _index in range(random.integers(0, 4)):
        x, y, r = random.uniform(0, w), random.uniform(0, h), random.uniform(0.1, 0.4) * h
        draw.ellipse([x - r, y - r, x + r, y + r], _near(random, colour, 60))


def draw_panel(picture: Image.Image, random: Random, ink: Colour) -> None:
    """A field with an edge: a window, a panel."""
    _border(picture, random, ink, 1.0)


def draw_badge(picture: Image.Image, random: Random, _: Colour) -> None:
    """An ellipse, or a name in metal, without a field."""
    w, h = picture.size
    picture.paste((0, 0, 0, 0), (0, 0, w, h))
    metal = _near(random, _pick(random, (190, 190, 195), (230, 230, 230), (40, 40, 40), (180, 30, 40)))
    if random.random() < 0.4:
        ImageDraw.Draw(picture).ellipse([0.1 * w, 0.1 * h, 0.9 * w, 0.9 * h], None, metal, max(int(0.1 * h), 2))
    else:
        _write(picture, random, _word(random, upper=True), (0.02 * w, 0.1 * h, 0.98 * w, 0.9 * h), metal)


def draw_road_sign(picture: Image.Image, random: Random, _: Colour) -> None:
    """A red ring with a number."""
    w, h = picture.size
    half = min(w, h) / 2
    ring = [w / 2 - half, h / 2 - half, w / 2 + half, h / 2 + half]
    ImageDraw.Draw(picture).ellipse(ring, (240, 240, 240), (200, 30, 40), 6)
    box = (w / 2 - half / 2, h / 4, w / 2 + half / 2, 0.75 * h)
    _write(picture, random, _fill(random, "D0"), box, (20, 20, 20))


def draw_tiles(picture: Image.Image, random: Random, ink: Colour) -> None:
    """Stripes and squares, as barcodes, timetables and tiles have them."""
    w, h = picture.size
    for _ in range(random.integers(8, 40)):
        x, y = random.uniform(0, w), random.uniform(0, h)
        box = [x, y, x + random.uniform(2, 0.1 * w + 3), y + random.uniform(2, 0.2 * h + 3)]
        ImageDraw.Draw(picture).rectangle(box, ink)


SIGNS: Final[dict[Callable[[Image.Image, Random, Colour], None], float]] = {
    draw_words: 0.35,
    draw_grille: 0.1,
    draw_lamp: 0.2,
    draw_panel: 0.1,
    draw_badge: 0.1,
    draw_road_sign: 0.08,
    draw_tiles: 0.07,
}
"""Everything that is no plate and could be taken for one, and its share."""


def draw_sign(seed: int) -> tuple[Pixels, float, tuple[float, float, float, float]]:
    """Something that is no plate and could be taken for one: as `draw_plate`."""
    random = np.random.default_rng(seed)
    field, ink = _any_colour(random), _any_colour(random)
    if random.random() < 0.5:
        fields = ((235, 235, 235), (20, 20, 20), (245, 200, 45), (25, 70, 170), (128, 128, 128))
        field = _near(random, _pick(random, *fields))
        ink = (20, 20, 20) if sum(field) > 300 else (235, 235, 235)
    picture = _sheet(random, float(np.exp(random.uniform(np.log(0.6), np.log(7)))), field)
    kinds = list(SIGNS)
    kinds[int(random.choice(len(kinds), p=list(SIGNS.values())))](picture, random, ink)
    stretched = picture.resize((PLATE_WIDTH_PX, PLATE_HEIGHT_PX), Image.Resampling.BOX)
    return np.asarray(stretched), picture.width / picture.height, (0.0, 0.0, 0.0, 0.0)


def draw_vehicle(seed: int) -> tuple[Pixels, float, tuple[float, float, float, float]]:
    """The end of a car, a van or a motorcycle, in a few strokes.

    Returns:
        Picture (H, W, 4), aspect, and the box (left, top, right, bottom) at which a plate belongs, in shares of the
        sides; the plate keeps its own proportions about the middle of that box.
    """
    random = np.random.default_rng(seed)
    side = VEHICLE_PX
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    paints = (
        (200, 200, 205),
        (240, 240, 240),
        (30, 30, 35),
        (90, 95, 100),
        (150, 20, 30),
        (30, 50, 110),
        (190, 180, 150),
    )
    paint = _near(random, _pick(random, *paints, _any_colour(random)), 25)
    dark, glass = _near(random, (25, 25, 28), 15), _near(random, (50, 60, 70), 35)
    shade = _near(random, (int(paint[0] * 0.75), int(paint[1] * 0.75), int(paint[2] * 0.75)), 10)
    draw.ellipse([0.02 * side, 0.9 * side, 0.98 * side, side], (15, 15, 15, 160))  # its shadow
    for x in (0.05, 0.77):
        draw.rounded_rectangle([x * side, 0.7 * side, (x + 0.18) * side, 0.98 * side], 8, (15, 15, 15))
    roof = random.uniform(0.0, 0.2)
    waist = random.uniform(0.33, 0.5)
    narrow = random.uniform(0.05, 0.2)
    draw.polygon([(narrow * side, roof * side), ((1 - narrow) * side, roof * side), (0.96 * side, waist * side),
                  (0.04 * side, waist * side)], paint)  # fmt: skip
    g = narrow + 0.03
    draw.polygon([(g * side, (roof + 0.04) * side), ((1 - g) * side, (roof + 0.04) * side),
                  (0.88 * side, (waist - 0.03) * side), (0.12 * side, (waist - 0.03) * side)], glass)  # fmt: skip
    draw.rounded_rectangle([0.02 * side, waist * side, 0.98 * side, 0.92 * side], int(random.uniform(5, 30)), paint)
    bumper = random.uniform(0.68, 0.8)
    colour = shade if random.random() < 0.6 else _pick(random, dark, (170, 170, 175))
    draw.rounded_rectangle([0.0, bumper * side, side, 0.92 * side], 12, colour)
    lamp = _near(random, _pick(random, (170, 20, 25), (230, 30, 40), (240, 240, 230), (200, 200, 205)), 25)
    depth, reach = random.uniform(0.06, 0.2), random.uniform(0.08, 0.26)
    y = random.uniform(waist, max(bumper - depth, waist + 0.01))
    for x in (0.04, 0.96 - reach):
        draw.rounded_rectangle([x * side, y * side, (x + reach) * side, (y + depth) * side], 6, lamp)
        if random.random() < 0.5:
            draw.ellipse([(x + 0.02) * side, y * side, (x + 0.07) * side, (y + 0.05) * side], (255, 200, 120))
    if random.random() < 0.4:  # grille
        for step in range(int(random.integers(3, 8))):
            at = (y + 0.025 * step) * side
            draw.line([(0.32 * side, at), (0.68 * side, at)], dark, 3)
    for _ in range(int(random.integers(0, 3))):  # badges and stickers
        w, x = random.uniform(0.08, 0.25), random.uniform(0.08, 0.7)
        at = random.uniform(waist, bumper)
        mark = Image.new("RGBA", (int(w * side), int(w * side * 0.3)), (0, 0, 0, 0))
        if random.random() < 0.4:
            mark.paste((*_any_colour(random), 255), (0, 0, mark.width, mark.height))
        _write(
            mark,
            random,
            _word(random, upper=random.random() < 0.7),
            (0, 0, mark.width, mark.height),
            _any_colour(random),
        )
        picture.paste(mark, (int(x * side), int(at * side)), mark)
    aspect = random.uniform(0.95, 1.45)
    share = random.uniform(0.2, 0.36)  # 0.52 of 1.7 m
    middle = random.uniform(waist + 0.1, bumper) if random.random() < 0.6 else random.uniform(bumper, 0.88)
    center = 0.5 if random.random() < 0.85 else random.uniform(0.3, 0.7)
    half = share / 2
    if random.random() < 0.5:  # the recess that plates sit in
        recess = _near(random, dark if random.random() < 0.5 else shade)
        box = [(center - half * 1.25) * side, (middle - half * 0.45) * side, (center + half * 1.25) * side,
               (middle + half * 0.45) * side]  # fmt: skip
        draw.rounded_rectangle(box, 5, recess)
    light = np.asarray(picture).astype(np.float32)
    ramp = np.linspace(random.uniform(0.8, 1.25), random.uniform(0.6, 1.1), side)[:, None, None]
    light[:, :, :3] *= ramp
    return light.clip(0, 255).astype(np.uint8), aspect, (center - half, middle - 0.02, center + half, middle + 0.02)


def draw_all(draw: Callable[[int], tuple[Pixels, float, tuple[float, ...]]], count: int, first_seed: int) -> Art:
    """Draw many of one kind, on all cores."""
    seeds = range(first_seed, first_seed + count)
    with ProcessPoolExecutor(os.cpu_count()) as processes:
        drawn = list(processes.map(draw, seeds, chunksize=32))
    return Art(
        np.stack([picture.transpose(2, 0, 1) for picture, _, _ in drawn]),
        np.array([aspect for _, aspect, _ in drawn], np.float32),
        np.array([inset for _, _, inset in drawn], np.float32),
    )
