"""Pictures of people and cars that do not exist, drawn by code: detectors find them, and there is nobody to ask.

What two ways to run a model are compared on where no pictures are given. The same on every machine, up to what versions
of OpenCV draw differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Image
from jetface.geometry.alignment import align

Color = tuple[int, int, int]

_FINER = 4
"""Drawn that many times as large, then made smaller: smooth edges."""

_PICTURE_HW = (480, 384)
_EYE_Y = 0.44


class Person(NamedTuple):
    """What tells drawn people apart; colours are BGR, lengths shares of the picture."""

    skin: Color = (150, 180, 222)
    hair: Color = (40, 50, 70)
    wall: Color = (200, 190, 180)
    shirt: Color = (110, 90, 70)
    half_width: float = 0.26
    eye_gap: float = 0.105
    eye_size: float = 1.0
    nose_y: float = 0.54
    mouth_y: float = 0.635
    mouth_half_width: float = 0.09
    fringe_y: float = 0.22


PEOPLE = (
    Person(),
    Person((110, 140, 185), (20, 25, 30), (170, 195, 190), (90, 120, 60), 0.24, 0.095, 0.86, 0.56, 0.655, 0.075, 0.17),
    Person((170, 200, 238), (60, 120, 170), (205, 190, 200), (120, 90, 120), 0.28, 0.12, 1.12, 0.535, 0.625, 0.1, 0.25),
    Person((70, 95, 140), (15, 15, 20), (190, 205, 215), (70, 80, 150), 0.275, 0.115, 0.92, 0.55, 0.65, 0.115, 0.14),
)
"""Four people who do not exist."""


@dataclass(frozen=True, slots=True, eq=False)
class Drawings:
    """What to run a model on."""

    pictures: tuple[Image, ...]
    """(H, W, 3) uint8 BGR, each shows at least one face, or plate; not of one size."""
    crops: tuple[Image, ...]
    """Aligned faces, (112, 112, 3) uint8 BGR, of every person, as they are, mirrored, turned, darker and blurred; or
    plates, of any size, as they are, darker and blurred."""


def draw_for(task: str) -> Drawings:
    """Draw what models of a task look at: a fifth of a second at most."""
    return draw_traffic() if task in {"plate_detection", "plate_reading"} else draw_pictures()


def draw_pictures() -> Drawings:
    """Draw people anew."""
    height_px, width_px = _PICTURE_HW
    portraits = [draw_portrait(person, height_px=height_px, width_px=width_px) for person in PEOPLE]
    crops: list[Image] = []
    for person, portrait in zip(PEOPLE, portraits, strict=True):
        landmarks = portrait_landmarks(person) * np.array([width_px, height_px], np.float32)
        crop = align(portrait, landmarks)
        turned = align(portrait, landmarks + np.array([[0, 6], [0, -6], [4, 0], [0, 3], [0, -3]], np.float32))
        dark = cv2.convertScaleAbs(crop, alpha=0.4)
        crops += [crop, crop[:, ::-1].copy(), turned, np.asarray(dark, np.uint8), _blurred(crop)]
    group = np.hstack(portraits)
    small = cv2.resize(group, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
    return Drawings((*portraits, group, np.asarray(small, np.uint8)), tuple(crops))


PLATES = ("SB90TZI", "KX57ABC", "7GHK482", "MH12DE14")
"""Texts of drawn licence plates."""

_PAINTS: tuple[Color, ...] = ((60, 40, 30), (170, 165, 160), (40, 40, 150), (110, 80, 40))
_CAR_HW = (240, 320)
_PLATE_HW = (26, 117)


def draw_traffic() -> Drawings:
    """Draw cars from behind, each with its plate."""
    cars = [_draw_car(text, paint) for text, paint in zip(PLATES, _PAINTS, strict=True)]
    road = np.vstack([np.hstack(cars[:2]), np.hstack(cars[2:])])
    crops: list[Image] = []
    for plate in map(_draw_plate, PLATES):
        dark = cv2.convertScaleAbs(plate, alpha=0.4)
        crops += [plate, np.asarray(dark, np.uint8), _blurred(plate)]
    return Drawings((*cars, road), tuple(crops))


def _draw_car(text: str, paint: Color) -> Image:
    height, width = (side * _FINER for side in _CAR_HW)
    car = np.full((height, width, 3), (140, 150, 150), np.uint8)
    car[height * 3 // 4 :] = 90

    def fill(left: float, top: float, right: float, bottom: float, color: Color) -> None:
        car[round(top * height) : round(bottom * height), round(left * width) : round(right * width)] = color

    def roof(bottom: tuple[float, float, float], top: tuple[float, float, float], color: Color) -> None:
        (left, right, y), (top_left, top_right, top_y) = bottom, top
        corners = np.array([[left, y], [top_left, top_y], [top_right, top_y], [right, y]]) * (width, height)
        cv2.fillConvexPoly(car, corners.astype(np.int32), color)

    roof((0.2, 0.8, 0.5), (0.33, 0.67, 0.17), paint)
    roof((0.25, 0.75, 0.45), (0.35, 0.65, 0.2), (60, 55, 50))
    fill(0.125, 0.45, 0.875, 0.85, paint)
    fill(0.125, 0.75, 0.875, 0.85, _mix(paint, (0, 0, 0), 0.7))
    for left in (0.125, 0.775):
        fill(left, 0.5, left + 0.1, 0.6, (40, 40, 200))
        fill(left, 0.85, left + 0.1, 0.95, (20, 20, 20))
    plate = _draw_plate(text)
    left, top = (width - plate.shape[1]) // 2, round(0.55 * height)
    car[top : top + plate.shape[0], left : left + plate.shape[1]] = plate
    soft = cv2.GaussianBlur(car, (0, 0), _FINER / 2)
    return np.asarray(cv2.resize(soft, _CAR_HW[::-1], interpolation=cv2.INTER_AREA), np.uint8)


def _draw_plate(text: str) -> Image:
    height, width = (side * _FINER for side in _PLATE_HW)
    plate = np.full((height, width, 3), 235, np.uint8)
    cv2.rectangle(plate, (0, 0), (width - 1, height - 1), (30, 30, 30), height // 16)
    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, height // 9
    scale = cv2.getFontScaleFromHeight(font, round(height * 0.56), stroke)
    (text_width, text_height), _ = cv2.getTextSize(text, font, scale, stroke)
    origin = ((width - text_width) // 2, (height + text_height) // 2)
    cv2.putText(plate, text, origin, font, scale, (25, 25, 25), stroke, cv2.LINE_AA)
    return plate


def draw_portrait(person: Person, *, height_px: int = 520, width_px: int = 420) -> Image:
    """Return one person as (height, width, 3) uint8 BGR."""
    brush = _Brush(height_px * _FINER, width_px * _FINER, person.wall)
    shade = _mix(person.skin, (0, 0, 0), 0.2)
    brush.oval(0.5, 1.05, 0.42, 0.28, person.shirt)
    brush.oval(0.5, 0.42, 0.33, 0.35, person.hair)
    brush.oval(0.5, 0.76, 0.10, 0.15, shade)
    for side in (-1, 1):
        brush.oval(0.5 + side * (person.half_width + 0.005), 0.48, 0.035, 0.06, shade)
    brush.oval(0.5, 0.47, person.half_width, 0.31, person.skin)
    brush.oval(0.5, person.fringe_y, person.half_width, 0.10, person.hair)
    for side in (-1, 1):
        _draw_eye(brush, 0.5 + side * person.eye_gap, person)
    brush.oval(0.5, person.nose_y, 0.035, 0.02, shade)
    for side in (-1, 1):
        brush.oval(0.5 + side * 0.02, person.nose_y + 0.01, 0.01, 0.006, _mix(shade, (0, 0, 0), 0.4))
    brush.oval(0.5, person.mouth_y, person.mouth_half_width, 0.035, _mix(person.skin, (80, 60, 190), 0.7))
    brush.oval(0.5, person.mouth_y - 0.003, person.mouth_half_width - 0.005, 0.008, (60, 50, 120))
    brush.arc(0.5, person.mouth_y + 0.055, 0.06, 0.012, shade, (20, 160), 0.006)
    small = cv2.resize(brush.canvas, (width_px, height_px), interpolation=cv2.INTER_AREA)
    return _light(np.asarray(small, np.uint8))


def portrait_landmarks(person: Person) -> NDArray[np.float32]:
    """Return (5, 2) float32 where a portrait has its landmarks, shares of its width and height."""
    places = [
        (0.5 - person.eye_gap, _EYE_Y),
        (0.5 + person.eye_gap, _EYE_Y),
        (0.5, person.nose_y),
        (0.5 - person.mouth_half_width, person.mouth_y),
        (0.5 + person.mouth_half_width, person.mouth_y),
    ]
    return np.array(places, np.float32)


def _blurred(crop: Image) -> Image:
    return np.asarray(cv2.GaussianBlur(crop, (0, 0), 2.0), np.uint8)


def _draw_eye(brush: _Brush, x: float, person: Person) -> None:
    size = person.eye_size
    brush.oval(x, _EYE_Y, 0.055 * size, 0.022 * size, (250, 250, 250))
    brush.oval(x, _EYE_Y, 0.024 * size, 0.020 * size, (70, 60, 50))
    brush.oval(x, _EYE_Y, 0.012 * size, 0.010 * size, (15, 15, 15))
    brush.arc(x, _EYE_Y, 0.055 * size, 0.024 * size, (50, 50, 70), (180, 360), 0.008)
    brush.arc(x, 0.40, 0.070, 0.030, person.hair, (195, 345), 0.018)
    brush.oval(x, 0.55, 0.060, 0.040, _mix(person.skin, (120, 120, 255), 0.1))


def _mix(first: Color, second: Color, share: float) -> Color:
    blue, green, red = (round(a * (1 - share) + b * share) for a, b in zip(first, second, strict=True))
    return blue, green, red


def _light(picture: Image) -> Image:
    """Let light fall from the upper left: a flat drawing looks less like a face."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[0:height, 0:width]
    brightness = 1.08 - 0.28 * np.hypot(columns / width - 0.4, rows / height - 0.4)
    soft = cv2.GaussianBlur(picture, (0, 0), 1.2)
    lit: Image = np.clip(soft * brightness[..., None], 0, 255).astype(np.uint8)
    return lit


class _Brush:
    """Draws on a canvas in shares of its height and width."""

    def __init__(self, height_px: int, width_px: int, color: Color) -> None:
        self.canvas: Image = np.full((height_px, width_px, 3), color, np.uint8)

    def oval(self, x: float, y: float, half_width: float, half_height: float, color: Color) -> None:
        self._ellipse((x, y), (half_width, half_height), color, (0, 360), cv2.FILLED)

    def arc(
        self,
        x: float,
        y: float,
        half_width: float,
        half_height: float,
        color: Color,
        degrees: tuple[int, int],
        stroke: float,
    ) -> None:
        thickness = max(1, round(stroke * self.canvas.shape[1]))
        self._ellipse((x, y), (half_width, half_height), color, degrees, thickness)

    def _ellipse(
        self,
        center: tuple[float, float],
        half: tuple[float, float],
        color: Color,
        degrees: tuple[int, int],
        thickness: int,
    ) -> None:
        height, width = self.canvas.shape[:2]
        middle = (round(center[0] * width), round(center[1] * height))
        axes = (round(half[0] * width), round(half[1] * height))
        cv2.ellipse(self.canvas, middle, axes, 0, *degrees, color, thickness, cv2.LINE_AA)
