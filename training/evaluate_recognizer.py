"""Figures of the recogniser beside its teacher's.

    python -m training.evaluate_recognizer

People never trained on: every held-out portrait (a tenth of the people, and those of `faces/`); then the 800 pictures
of `faces/`. Crops by det_500m, so that the detector has no say.
"""

import argparse
from pathlib import Path

import numpy as np

from training.figures import RecognitionFigures, judge_embeddings
from training.graphs import Detector, Recognizer
from training.judging import face_crops, held_out_crops
from training.portraits import is_held_out


def line(name: str, figures: RecognitionFigures) -> str:
    """One row of the table that the program prints."""
    return (
        f"{name:34s} verification {figures.verification:.4f}  TAR@1e-3 {figures.tar:.4f}  rank-1 {figures.rank_1:.4f}"
        f"  ({figures.num_people} people, {figures.num_pictures} pictures)"
    )


def main() -> None:
    """Judge the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--labels", type=Path, default=Path(".train/portraits.npz"))
    parser.add_argument("--model", type=Path, default=Path("models/starter_rec.onnx"))
    options = parser.parse_args()
    teacher = options.shared / "models" / "w600k_mbf_dequantized.onnx"
    people, crops = held_out_crops(options.shared, options.labels)
    names, stack = np.array(people), np.array(crops)
    is_tenth = np.array([is_held_out(person) for person in people])
    face_names, faces = face_crops(options.shared, Detector(options.shared / "models" / "det_500m.onnx"), canvas_px=320)
    for kind, path in (("teacher", teacher), ("student", options.model)):
        recognizer = Recognizer(path)
        embeddings = recognizer.embed(stack)
        print(line(f"{kind}, all held out", judge_embeddings(embeddings, names)))
        print(line(f"{kind}, held-out tenth", judge_embeddings(embeddings[is_tenth], names[is_tenth])))
        print(line(f"{kind}, faces/", judge_embeddings(recognizer.embed(np.array(faces)), np.array(face_names))))


if __name__ == "__main__":
    main()
