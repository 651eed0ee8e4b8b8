"""Figures of the detector against what det_500m and `insightface` answer.

    python -m training.evaluate_detector

Wanted on `images/`: golden faces at least 24 px wide that score at least 0.6. Extra: a box that overlaps no golden
face (golden lists faces from score 0.5) by an IoU of 0.5.
"""

import argparse
from pathlib import Path

import numpy as np

from training.figures import Agreement, compare_boxes, landmark_error
from training.graphs import Detector
from training.judging import CANVAS_PX, central_face, golden_pictures, judged_faces, read_picture

LEAST_WIDTH_PX = 24
LEAST_SCORE = 0.6


def judge_golden(detector: Detector, shared: Path, score_threshold: float) -> Agreement:
    """Count over the golden pictures."""
    total = Agreement(0, 0, 0, 0)
    for picture in golden_pictures(shared):
        is_wanted = (picture.boxes[:, 2] - picture.boxes[:, 0] >= LEAST_WIDTH_PX) & (picture.scores >= LEAST_SCORE)
        boxes = detector.detect(picture.image, CANVAS_PX, score_threshold).boxes
        total += compare_boxes(boxes, picture.boxes, is_wanted)
    return total


def judge_faces(detector: Detector, reference: Detector, shared: Path) -> list[float | None]:
    """Landmark error on the central face of each picture in `faces/`, None where it is not found."""
    errors = []
    for _, image in judged_faces(shared):
        wanted = reference.detect(image, CANVAS_PX, 0.5)
        if not len(wanted.boxes):  # the reference misses a few at 640 and finds them at half the size
            wanted = reference.detect(image, CANVAS_PX // 2, 0.5)
        found = detector.detect(image, CANVAS_PX, 0.5)
        errors.append(landmark_error(found, wanted, central_face(wanted)))
    return errors


def judge_tight_crops(detector: Detector, shared: Path) -> dict[str, float]:
    """Best score at 640 of each close face, 0 where there is none."""
    scores = {}
    for path in sorted((shared / "images" / "tight_crops").iterdir()):
        found = detector.detect(read_picture(path), CANVAS_PX, 0.5).scores
        scores[path.name] = float(found[0]) if len(found) else 0.0
    return scores


def main() -> None:
    """Judge the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--model", type=Path, default=Path("models/starter_det.onnx"))
    options = parser.parse_args()
    detector = Detector(options.model)
    for threshold in (0.4, 0.5, 0.6):
        total = judge_golden(detector, options.shared, threshold)
        found, extra = total.num_found / total.num_wanted, total.num_extra / total.num_boxes
        print(
            f"images at {threshold}: found {total.num_found} of {total.num_wanted} ({found:.3f}), "
            f"extra {total.num_extra} of {total.num_boxes} boxes ({extra:.3f})"
        )
    errors = judge_faces(detector, Detector(options.shared / "models" / "det_500m.onnx"), options.shared)
    seen = [error for error in errors if error is not None]
    print(f"faces: found {len(seen)} of {len(errors)}, landmark error {np.mean(seen):.4f} of the box width")
    scores = judge_tight_crops(detector, options.shared)
    num_found = sum(score > 0 for score in scores.values())
    print(f"tight crops: {num_found} of {len(scores)}, lowest score {min(scores.values()):.2f}")


if __name__ == "__main__":
    main()
