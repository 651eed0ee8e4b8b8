"""Writes the client for threads, `client.py`, from the one for asyncio: `python clients/python/unasync.py`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "jetface_client"
TARGET = PACKAGE / "client.py"

_SENTENCES = (
    ("The client for asyncio.", "The client for threads. `unasync.py` writes it from `async_client.py`: change that."),
    (
        "Belongs to one event loop; it keeps its connections. Close it, or `async with` it.",
        "Thread-safe; connections are kept and shared. Close it, or use it in a `with` block.",
    ),
    (
        (
            " Who leaves early\n            does so inside `contextlib.aclosing`, "
            "which ends the requests in flight at once."
        ),
        "",
    ),
    ("import AsyncGenerator, AsyncIterator, Callable, Iterable,", "import Callable, Generator, Iterable, Iterator,"),
    (
        (
            "        with new_file(path) as write:\n"
            "            async with aclosing(self._stream(self._calls.export_path)) as pieces:\n"
            "                async for piece in pieces:\n"
            "                    await in_thread(write, piece)\n"
        ),
        (
            "        with new_file(path) as write, closing(self._stream(self._calls.export_path)) as pieces:\n"
            "            for piece in pieces:\n"
            "                write(piece)\n"
        ),
    ),
    (
        "                async for piece in answer.aiter_bytes():\n                    yield piece\n",
        "                yield from answer.iter_bytes()\n",
    ),
    ("            async for item in files:\n                yield item\n", "            yield from files\n"),
    ("            for person in page.items:\n                yield person\n", "            yield from page.items\n"),
    ("            for face in page.items:\n                yield face\n", "            yield from page.items\n"),
)
"""What the two say differently."""

_WORDS = (
    (r"\bAsyncGenerator\[(.+), None\]", r"Generator[\1, None, None]"),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Client|Collections|Collection|Flights|Iterator)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\baclos(e|ing)\b", r"clos\1"),
    (r"\baread\b", "read"),
    (r"\bin_thread\b", "here"),
    (r"\bpause\b", "wait"),
)


def sync_source() -> str:
    """Return what `client.py` has to be.

    Raises:
        ValueError: A sentence is not there that the two say differently.
    """
    source = (PACKAGE / "async_client.py").read_text(encoding="utf-8")
    for said, instead in _SENTENCES:
        if said not in source:
            raise ValueError(f"async_client.py does not say: {said}")
        source = source.replace(said, instead)
    for pattern, replacement in _WORDS:
        source = re.sub(pattern, replacement, source)
    command = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(TARGET), "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout  # noqa: S603 - ours


if __name__ == "__main__":
    TARGET.write_text(sync_source(), encoding="utf-8")
