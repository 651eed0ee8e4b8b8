"""Measure everything in one run: `make bench`, or `python -m tests.bench --quick`."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jetface.runtimes.openvino import has_bf16, load_runtime
from tests.bench import floor
from tests.bench.load import Sampler
from tests.bench.peer import LIBRARIES
from tests.bench.pictures import Picture, make_pictures
from tests.bench.report import Report, Row, median_row
from tests.bench.rounds import are_enough, medians, ratios_of
from tests.bench.scenarios import Target, closed_loop, health_beside_a_crowd, overload, singles_beside_crowds, warm
from tests.support.server import Server, running_server
from tests.support.shared import REPOSITORY, shared_dir

MODELS = ("det_500m", "w600k_mbf_dequantized")
MAX_IN_FLIGHT = 64


class Bench:
    """One run: rounds of floor, peers and server in turn until their ratios are settled, medians in the end."""

    def __init__(
        self,
        *,
        seconds: float,
        most_rounds: int,
        peers: Sequence[str],
        only_peers: bool,
        peer_python: Path,
        folder: Path,
    ) -> None:
        """Prepare a run.

        Args:
            seconds: Of each measurement.
            most_rounds: Rounds after which it ends, settled or not.
            peers: Libraries to measure beside.
            only_peers: Leave out what says nothing of them: many clients, other bodies, other backends, overload.
            peer_python: Of the environment that has them.
            folder: For pictures and models of the run.
        """
        self.seconds = seconds
        self.most_rounds = most_rounds
        self.peers = peers
        self.only_peers = only_peers
        self.peer_python = peer_python
        self.folder = folder
        self.cores = len(os.sched_getaffinity(0))
        self.det, self.rec = (shared_dir() / "models" / f"{name}.onnx" for name in MODELS)
        self.pictures = make_pictures(shared_dir() / "images", folder)
        commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
        self.report = Report(cores=self.cores, commit=commit.stdout.strip() or "unknown")
        self.rows: dict[tuple[str, int], Row] = {}
        """Of the round under way."""

    def run(self) -> Report:
        """Measure, fill the report, return it."""
        variables = self._variables("onnxruntime")
        done: dict[tuple[str, int], list[Row]] = {}
        ratios: dict[str, list[float]] = {}
        with Sampler() as sampler, running_server(self.folder, variables) as server:
            target = Target(port=int(server.url.rsplit(":", 1)[1]), pid=server.process.pid)
            warm(target, self.pictures["one"])
            while not are_enough(ratios, most_rounds=self.most_rounds):
                self.report.rounds += 1
                self._say(f"round {self.report.rounds} of at most {self.most_rounds}")
                self.rows = {}
                self._round(target)
                for key, row in self.rows.items():
                    done.setdefault(key, []).append(row)
                for name, value in ratios_of(self.rows, cores=self.cores, peers=self.peers).items():
                    ratios.setdefault(name, []).append(value)
            self.report.rows = [median_row(rows) for rows in done.values()]
            self.report.ratios = medians(ratios)
            if not self.only_peers:
                self._once(server, target)
            self.report.load = sampler.load()
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
        if importlib.util.find_spec("openvino") and not self.only_peers:
            self._openvino()
        for picture in self.pictures.values():
            self._floor(picture)
            for library in self.peers:
                self._peer(library, picture)
            for clients in (1, 4) if self.only_peers else (1, 4, 16, 64):
                if picture.name == "crowd" and clients > 4:
                    continue  # a crowd takes a second of both cores: more clients only queue
                self._add(target, picture.name, picture.as_raw(), clients)
        if self.only_peers:
            return
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
        self.rows[scenario, clients] = row

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
        rate, cpu_ms = floor.measure(
            self.det, self.rec, picture.path,
            faces=picture.faces, canvas_hw=picture.canvas_hw, seconds=self.seconds, cores=self.cores,
        )  # fmt: skip
        scenario = f"floor, {picture.name}"
        self.rows[scenario, self.cores] = Row(scenario, self.cores, rate, math.nan, math.nan, cpu_ms, math.nan)

    def _peer(self, library: str, picture: Picture) -> None:
        program = Path(__file__).with_name("peer.py")
        command: list[object] = [self.peer_python, program, self.det, self.rec, picture.path]
        command += ["--library", library, "--seconds", self.seconds]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{library} could not be measured:\n{done.stderr}")
        answer = json.loads(done.stdout.splitlines()[-1])
        scenario = f"{library}, {picture.name}"
        self.rows[scenario, 1] = Row(
            scenario=scenario, clients=1, pictures_per_s=answer["pictures_per_s"], p50_ms=answer["p50_ms"],
            p99_ms=answer["p99_ms"], cpu_ms_per_picture=answer["cpu_ms_per_picture"], rss_mib=math.nan,
        )  # fmt: skip

    @property
    def _overload_s(self) -> float:
        """Seconds; the more, the less weigh the beginning, when all places fill at once, and the end."""
        return 2 * self.seconds if self.most_rounds == 1 else max(20.0, 2 * self.seconds)

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
        self.report.facts = {
            "overload 10x: goodput over peak": row.pictures_per_s / peak,
            # Of the cores that the clients leave: they send from the same ones, ten times as much.
            "overload 10x: pictures per CPU second of the service over the peak's": (
                best.cpu_ms_per_picture / row.cpu_ms_per_picture
            ),
            "singles beside crowds: p99 over alone": beside.percentile_ms(99) / alone.percentile_ms(99),
            "overload: cores the clients took": client_s / load.seconds,
            "overload: refusals answered within 50 ms, %": 100 * statistics.fmean(s <= 0.05 for s in refused)
            if refused
            else math.nan,
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
    parser.add_argument("--rounds", type=int, default=12, help="most rounds; fewer where all ratios are settled before")
    parser.add_argument("--only-peers", action="store_true", help="the floor, all libraries and jetface, no more")
    parser.add_argument("--peer-python", type=Path, default=REPOSITORY / ".venv-bench/bin/python")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "tests/bench/results")
    args = parser.parse_args()
    seconds, rounds = (1.5, 1) if args.quick else (args.seconds, args.rounds)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(
            seconds=seconds,
            most_rounds=rounds,
            peers=list(LIBRARIES) if args.only_peers else ["insightface"],
            only_peers=args.only_peers,
            peer_python=args.peer_python,
            folder=Path(folder),
        )
        report = bench.run()
    report.write(args.out)
    sys.stdout.write(report.table())


if __name__ == "__main__":
    main()
