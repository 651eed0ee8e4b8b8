#!/usr/bin/env python3
"""Hold an answer of `/extract` to what insightface found on the same picture; needs nothing but Python.

Usage: golden_boxes.py GOLDEN_JSON PICTURE ANSWER_JSON

Prints one line and ends with exit code 0 when the answer has the same faces, else says on stderr what differs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BOX_TOLERANCE_PX = 2.0
"""`bbox` is whole pixels, which cost up to 1 px; the arithmetic of another CPU may cost a little more."""

SCORE_TOLERANCE = 0.02
NORM_TOLERANCE = 0.02
"""Relative; of an embedding before normalization."""


def differences(expected: list[dict[str, Any]], faces: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with `faces`, a sentence each; empty when they agree.

    Args:
        expected: Golden faces: `bbox` (x1, y1, x2, y2, source pixels), `score` in [0, 1], `norm`.
        faces: Those of one picture of `/extract`, in any order: `bbox`, `prob`, `norm` (null or absent: not compared).
    """
    if len(faces) != len(expected):
        return [f"{len(faces)} faces, not {len(expected)}"]
    found: list[str] = []
    left = list(faces)
    for golden in expected:
        face = min(left, key=lambda candidate: _distance_px(golden["bbox"], candidate["bbox"]))
        left.remove(face)
        if _distance_px(golden["bbox"], face["bbox"]) > BOX_TOLERANCE_PX:
            found.append(f"no face at {golden['bbox']}: the nearest is at {face['bbox']}")
            continue
        if abs(golden["score"] - face["prob"]) > SCORE_TOLERANCE:
            found.append(f"face at {golden['bbox']}: score {face['prob']}, not {golden['score']}")
        norm = face.get("norm")
        if norm is not None and abs(norm / golden["norm"] - 1) > NORM_TOLERANCE:
            found.append(f"face at {golden['bbox']}: norm {norm}, not {golden['norm']}")
    return found


def _distance_px(box: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(box, other, strict=True))


def main(golden_json: str, picture: str, answer_json: str) -> int:
    """Compare, print the verdict, and return the exit code."""
    expected = json.loads(Path(golden_json).read_text(encoding="utf-8"))["images"][picture]["faces"]
    (answer,) = json.loads(Path(answer_json).read_text(encoding="utf-8"))["data"]
    wrong = [answer["traceback"]] if answer["status"] != "ok" else differences(expected, answer["faces"])
    if wrong:
        sys.stderr.write("; ".join(wrong) + "\n")
        return 1
    sys.stdout.write(
        f"{len(expected)} faces as insightface finds them: boxes within {BOX_TOLERANCE_PX:g} px, "
        f"scores within {SCORE_TOLERANCE:g}, norms within {NORM_TOLERANCE:.0%}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
