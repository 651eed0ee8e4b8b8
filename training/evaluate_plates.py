"""Figures of the plate detector and the reader on the pictures for judging.

    python -m training.evaluate_plates
    python -m training.evaluate_plates --plates PICTURES.tar    # pictures and labels.tsv, set `valid`

Found: a plate that some box overlaps by an IoU of 0.5. Extra: a box that overlaps no plate so. Read: exact text, O and
0 counted equal, of the plates whose text is known: on the labelled boxes, and end to end, where
a plate that is not found counts as not read.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.figures import MATCH_IOU, Agreement, compare_boxes
from training.graphs import iou
from training.plate_graphs import PlateFinder, PlateReader
from training.plates import PlatePicture, read_plates


@dataclass(frozen=True, slots=True)
class Reading:
    """How many of the readable plates were read right."""

    num_readable: int
    num_exact: int


def judge_finder(finder: PlateFinder, pictures: list[PlatePicture], score_threshold: float) -> Agreement:
    """Count plates found and extra boxes."""
    total = Agreement(0, 0, 0, 0)
    for picture in pictures:
        boxes = finder.find(picture.image, score_threshold).boxes
        total += compare_boxes(boxes, picture.boxes, np.ones(len(picture.boxes), bool))
    return total


def judge_reader(
    reader: PlateReader, pictures: list[PlatePicture], finder: PlateFinder | None, score_threshold: float
) -> Reading:
    """Count exact texts, on the labelled boxes where there is no finder."""
    num_readable = num_exact = 0
    for picture in pictures:
        boxes = picture.boxes if finder is None else finder.find(picture.image, score_threshold).boxes
        overlaps = iou(picture.boxes, boxes)
        for row, text in enumerate(picture.texts):
            if text is None:
                continue
            num_readable += 1
            best = int(overlaps[row].argmax()) if len(boxes) else -1
            if best >= 0 and overlaps[row, best] >= MATCH_IOU:
                read = reader.read(picture.image, boxes[best])
                num_exact += read.replace("O", "0") == text.replace("O", "0")
    return Reading(num_readable, num_exact)


def main() -> None:
    """Judge the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--plates", type=Path, default=None, help="default: plates/plates_romania_mit.tar in --shared")
    parser.add_argument("--model", type=Path, default=Path("models/starter_plate.onnx"))
    parser.add_argument("--threshold", type=float, default=0.4, help="the model's own: models/starter_plate.toml")
    options = parser.parse_args()
    archive = options.plates or options.shared / "plates" / "plates_romania_mit.tar"
    pictures = list(read_plates(archive, "valid"))
    finder = PlateFinder(options.model)
    reader = PlateReader(options.shared / "models" / "plate_ocr_cct_xs.onnx")
    for threshold in sorted({0.3, 0.4, 0.5, 0.6, options.threshold}):
        total = judge_finder(finder, pictures, threshold)
        found, extra = total.num_found / total.num_wanted, total.num_extra / max(total.num_boxes, 1)
        print(
            f"at {threshold}: found {total.num_found} of {total.num_wanted} ({found:.3f}), "
            f"extra {total.num_extra} of {total.num_boxes} boxes ({extra:.3f})"
        )
    for name, by in (("labelled boxes", None), (f"end to end at {options.threshold}", finder)):
        reading = judge_reader(reader, pictures, by, options.threshold)
        share = reading.num_exact / max(reading.num_readable, 1)
        print(f"{name}: {reading.num_exact} of {reading.num_readable} texts exact ({share:.3f})")


if __name__ == "__main__":
    main()
