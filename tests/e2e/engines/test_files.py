"""Plans on a disk that is full."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.shared import REPOSITORY


def test_a_disk_that_is_full_is_no_failure_and_leaves_no_half_of_a_plan(tmp_path: Path) -> None:
    """The kernel's limit on the length of a file stands in for the disk: the write ends in the middle."""
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from jetface.engines.plan import PlanFolder, PlanRecord\n"
        "from tests.support.recipes import recipe_of\n"
        "recipe = recipe_of([])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "folder = PlanFolder(Path(sys.argv[1]))\n"
        "plan = b'x' * 200_000\n"
        "assert not folder.keep(plan, PlanRecord.of(recipe, plan, verdict='good', build_s=1))\n"
        "assert folder.find(recipe) is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "not kept" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
