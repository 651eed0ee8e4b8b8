"""Which plates are read, and what of the picture the reader sees."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.domain import Detections, PlateOptions
from jetface.geometry.letterbox import Letterbox
from jetface.pipeline.plates import cut_plates, select_plates


def plates_of(*widths: float) -> Detections:
    """Return plates of these widths, best first."""
    boxes = np.array([[10, 10, 10 + width, 20] for width in widths], np.float32)
    return Detections(boxes, np.linspace(0.9, 0.5, len(widths), dtype=np.float32), np.zeros((len(widths), 5, 2), "f4"))


@pytest.mark.parametrize(
    ("options", "widths"),
    [
        (PlateOptions(), [20, 40, 30, 10]),
        (PlateOptions(limit=2), [40, 30]),
        (PlateOptions(min_width_px=20), [20, 40, 30]),
        (PlateOptions(min_width_px=50), []),
        (PlateOptions(min_width_px=15, limit=1), [40]),
    ],
)
def test_narrow_ones_go_and_the_largest_stay(options: PlateOptions, widths: list[float]) -> None:
    kept = select_plates(plates_of(20, 40, 30, 10), options, max_plates=9)
    assert (kept.boxes[:, 2] - kept.boxes[:, 0]).tolist() == widths


def test_never_more_than_the_service_allows() -> None:
    assert len(select_plates(plates_of(20, 40, 30), PlateOptions(), max_plates=2)) == 2


def test_a_cut_shows_the_box_and_a_margin() -> None:
    """Black around white: of a box 1.2 times as large, a twelfth on each side is black."""
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 50:150] = 255
    (cut,) = cut_plates(image, np.array([[50, 40, 150, 60]], np.float32), enlargement=1.2, output_hw=(24, 120))
    assert cut.shape == (24, 120, 3)
    assert not cut[:2].any()
    assert not cut[:, :10].any()
    assert not cut[:, -10:].any()
    assert (cut[2:-2, 10:-10] == 255).all()


@pytest.mark.parametrize("box", [[-30, -30, 10, 5], [190, 95, 260, 160], [-9, -9, 400, 400], [0.2, 0.2, 0.3, 0.3]])
def test_what_is_outside_of_the_picture_is_left_off(box: list[float]) -> None:
    image = np.full((100, 200, 3), 90, np.uint8)
    (cut,) = cut_plates(image, np.array([box], np.float32), enlargement=1.12, output_hw=(64, 128))
    assert (cut == 90).all()


def test_a_canvas_is_grey_around_its_picture() -> None:
    box = Letterbox.fit((50, 100), (64, 64), rectangular=False)
    canvas = box.apply(np.full((50, 100, 3), 7, np.uint8), fill=114)
    assert (canvas[:32] == 7).all()
    assert (canvas[32:] == 114).all()
