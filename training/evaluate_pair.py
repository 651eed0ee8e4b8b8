"""Both starter models end to end on `faces/`: detect at 640, align, embed, and who is it (rank-1).

python -m training.evaluate_pair
"""

import argparse
from pathlib import Path

import numpy as np

from training.evaluate_recognizer import line
from training.figures import judge_embeddings
from training.graphs import Detector, Recognizer
from training.judging import face_crops


def main() -> None:
    """Judge the two files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--detector", type=Path, default=Path("models/starter_det.onnx"))
    parser.add_argument("--recognizer", type=Path, default=Path("models/starter_rec.onnx"))
    options = parser.parse_args()
    people, crops = face_crops(options.shared, Detector(options.detector))
    embeddings = Recognizer(options.recognizer).embed(np.array(crops))
    print(line("end to end, faces/", judge_embeddings(embeddings, np.array(people))))


if __name__ == "__main__":
    main()
