"""Small files that cost much memory: no more than was foreseen, and in a small container not that."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jetface.errors import ServiceError
from jetface.imaging.decode import Decoder
from jetface.imaging.formats import sniff
from jetface.imaging.loader import PictureLoader
from jetface.imaging.sources import EncodedPicture
from jetface.metrics import Metrics
from jetface.threads import Threads
from tests.support.bombs import bombs

MIB = 2**20
SLACK_BYTES = 12 * MIB
"""Of libraries' tables, threads and rounding."""
CONTAINER_BYTES = 512 * MIB
NUM_THREADS = 4
"""Each has an arena of its own."""


async def load_four(data: bytes, container_bytes: int) -> None:
    """Load a picture four times at once as a service in such a container does; refusals are fine."""
    share = container_bytes // 4 // 3
    with Threads(NUM_THREADS, "test") as threads:
        loader = PictureLoader(
            threads, max_image_pixels=50_000_000, budget_pixels=min(100_000_000, share), max_decode_pixels=share,
            accept_tiff=True, metrics=Metrics(),
        )  # fmt: skip

        async def load() -> None:
            async with loader.load(EncodedPicture(data), deadline=asyncio.get_running_loop().time() + 100):
                pass

        await asyncio.gather(*(load() for _ in range(4)), return_exceptions=True)


def peak_bytes() -> int:
    """Return the most memory this process has held."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def measure(path: Path, *, alone: bool) -> dict[str, int]:
    """Return what a decode was foreseen to take and took, and where it is not alone, what four in a container took."""
    data, decoder = path.read_bytes(), Decoder()
    header = sniff(data, max_pixels=50_000_000, accept_tiff=True)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = peak_bytes()
    if alone:
        with contextlib.suppress(ServiceError):
            decoder.decode(data, header)
    else:
        asyncio.run(load_four(data, CONTAINER_BYTES))
    return {"foreseen": 3 * decoder.cost(header).working_pixels, "took": peak_bytes() - before}


def in_child(path: Path, *, alone: bool) -> dict[str, int]:
    """Measure in a process of its own, whose memory nothing else has touched."""
    code = (
        f"import sys; from pathlib import Path; from tests.e2e.imaging.test_bombs import measure; import json; "
        f"print(json.dumps(measure(Path({str(path)!r}), alone={alone})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    figures: dict[str, int] = json.loads(done.stdout)
    return figures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the pictures are."""
    made = tmp_path_factory.mktemp("bombs")
    for name, data in bombs().items():
        (made / name).write_bytes(data)
    return made


@pytest.mark.timeout(400)
def test_a_decode_takes_what_was_foreseen(folder: Path) -> None:
    measured = {path.name: in_child(path, alone=True) for path in sorted(folder.iterdir())}
    over = {name: each for name, each in measured.items() if each["took"] > each["foreseen"] + SLACK_BYTES}
    assert over == {}


@pytest.mark.timeout(400)
def test_four_at_once_take_a_quarter_of_a_small_container(folder: Path) -> None:
    """The rest is the service's own; each is refused, or decoded when there is room."""
    measured = {path.name: in_child(path, alone=False) for path in sorted(folder.iterdir())}
    over = {
        name: each for name, each in measured.items() if each["took"] > CONTAINER_BYTES // 4 + NUM_THREADS * SLACK_BYTES
    }
    assert over == {}
