"""Plates of Romanian traffic through the whole service: how many are found, and how many texts are exact.

A plate counts as found where a box overlaps it by an IoU of 0.5. O and 0 count equal.
"""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from jetface.geometry.boxes import iou_matrix
from tests.support.shared import REPOSITORY, require_shared

MATCH_IOU = 0.5
RECALL, MOST_EXTRA = 0.96, 0.05
"""Measured: 127 of 131 found (0.969), 6 extra boxes among 133 (0.045)."""
EXACT = 0.87
"""Least share of the texts a person can read that are exact from picture to text. Measured: 105 of 119 (0.882)."""


@pytest.fixture(scope="module")
def pictures() -> dict[str, tuple[bytes, list[list[float]], list[str | None]]]:
    """The pictures that nothing was trained on: JPEG, boxes and texts by name."""
    texts = json.loads((REPOSITORY / "training" / "plate_texts.json").read_text())
    with tarfile.open(require_shared("plates", "plates_romania_mit.tar")) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(name)
            assert member is not None
            return member.read()

        boxes: dict[str, list[list[float]]] = {}
        for row in csv.DictReader(io.StringIO(read("labels.tsv").decode()), delimiter="\t"):
            if row["set"] == "valid":
                x, y, w, h = (float(row[side]) for side in "xywh")
                boxes.setdefault(row["file"], []).append([x, y, x + w, y + h])
        return {name: (read(name), of_picture, texts[name]) for name, of_picture in boxes.items()}


def test_plates_are_found_and_read(
    serve: Callable[..., Any], pictures: dict[str, tuple[bytes, list[list[float]], list[str | None]]]
) -> None:
    with serve(plate_det_model="starter_plate", plate_ocr_model="plate_ocr_cct_xs") as service:
        results = service.find_plates([jpeg for jpeg, _, _ in pictures.values()])
    num_wanted = num_found = num_boxes = num_extra = num_readable = num_exact = 0
    for (_, wanted, texts), result in zip(pictures.values(), results, strict=True):
        found = np.array([plate.box for plate in result.plates], np.float32).reshape(-1, 4)
        overlaps = iou_matrix(np.array(wanted, np.float32), found)
        is_same = overlaps >= MATCH_IOU
        num_wanted += len(wanted)
        num_found += int(is_same.any(axis=1).sum())
        num_boxes += len(found)
        num_extra += int((~is_same.any(axis=0)).sum())
        for row, text in enumerate(texts):
            if text is not None:
                num_readable += 1
                if is_same[row].any():
                    reading = result.plates[int(overlaps[row].argmax())].reading
                    num_exact += reading.text.replace("O", "0") == text.replace("O", "0")
    assert (num_wanted, num_readable) == (131, 119)
    assert num_found >= RECALL * num_wanted
    assert num_extra <= MOST_EXTRA * num_boxes
    assert num_exact >= EXACT * num_readable
