"""A toolkit whose engines are ONNX graphs with a header, run by ONNX Runtime on the CPU, and built as slowly as wanted.

What it does is said by the environment, which the building process inherits: `STAND_IN_STEPS` and `STAND_IN_STEP_S`,
how long a build takes; `STAND_IN_FAULT`, what goes wrong; `STAND_IN_LOG`, a file that gets a line for each build begun.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jetface.domain import Batch, Tensor
from jetface.errors import EngineBuildError, EngineLoadError, InferenceError
from jetface.runtimes.backend import Backend
from jetface.runtimes.engine_kit import Announce, BuiltEngine, EngineRecipe
from jetface.runtimes.onnx import open_onnx_backends

FACTORY = f"{__name__}:make_kit"
"""Import path for a job."""

HEADER = b"STAND-IN PLAN 1\n"


@dataclass
class StandInKit:
    """Implements `EngineKit`."""

    device: str = "stand-in 1"
    is_gone: bool = False
    """Whether there is no device for this process, though there is one for the process that builds."""
    opened: list[StandInEngine] = field(default_factory=list)
    dla_cores: list[int] = field(default_factory=list)
    """What each engine was opened for."""

    @property
    def name(self) -> str:
        """What an operator sees."""
        return "stand-in"

    def facts(self) -> Mapping[str, str]:
        """Return a version and the device."""
        return {"toolkit": "stand-in", "version": "1.0", "device": self.device}

    @property
    def num_dla_cores(self) -> int:
        """As many as the environment says."""
        return int(os.environ.get("STAND_IN_DLA_CORES", "0"))

    def build(
        self, recipe: EngineRecipe, graph: Path, announce: Announce, *, timing_cache: Path | None = None
    ) -> BuiltEngine:
        """Take the steps, then wrap the graph."""
        del timing_cache  # nothing is timed
        fault = os.environ.get("STAND_IN_FAULT", "")
        if log := os.environ.get("STAND_IN_LOG"):
            with Path(log).open("a", encoding="utf-8") as file:
                file.write(f"{recipe.model} {os.getpid()}\n")
        if fault == "garbage":
            sys.stdout.write("{not json\n" + "x" * 100_000 + "\n")
            sys.stdout.flush()
            sys.stderr.write("y" * 1_000_000)
        steps = int(os.environ.get("STAND_IN_STEPS", "4"))
        for step in range(1, steps + 1):
            time.sleep(float(os.environ.get("STAND_IN_STEP_S", "0")))
            announce(f"step {step}")
            if fault == "die":
                sys.stderr.write("the last words of a dying build\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        if fault == "build":
            raise EngineBuildError("The node Conv_7 has an operator that there is no kernel for.")
        if fault == "crash":
            raise RuntimeError("a fault of the program")
        return BuiltEngine(HEADER + graph.read_bytes(), ("one note",))

    def open(self, plan: bytes, recipe: EngineRecipe) -> Backend:
        """Open the graph in a plan."""
        self.dla_cores.append(recipe.dla_core)
        if not plan.startswith(HEADER):
            raise EngineLoadError("The plan is of another version.")
        if self.is_gone or os.environ.get("STAND_IN_FAULT") == "open":
            raise EngineLoadError("There is no device.")
        (backend,) = open_onnx_backends(plan[len(HEADER) :], max_batch_size=recipe.max_batch_size)
        engine = StandInEngine(backend, is_wrong=os.environ.get("STAND_IN_FAULT") == "wrong")
        self.opened.append(engine)
        return engine


@dataclass(eq=False)
class StandInEngine:
    """An engine: the graph, or the graph with its answers turned around."""

    backend: Backend
    is_wrong: bool = False
    is_broken: bool = False
    num_runs: int = 0
    is_closed: bool = False

    @property
    def max_batch_size(self) -> int:
        """That of the graph."""
        return self.backend.max_batch_size

    def run(self, batch: Batch) -> tuple[Tensor, ...]:
        """Run the graph."""
        if self.is_broken:
            raise InferenceError("The device is lost.")
        self.num_runs += 1
        outputs = self.backend.run(batch)
        return tuple(output[..., ::-1].copy() for output in outputs) if self.is_wrong else outputs

    def close(self) -> None:
        """Close the graph."""
        self.is_closed = True
        self.backend.close()


def make_kit() -> StandInKit:
    """Return the toolkit, in whichever process."""
    return StandInKit(os.environ.get("STAND_IN_DEVICE", "stand-in 1"))
