"""Time of the starter models over that of the published ones, one thread, in turns.

python -m training.measure_speed
"""

import argparse
import time
from pathlib import Path

import numpy as np

from training.graphs import open_session


def compare_times(ours: Path, theirs: Path, shape: tuple[int, ...], rounds: int) -> tuple[float, float]:
    """Median seconds of one run of each, run by turns so that the machine's mood strikes both."""
    blob = np.random.default_rng(0).normal(0, 0.5, shape).astype(np.float32)
    sessions = [open_session(path) for path in (ours, theirs)]
    names = [session.get_inputs()[0].name for session in sessions]
    times: list[list[float]] = [[], []]
    for turn in range(rounds + 3):
        for index, session in enumerate(sessions):
            started_s = time.perf_counter()
            session.run(None, {names[index]: blob})
            if turn >= 3:
                times[index].append(time.perf_counter() - started_s)
    return float(np.median(times[0])), float(np.median(times[1]))


def main() -> None:
    """Print the two ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--models", type=Path, default=Path("models"))
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    for ours, theirs, shape in (
        ("starter_rec", "w600k_mbf_dequantized", (1, 3, 112, 112)),
        ("starter_det", "det_500m", (1, 3, 640, 640)),
    ):
        paths = options.models / f"{ours}.onnx", options.shared / "models" / f"{theirs}.onnx"
        our_s, their_s = compare_times(*paths, shape, options.rounds)
        print(f"{ours} {our_s * 1e3:.2f} ms, {theirs} {their_s * 1e3:.2f} ms: {our_s / their_s:.2f}")


if __name__ == "__main__":
    main()
