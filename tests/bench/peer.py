"""`insightface` FaceAnalysis in process, one caller; runs in an environment of its own (`requirements/bench.txt`).

    python tests/bench/peer.py det.onnx rec.onnx picture.jpg --seconds 5

Needs nothing of jetface, so that the peer's own dependencies decide how fast it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path

# ONNX Runtime reports to its maker otherwise; read once, when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def measure(det: Path, rec: Path, picture: Path, seconds: float, device: str = "cpu") -> dict[str, float]:
    """Return pictures per second, p50 and p99 (ms) and faces per picture of one caller, on `cpu` or `cuda`."""
    import cv2
    import numpy as np
    from insightface.app import FaceAnalysis

    with tempfile.TemporaryDirectory() as root:
        pack = Path(root, "models", "pack")
        pack.mkdir(parents=True)
        for source in (det, rec):
            (pack / source.name).symlink_to(source.resolve())
        with contextlib.redirect_stdout(sys.stderr):
            providers = ["CUDAExecutionProvider"] if device == "cuda" else []
            analysis = FaceAnalysis(name="pack", root=root, providers=[*providers, "CPUExecutionProvider"])
            analysis.prepare(ctx_id=0 if device == "cuda" else -1, det_size=(640, 640))
        data = np.frombuffer(picture.read_bytes(), np.uint8)
        faces = analysis.get(cv2.imdecode(data, cv2.IMREAD_COLOR))
        took_s = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            analysis.get(cv2.imdecode(data, cv2.IMREAD_COLOR))
            took_s.append(time.perf_counter() - started)
    p50, p99 = np.percentile(took_s, (50, 99)) * 1000
    return {"pictures_per_s": len(took_s) / sum(took_s), "p50_ms": p50, "p99_ms": p99, "faces": len(faces)}


def main() -> None:
    """Measure from the command line; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("det", type=Path)
    parser.add_argument("rec", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    print(json.dumps(measure(args.det, args.rec, args.picture, args.seconds, args.device)))  # noqa: T201 - the program's answer


if __name__ == "__main__":
    main()
