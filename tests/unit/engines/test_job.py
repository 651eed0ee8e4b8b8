"""What a building process is told and tells survives the way through a file and a pipe."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jetface.engines.build import load_kit, run_job_file
from jetface.engines.job import JOB, REPORT, Accepted, Rejected, Step
from jetface.engines.plan import PlanRecord
from jetface.errors import EngineBuildError
from tests.support import stand_in_kit
from tests.support.engine_jobs import tiny_job
from tests.support.recipes import recipe_of

RECORD = PlanRecord.of(recipe_of([]), b"p", verdict="v", notes=("n",), build_s=1)


def test_a_job_is_read_as_it_was_written(tmp_path: Path) -> None:
    job = tiny_job(tmp_path)
    assert JOB.validate_json(JOB.dump_json(job)) == job


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff\x00"])
def test_what_is_no_job_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "job.json").write_bytes(content)
    with pytest.raises(EngineBuildError):
        run_job_file(tmp_path / "job.json", 0)


@pytest.mark.parametrize(
    "report",
    [
        Step(state="building", phase="a\nphase"),
        Accepted(record=RECORD, is_kept=True),
        Rejected(reason="\N{SNOWMAN}"),
    ],
)
def test_a_report_is_one_line_and_comes_out_as_it_went_in(report: Step | Accepted | Rejected) -> None:
    line = REPORT.dump_json(report)
    assert b"\n" not in line
    assert REPORT.validate_json(line) == report


@given(st.binary())
def test_anything_else_is_no_report(line: bytes) -> None:
    with pytest.raises(ValidationError):
        REPORT.validate_json(line)


@pytest.mark.parametrize("path", ["", "nothing", "jetface.errors:nothing", "no.such.module:make", "jetface.errors:"])
def test_a_toolkit_that_is_not_there_is_said(path: str) -> None:
    with pytest.raises(EngineBuildError, match="no toolkit"):
        load_kit(path)


def test_a_toolkit_is_made_by_the_function_that_is_named() -> None:
    assert load_kit(stand_in_kit.FACTORY).name == "stand-in"
