"""The size of the code: modules, lines, what a request passes through, words of documentation. `make house` prints it.

python -m tests.bench.house --test-quick --calls
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import CodeType, FrameType

import click
import uvicorn

import jetface
from jetface.cli.serve import uvicorn_options
from jetface.main import create_app
from jetface.settings import Settings
from tests.bench.client import post, read_answer
from tests.bench.host import picture, write_models
from tests.support.shared import REPOSITORY

PACKAGE = Path(jetface.__file__).parent
"""Whose calls are counted."""

_LOOP_THREAD = "event loop"

NUM_REQUESTS = 20
"""The first ones warm; the least of the others is what a request needs."""

ADDED = {
    "a gallery": ("gallery/*.py", "api/collection*.py", "cli/gallery.py"),
    "routes of CompreFace and Immich": ("api/compreface.py", "api/immich.py"),
    "licence plates": ("*/plates.py", "heads/plate_ocr.py", "heads/yolo.py", "graphs/exports.py"),
    "jetface find, group, bulk and evaluate": ("cli/find.py", "cli/group.py", "cli/bulk.py", "cli/evaluate.py"),
    "HEIC and AVIF": ("imaging/heif.py",),
    "INT8": ("graphs/int8.py",),
    "answers from memory": ("pipeline/recall.py",),
    "traces": ("server/tracing.py",),
    "examples in OpenAPI": ("api/examples.py",),
}
"""Features that did not exist when the table was made, and the modules that hold nothing else, below the package.

What such a feature has in a module that existed, in whatever form, counts as core.
"""

BEFORE_AND_AIM = {
    "modules without __init__, core": ("239", "110"),
    "- added since": ("", ""),
    "- in all": ("", ""),
    "lines of Python, core": ("27,065", "19,000"),
    "- lines added since": ("", ""),
    "- lines in all": ("", ""),
    "a warm /extract of one face: files": ("63", ""),
    "- functions": ("288", ""),
    "- calls": ("519", "300"),
    "- files, on the event loop": ("49", "30"),
    "- calls, on the event loop": ("376", ""),
    "words of docs": ("34,734", "22,000"),
    "seconds of make test-quick": ("-", "60"),
}
"""What this program counted before modules were merged, and what is aimed at, for what the product did then."""


@dataclass(slots=True)
class Passage:
    """What one request passed through of our own code, on any thread."""

    calls: list[tuple[CodeType, bool]] = field(default_factory=list)
    """What was called, and whether on the event loop. A coroutine that goes on after an await is not called again."""

    def num_functions(self) -> int:
        """Count functions, each once."""
        return len({code for code, _ in self.calls})

    def num_files(self, *, on_loop: bool = False) -> int:
        """Count the files of these functions, or of those called on the event loop."""
        return len({code.co_filename for code, is_on_loop in self.calls if is_on_loop >= on_loop})

    def num_calls_on_loop(self) -> int:
        """Count the calls on the event loop."""
        return sum(is_on_loop for _, is_on_loop in self.calls)

    def lines(self) -> Iterator[str]:
        """Tell each function, those of a file together: how often it was called, and on which kind of thread."""
        counts = Counter(
            (Path(code.co_filename).relative_to(PACKAGE).as_posix(), not is_on_loop, code.co_firstlineno, code.co_name)
            for code, is_on_loop in self.calls
        )
        for (file, is_elsewhere, line, name), count in sorted(counts.items()):
            yield f"{count:>4} {'thread' if is_elsewhere else 'loop  '} {file}:{line} {name}"


class CallCounter:
    """A profile function that notes calls into the package while it is on."""

    def __init__(self) -> None:
        self._folder = f"{PACKAGE}/"
        self._passage: Passage | None = None

    def __call__(self, frame: FrameType, event: str, _arg: object) -> None:
        """Note a call; what `sys.setprofile` takes."""
        passage, code = self._passage, frame.f_code
        if passage is not None and event == "call" and code.co_filename.startswith(self._folder) and _begins(frame):
            passage.calls.append((code, threading.current_thread().name == _LOOP_THREAD))

    @contextmanager
    def counting(self) -> Iterator[Passage]:
        """Note what is called while inside."""
        self._passage = passage = Passage()
        try:
            yield passage
        finally:
            self._passage = None


def _begins(frame: FrameType) -> bool:
    """Tell a call from a generator or coroutine that goes on: the argument of RESUME says so, from Python 3.11 on."""
    if sys.version_info < (3, 11):
        return frame.f_lasti < 0
    return frame.f_code.co_code[frame.f_lasti + 1] & 3 == 0


@contextmanager
def serving(folder: Path, counter: CallCounter) -> Iterator[int]:
    """Serve in this process, threads profiled by `counter`; yield the port. Graphs that cost nothing, one face."""
    write_models(folder)
    settings = Settings(
        models_dir=folder, det_model="green", rec_model="sums", backend="onnxruntime", model_preload=True,
        log_level="WARNING",
    )  # fmt: skip
    server = uvicorn.Server(uvicorn.Config(lambda: create_app(settings), factory=True, **uvicorn_options(settings)))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        threading.setprofile(counter)
        thread = threading.Thread(target=server.run, name=_LOOP_THREAD, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(60)
            threading.setprofile(None)


async def passages(port: int, counter: CallCounter) -> list[Passage]:
    """Send the same picture again and again on one connection, and count on the way."""
    request = post("/extract?threshold=0.5", picture(), "image/jpeg")
    found = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for _ in range(NUM_REQUESTS):
        with counter.counting() as passage:
            writer.write(request)
            status, body, _ = await read_answer(reader)
            # What follows the answer, a log line say, is part of the request.
            await asyncio.sleep(0.05)
        if status != 200 or body.count(b'"bbox"') != 1:
            raise click.ClickException(f"{status}: {body[:200]!r}")
        found.append(passage)
    writer.close()
    return found


def warm_passage() -> Passage:
    """Return the least of what the requests after the first half passed through."""
    counter = CallCounter()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), counter) as port:
        _wait_until_listening(port)
        found = asyncio.run(passages(port, counter))
    return min(found[NUM_REQUESTS // 2 :], key=lambda passage: len(passage.calls))


def _wait_until_listening(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        time.sleep(0.05)
    raise click.ClickException("the service did not start")


def core_added_all(paths: Sequence[Path], added: AbstractSet[Path], size: Callable[[Path], int]) -> list[int]:
    """Return the summed size of modules: of those not in `added`, of those in it, of all."""
    in_all, in_added = (sum(size(path) for path in each) for each in (paths, added))
    return [in_all - in_added, in_added, in_all]


def added_modules() -> set[Path]:
    """Return the modules of `ADDED`.

    Raises:
        click.ClickException: A pattern names none.
    """
    found: set[Path] = set()
    for pattern in chain.from_iterable(ADDED.values()):
        modules = set(PACKAGE.glob(pattern))
        if not modules:
            raise click.ClickException(f"no module is {pattern}: ADDED of {__file__} is out of date")
        found |= modules
    return found


def test_quick_s() -> float:
    """Run `make test-quick`, and return how long it took, seconds."""
    started = time.monotonic()
    subprocess.run(["make", "test-quick"], cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


@click.command()
@click.option("--test-quick", "with_tests", is_flag=True, help="Run the quick tests, too.")
@click.option("--calls", "with_calls", is_flag=True, help="Print each function that the request calls, too.")
def main(*, with_tests: bool, with_calls: bool) -> None:
    """Print the table."""
    modules, added = sorted(PACKAGE.rglob("*.py")), added_modules()
    passage = warm_passage()
    now = [
        *core_added_all(modules, added, lambda path: path.name != "__init__.py"),
        *core_added_all(modules, added, lambda path: len(path.read_bytes().splitlines())),
        passage.num_files(),
        passage.num_functions(),
        len(passage.calls),
        passage.num_files(on_loop=True),
        passage.num_calls_on_loop(),
        sum(len(path.read_text(encoding="utf-8").split()) for path in (REPOSITORY / "docs").rglob("*.md")),
        *([test_quick_s()] if with_tests else []),
    ]
    click.echo(f"| {'':<34} | before | at most | now    |\n|---|---|---|---|")
    for (what, (before, aim)), count in zip(BEFORE_AND_AIM.items(), now, strict=False):
        click.echo(f"| {what:<34} | {before:>6} | {aim:>7} | {count:>6,.0f} |")
    if with_calls:
        click.echo("\n".join(["", *passage.lines()]))


if __name__ == "__main__":
    main()
