"""Find the named face of every portrait once, with a teacher detector, and write its landmarks.

    python -m training.label_portraits --shared ../shared --out .train/portraits.npz

The output holds, in the order of the names: `file_names`, `landmarks` (N, 5, 2) float32 pixels of the portrait,
`held_out` (N,) bool: a tenth of the people by `is_held_out`, and everyone who has a folder in `faces/`, which is
kept for judging. Where several faces are found, the one nearest to the middle of the picture is the named one.
"""

import argparse
from pathlib import Path

import numpy as np

from training.graphs import Detector
from training.judging import central_face
from training.portraits import is_held_out, read_portraits

CANVAS_PX = 320  # at this size det_500m misses no portrait
SCORE_THRESHOLD = 0.3


def main() -> None:
    """Label the archive named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="folder of the shared material")
    parser.add_argument("--out", type=Path, default=Path(".train/portraits.npz"))
    parser.add_argument("--limit", type=int, default=None, help="stop after this many portraits")
    options = parser.parse_args()
    detector = Detector(options.shared / "models" / "det_500m.onnx")
    judged = {folder.name for folder in (options.shared / "faces").iterdir()}
    names, landmarks, held_out = [], [], []
    for portrait in read_portraits(options.shared / "training" / "portraits.tar", options.limit):
        faces = detector.detect(portrait.image, CANVAS_PX, SCORE_THRESHOLD)
        if not len(faces.boxes):
            print(f"no face in {portrait.file_name}: left out")
            continue
        names.append(portrait.file_name)
        landmarks.append(faces.landmarks[central_face(faces)])
        held_out.append(is_held_out(portrait.person) or portrait.person in judged)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, file_names=names, landmarks=np.array(landmarks), held_out=np.array(held_out))
    print(f"{len(names)} portraits labelled, {sum(held_out)} held out, in {options.out}")


if __name__ == "__main__":
    main()
