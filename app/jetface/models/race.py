"""Which of several ways to run a model is the fastest here: a race when it is loaded, whose verdict is kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import structlog

from jetface.atomic import whole_file
from jetface.domain import Blob
from jetface.runtimes.backend import Backend

_MOST_TURNS = 20

_BUDGET_S = 0.4
"""No turn is begun after this much time. With the runs before the clock starts and a last turn this is 0.8 s for two
backends that take 100 ms a run each."""

LEAST_GAIN = 1.05
"""The first backend is left only for one this many times as fast: less is noise."""

LEAST_GAIN_OF_FREE_CANVAS = 1.3
"""As `LEAST_GAIN`, where canvases vary: the measurement does not, and OpenVINO pays for each change of size."""

_KEY_DIGITS = 16

_log = structlog.get_logger(__name__)


def make_blob(input_hw: tuple[int, int]) -> Blob:
    """Return one item of noise: kernels take as long for it as for a picture."""
    return np.random.default_rng(0).standard_normal((1, 3, *input_hw)).astype(np.float32)


def measure_ms(backends: Mapping[str, Backend], blob: Blob) -> dict[str, float]:
    """Let backends take turns at one blob and return the least time of each: other work can only add to a time.

    A median would mostly tell how busy the cores were, and chose wrongly on a machine whose cores all were.

    Raises:
        InferenceError: One of them does not run.
    """
    for backend in backends.values():
        backend.run(blob)
    times_ms: dict[str, list[float]] = {name: [] for name in backends}
    started = time.perf_counter()
    for _ in range(_MOST_TURNS):
        for name, backend in backends.items():
            run_started = time.perf_counter()
            backend.run(blob)
            times_ms[name].append(1e3 * (time.perf_counter() - run_started))
        if time.perf_counter() - started > _BUDGET_S:
            break
    return {name: min(times) for name, times in times_ms.items()}


def fastest(times_ms: Mapping[str, float], *, least_gain: float = LEAST_GAIN) -> str:
    """Return the name of the fastest; the first one unless another gains enough to be worth it.

    Args:
        times_ms: Milliseconds by name, in order of preference, at least one.
        least_gain: How many times as fast as the first another has to be.
    """
    names: Sequence[str] = list(times_ms)
    best = min(names, key=lambda name: times_ms[name])
    return best if times_ms[best] * least_gain < times_ms[names[0]] else names[0]


class Verdicts:
    """Who won which race, in files of a folder. Safe for several processes: each file appears whole.

    There is one file for a model and those who take part on a machine; another race among them replaces it.
    """

    def __init__(self, folder: Path) -> None:
        """Keep them in `folder`, which need not exist."""
        self._folder = folder

    def recall(self, model: str, entrants: Sequence[str], files: Sequence[str]) -> str | None:
        """Return who won a race; None where it was never run, or nobody can tell.

        Args:
            model: The model's name.
            entrants: The machine and who takes part, in order of preference.
            files: What tells the files they opened from others.
        """
        try:
            kept = json.loads(self._path(model, entrants).read_bytes())
            is_same = (kept["entrants"], kept["files"]) == (list(entrants), list(files))
            return str(kept["fastest"]) if is_same else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as cause:
            _log.warning("verdict of a race is unreadable; it is run again", model=model, reason=repr(cause))
            return None

    def keep(self, model: str, entrants: Sequence[str], files: Sequence[str], name: str) -> None:
        """Write down who won; where the folder cannot be written, the next load runs the race again."""
        verdict = json.dumps({"fastest": name, "entrants": list(entrants), "files": list(files)}, indent=2)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with whole_file(self._path(model, entrants)) as file:
                file.write(verdict.encode())
        except OSError as cause:
            _log.info("verdict of a race is not kept: the folder cannot be written", model=model, reason=cause.strerror)

    def _path(self, model: str, entrants: Sequence[str]) -> Path:
        digest = hashlib.sha256("\n".join(entrants).encode()).hexdigest()[:_KEY_DIGITS]
        return self._folder / f"{model}-{digest}.fastest.json"
