"""Every bomb, four at a time, to a service that may have 512 MiB: a control group of its own, which needs root.

Wanted: refused, or answered; nothing is killed, and health answers throughout.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.bombs import bombs
from tests.support.encoded import encode, smooth_image
from tests.support.server import running_server

_LIMIT_BYTES = 512 * 2**20
_AT_ONCE = 4
_ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@contextmanager
def _control_group() -> Iterator[tuple[Path, Path]]:
    """Make a group that may have so much memory; yield it, and the file that tells the most it had."""
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else Path("/sys/fs/cgroup")) / "jetface-chaos"
    group.mkdir()
    try:
        names = (
            ("memory.limit_in_bytes", "memory.max_usage_in_bytes") if first.is_dir() else ("memory.max", "memory.peak")
        )
        (group / names[0]).write_text(str(_LIMIT_BYTES), encoding="ascii")
        yield group, group / names[1]
    finally:
        group.rmdir()


def _num_killed(group: Path) -> int:
    for name in ("memory.oom_control", "memory.events"):
        if (group / name).exists():
            lines = (group / name).read_text(encoding="ascii").splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    raise FileNotFoundError(group)


def run() -> list[dict[str, object]]:
    """Send each bomb; one row a bomb."""
    rows: list[dict[str, object]] = []
    models = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "ACCEPT_TIFF": "1"}
    with (
        tempfile.TemporaryDirectory() as folder,
        _control_group() as (group, peak),
        running_server(Path(folder), models, prefix=("sh", "-c", _ENTER, str(group))) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):

        def send(data: bytes) -> str:
            answer = client.post("/extract", content=data, headers={"content-type": "application/octet-stream"})
            slot = answer.json().get("data", [{}])[0] if answer.status_code == 200 else {}
            return str(slot.get("status", answer.status_code))

        send(encode(".jpg", smooth_image(480, 640)))  # loads the models
        for name, data in bombs().items():
            answers = [pool.submit(send, data) for _ in range(_AT_ONCE)]
            health_ms = client.get("/health/live").elapsed.total_seconds() * 1e3
            counted = Counter(each.result() for each in answers)
            rows.append({
                "bomb": name, "KiB": len(data) // 1024,
                "answers": ", ".join(f"{count} {what}" for what, count in counted.items()),
                "health, ms": health_ms, "most so far, MiB": int(peak.read_text(encoding="ascii")) // 2**20,
                "killed": _num_killed(group),
            })  # fmt: skip
        if server.process.poll() is not None:
            raise RuntimeError(server.read_log())
    return rows
