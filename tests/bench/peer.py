"""A library in process, one caller: what others would use in our place. Runs in an environment of its own.

    python tests/bench/peer.py det.onnx rec.onnx picture.jpg --library uniface --seconds 5

Needs nothing of jetface but the libraries of `requirements/bench.txt`, so that their own dependencies decide how fast
they are. Nothing is fetched.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

# ONNX Runtime reports to its maker otherwise; read once, when it is imported.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

DETECTOR_SIDE_PX = 640


def open_insightface(det: Path, rec: Path, folder: Path, device: str) -> Callable[[Any], Sequence[Any]]:
    """Return `FaceAnalysis.get`, with the two models as its pack."""
    from insightface.app import FaceAnalysis

    pack = folder / "models" / "pack"
    pack.mkdir(parents=True)
    for source in (det, rec):
        (pack / source.name).symlink_to(source.resolve())
    providers = ["CUDAExecutionProvider"] if device == "cuda" else []
    analysis = FaceAnalysis(name="pack", root=folder, providers=[*providers, "CPUExecutionProvider"])
    analysis.prepare(ctx_id=0 if device == "cuda" else -1, det_size=(DETECTOR_SIDE_PX, DETECTOR_SIDE_PX))
    get: Callable[[Any], Sequence[Any]] = analysis.get
    return get


def open_uniface(det: Path, rec: Path, folder: Path, device: str) -> Callable[[Any], Sequence[Any]]:
    """Return `FaceAnalyzer.analyze`: the detector lies where it looks for its own, the recognizer is opened by path.

    Raises:
        SystemExit: The detector is none of its own, by its hash: it would fetch another.
    """
    import uniface
    from uniface.constants import MODEL_REGISTRY, SCRFDWeights
    from uniface.recognition.base import BaseRecognizer, PreprocessConfig

    class Recognizer(BaseRecognizer):  # type: ignore[misc] # it has no types here
        """Opens any recognizer of ArcFace's kind."""

        def __init__(self, path: Path, providers: list[str]) -> None:
            super().__init__(model_path=str(path), preprocessing=PreprocessConfig(), providers=providers)

    sha256 = hashlib.sha256(det.read_bytes()).hexdigest()
    weights = next((name for name in SCRFDWeights if MODEL_REGISTRY[name].sha256 == sha256), None)
    if weights is None:
        raise SystemExit(f"{det.name} is none of the detectors that uniface knows by their hash")
    (folder / f"{weights.value}.onnx").symlink_to(det.resolve())
    uniface.set_cache_dir(str(folder))
    providers = [*(["CUDAExecutionProvider"] if device == "cuda" else []), "CPUExecutionProvider"]
    side = (DETECTOR_SIDE_PX, DETECTOR_SIDE_PX)
    detector = uniface.SCRFD(model_name=weights, input_size=side, providers=providers)
    analyzer = uniface.FaceAnalyzer(detector=detector, recognizer=Recognizer(rec, providers))
    analyze: Callable[[Any], Sequence[Any]] = analyzer.analyze
    return analyze


LIBRARIES = {"insightface": open_insightface, "uniface": open_uniface}


def measure(library: str, det: Path, rec: Path, picture: Path, seconds: float, device: str = "cpu") -> dict[str, float]:
    """Return pictures per second, p50, p99 and CPU (ms a picture), and faces per picture of one caller."""
    import cv2
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(sys.stderr):
            find = LIBRARIES[library](det, rec, Path(folder), device)
        data = np.frombuffer(picture.read_bytes(), np.uint8)
        faces = find(cv2.imdecode(data, cv2.IMREAD_COLOR))
        if any(face.embedding is None for face in faces):
            raise SystemExit(f"{library} embeds no faces with {rec.name}")
        took_s = []
        cpu_started_s = time.process_time()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            find(cv2.imdecode(data, cv2.IMREAD_COLOR))
            took_s.append(time.perf_counter() - started)
        cpu_s = time.process_time() - cpu_started_s
    p50, p99 = np.percentile(took_s, (50, 99)) * 1000
    return {
        "pictures_per_s": len(took_s) / sum(took_s),
        "p50_ms": p50,
        "p99_ms": p99,
        "cpu_ms_per_picture": 1000 * cpu_s / len(took_s),
        "faces": len(faces),
    }


def main() -> None:
    """Measure from the command line; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("det", type=Path)
    parser.add_argument("rec", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--library", choices=sorted(LIBRARIES), default="insightface")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    args = parser.parse_args()
    answer = measure(args.library, args.det, args.rec, args.picture, args.seconds, args.device)
    print(json.dumps(answer))  # noqa: T201 - the program's answer


if __name__ == "__main__":
    main()
