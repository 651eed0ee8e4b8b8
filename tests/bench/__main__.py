"""Measure everything in one run: `make bench`, or `python -m tests.bench --quick`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from jetface.runtimes.openvino import has_bf16, load_runtime
from tests.bench import floor
from tests.bench.pictures import Picture, make_pictures
from tests.bench.report import Report, Row, median_row
from tests.bench.scenarios import Target, closed_loop, health_beside_a_crowd, overload, singles_beside_crowds, warm
from tests.support.server import Server, running_server
from tests.support.shared import REPOSITORY, shared_dir

MODELS = ("det_500m", "w600k_mbf_dequantized")
MAX_IN_FLIGHT = 64


class Bench:
    """One run: rounds of floor, peer and server in turn, medians in the end."""

    def __init__(self, *, seconds: float, rounds: int, peer_python: Path, folder: Path) -> None:
        self.seconds = seconds
        self.rounds = rounds
        self.peer_python = peer_python
        self.folder = folder
        self.cores = len(os.sched_getaffinity(0))
        self.det, self.rec = (shared_dir() / "models" / f"{name}.onnx" for name in MODELS)
        self.pictures = make_pictures(shared_dir() / "images", folder)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        self.report = Report(cores=self.cores, commit=commit.stdout.strip() or "unknown")
        self.rows: dict[tuple[str, int], list[Row]] = {}

    def run(self) -> Report:
        """Measure, fill the report, return it."""
        variables = self._variables("onnxruntime")
        with running_server(self.folder, variables) as server:
            target = Target(port=int(server.url.rsplit(":", 1)[1]), pid=server.process.pid)
            warm(target, self.pictures["one"])
            for number in range(self.rounds):
                self._say(f"round {number + 1} of {self.rounds}")
                self._round(target)
            self.report.rows = [median_row(rows) for rows in self.rows.values()]
            self._ratios()
            self._once(server, target)
        return self.report

    def _variables(self, backend: str) -> dict[str, str]:
        return {
            "DET_MODEL": MODELS[0],
            "REC_MODEL": MODELS[1],
            "MODEL_MIRROR": str(self.det.parent),
            "MAX_IN_FLIGHT": str(MAX_IN_FLIGHT),
            "BACKEND": backend,
            "LOG_LEVEL": "WARNING",
        }

    def _round(self, target: Target) -> None:
        if importlib.util.find_spec("openvino"):
            self._openvino()
        for picture in self.pictures.values():
            self._floor(picture)
            self._peer(picture)
            for clients in (1, 4, 16, 64):
                if picture.name == "crowd" and clients > 4:
                    continue  # a crowd takes a second of both cores: more clients only queue
                self._add(target, picture.name, picture.as_raw(), clients)
        one = self.pictures["one"]
        self._add(target, "one, JSON base64", one.as_json(), 4)
        self._add(target, "one, 8 a request", one.as_json(copies=8), 4, pictures_per_request=8)
        turns = "threshold=0.5&rotations=auto"
        self._add(target, "six, rotations=auto", self.pictures["six"].as_raw(turns), 4)
        self._add(target, "one upside down, rotations=auto", one.upside_down(self.folder).as_raw(turns), 4)

    def _add(
        self, target: Target, scenario: str, request: bytes, clients: int, *, pictures_per_request: int = 1
    ) -> None:
        row, _ = closed_loop(
            target, scenario, request,
            clients=clients, seconds=self.seconds, pictures_per_request=pictures_per_request,
        )  # fmt: skip
        self.rows.setdefault((scenario, clients), []).append(row)

    def _openvino(self) -> None:
        """Measure servers that may use OpenVINO, while the other one idles."""
        one = self.pictures["one"]
        bf16 = {**self._variables("openvino"), "OPENVINO_PRECISION": "bf16"}
        variants = {"one, BACKEND=auto": self._variables("auto"), "one, OpenVINO bf16": bf16}
        for scenario, variables in variants.items():
            if variables is bf16 and not has_bf16(load_runtime()):
                continue
            with running_server(self.folder, variables) as server:
                target = Target(port=int(server.url.rsplit(":", 1)[1]), pid=server.process.pid)
                warm(target, one)
                self._add(target, scenario, one.as_raw(), 4)

    def _floor(self, picture: Picture) -> None:
        rate = floor.measure(
            self.det, self.rec, picture.path,
            faces=picture.faces, canvas_hw=picture.canvas_hw, seconds=self.seconds, cores=self.cores,
        )  # fmt: skip
        self._add_rate(f"floor, {picture.name}", rate, 1000 / rate * self.cores)

    def _peer(self, picture: Picture) -> None:
        program = Path(__file__).with_name("peer.py")
        command = [self.peer_python, program, self.det, self.rec, picture.path, "--seconds", str(self.seconds)]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"insightface could not be measured:\n{done.stderr}")
        answer = json.loads(done.stdout.splitlines()[-1])
        row = Row(
            scenario=f"FaceAnalysis, {picture.name}", clients=1, pictures_per_s=answer["pictures_per_s"],
            p50_ms=answer["p50_ms"], p99_ms=answer["p99_ms"], cpu_ms_per_picture=float("nan"), rss_mib=float("nan"),
        )  # fmt: skip
        self.rows.setdefault((row.scenario, 1), []).append(row)

    def _add_rate(self, scenario: str, rate: float, cpu_ms: float) -> None:
        nan = float("nan")
        row = Row(scenario, self.cores, rate, nan, nan, cpu_ms, nan)
        self.rows.setdefault((scenario, self.cores), []).append(row)

    def _ratios(self) -> None:
        row = {(row.scenario, row.clients): row for row in self.report.rows}
        rate = {key: row.pictures_per_s for key, row in row.items()}
        cores = self.cores
        self.report.ratios = {
            "one face, 4 clients: over the floor": rate["one", 4] / rate["floor, one", cores],
            "six faces, 4 clients: over the floor": rate["six", 4] / rate["floor, six", cores],
            "one face, 4 clients: over FaceAnalysis": rate["one", 4] / rate["FaceAnalysis, one", 1],
            "one client: p50 over FaceAnalysis's": row["one", 1].p50_ms / row["FaceAnalysis, one", 1].p50_ms,
            "crowd, one client: time over the floor's": row["crowd", 1].p50_ms / (1000 / rate["floor, crowd", cores]),
            "64 clients over 4: pictures/s": rate["one", 64] / rate["one", 4],
            "six faces, rotations=auto over none: pictures/s": rate["six, rotations=auto", 4] / rate["six", 4],
            "one face upside down, rotations=auto over upright, none: pictures/s": rate[
                "one upside down, rotations=auto", 4
            ]
            / rate["one", 4],
        }
        for scenario in ("one, BACKEND=auto", "one, OpenVINO bf16"):
            if (scenario, 4) in rate:
                self.report.ratios[f"{scenario}, 4 clients: over the floor"] = (
                    rate[scenario, 4] / rate["floor, one", cores]
                )

    @property
    def _overload_s(self) -> float:
        """Seconds; the more, the less weigh the beginning, when all places fill at once, and the end."""
        return 2 * self.seconds if self.rounds == 1 else max(20.0, 2 * self.seconds)

    def _once(self, server: Server, target: Target) -> None:
        """Measure what needs no rounds: overload, crowds beside singles, health beside a crowd."""
        one, crowd = self.pictures["one"], self.pictures["crowd"]
        best = max((row for row in self.report.rows if row.scenario == "one"), key=lambda row: row.pictures_per_s)
        peak = best.pictures_per_s
        client_s = time.process_time()
        row, load = overload(target, "overload", one.as_raw(), rate_per_s=10 * peak, seconds=self._overload_s)
        client_s = time.process_time() - client_s
        self.report.rows.append(row)
        alone, beside = singles_beside_crowds(target, one, crowd, seconds=2 * self.seconds)
        health_s, crowd_s = health_beside_a_crowd(target, crowd)
        refused = load.refused_s
        self.report.ratios |= {
            "overload 10x: goodput over peak": row.pictures_per_s / peak,
            # Of the cores that the clients leave: they send from the same ones, ten times as much.
            "overload 10x: pictures per CPU second of the service over the peak's": (
                best.cpu_ms_per_picture / row.cpu_ms_per_picture
            ),
            "singles beside crowds: p99 over alone": beside.percentile_ms(99) / alone.percentile_ms(99),
        }
        self.report.facts = {
            "overload: cores the clients took": client_s / load.seconds,
            "overload: refusals answered within 50 ms, %": 100 * statistics.fmean(s <= 0.05 for s in refused)
            if refused
            else float("nan"),
            "health calls beside a crowd: p99 ms": float(np.percentile(health_s, 99)) * 1000,
            "that crowd: ms": crowd_s * 1000,
        }
        if server.process.poll() is not None:
            raise SystemExit(f"the server died:\n{server.read_log()}")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


def main() -> None:
    """Run the benchmark; print the table; write it with JSON and plots to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: does it run, roughly how fast")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=REPOSITORY / ".venv-bench/bin/python")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests/bench/results")
    args = parser.parse_args()
    seconds, rounds = (1.5, 1) if args.quick else (args.seconds, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(seconds=seconds, rounds=rounds, peer_python=args.peer_python, folder=Path(folder))
        report = bench.run()
    report.write(args.out)
    sys.stdout.write(report.table())


if __name__ == "__main__":
    main()
