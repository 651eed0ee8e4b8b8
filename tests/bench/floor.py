"""The hardware's floor: shipped graphs, one process per core, no server, no queue, no NMS.

python -m tests.bench.floor det.onnx rec.onnx picture.jpg --faces 1 --canvas 640x640 --seconds 5
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import multiprocessing.synchronize
import time
from pathlib import Path

import cv2
import numpy as np


def count_pictures(
    det: str,
    rec: str,
    picture: str,
    faces: int,
    canvas_hw: tuple[int, int],
    seconds: float,
    barrier: multiprocessing.synchronize.Barrier,
    results: multiprocessing.Queue[tuple[int, float, float]],
) -> None:
    """Work through one picture again and again for `seconds`; put (pictures, seconds, CPU seconds) into `results`."""
    import onnxruntime

    cv2.setNumThreads(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    detector, recognizer = (
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for path in (det, rec)
    )
    det_input, rec_input = detector.get_inputs()[0].name, recognizer.get_inputs()[0].name
    data = np.frombuffer(Path(picture).read_bytes(), np.uint8)
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)

    def one() -> None:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert image is not None
        scale = min(canvas_hw[0] / image.shape[0], canvas_hw[1] / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale)
        canvas = np.zeros((*canvas_hw, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small[: canvas_hw[0], : canvas_hw[1]]
        blob = cv2.dnn.blobFromImage(canvas, 1 / 128, canvas_hw[::-1], (127.5, 127.5, 127.5), swapRB=True)
        detector.run(None, {det_input: blob})
        for _ in range(faces):
            blob = cv2.dnn.blobFromImage(crop, 1 / 127.5, (112, 112), (127.5, 127.5, 127.5), swapRB=True)
            recognizer.run(None, {rec_input: blob})

    one()
    barrier.wait()
    started, cpu_started_s = time.perf_counter(), time.process_time()
    pictures = 0
    while time.perf_counter() - started < seconds:
        one()
        pictures += 1
    results.put((pictures, time.perf_counter() - started, time.process_time() - cpu_started_s))


def measure(
    det: Path, rec: Path, picture: Path, *, faces: int, canvas_hw: tuple[int, int], seconds: float, cores: int
) -> tuple[float, float]:
    """Return the pictures per second that `cores` processes reach together, and CPU ms a picture."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores)
    results: multiprocessing.Queue[tuple[int, float, float]] = context.Queue()
    arguments = (str(det), str(rec), str(picture), faces, canvas_hw, seconds, barrier, results)
    workers = [context.Process(target=count_pictures, args=arguments) for _ in range(cores)]
    for worker in workers:
        worker.start()
    done = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    rate = sum(pictures / took_s for pictures, took_s, _ in done)
    return rate, 1000 * sum(cpu_s for _, _, cpu_s in done) / sum(pictures for pictures, _, _ in done)


def main() -> None:
    """Measure one floor from the command line; print JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("det", type=Path)
    parser.add_argument("rec", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--faces", type=int, default=1)
    parser.add_argument("--canvas", default="640x640", help="HEIGHTxWIDTH, pixels")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--cores", type=int, default=multiprocessing.cpu_count())
    args = parser.parse_args()
    height, width = (int(side) for side in args.canvas.split("x"))
    rate, cpu_ms = measure(
        args.det, args.rec, args.picture,
        faces=args.faces, canvas_hw=(height, width), seconds=args.seconds, cores=args.cores,
    )  # fmt: skip
    print(json.dumps({"pictures_per_s": rate, "cpu_ms_per_picture": cpu_ms}))  # noqa: T201 - the program's answer


if __name__ == "__main__":
    main()
