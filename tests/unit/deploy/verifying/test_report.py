"""The report: every claim a row, whatever was found; and where facts come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner

from verifying.claims import read_claims
from verifying.commands import verify
from verifying.facts import read_facts
from verifying.report import write_report
from verifying.soak import curves

POINTS = [
    {
        "minute": number / 2, "rss_bytes": 1.5e9, "available_bytes": 50e9, "celsius": 61.5, "throttled": 0.0,
        "gpu_hertz": 1.3005e9, "gpu_load": 0.97, "watts": 38.2,
    }
    for number in range(60)
]  # fmt: skip

BENCH_CASE = {
    "callers": 4, "one": {"p50_ms": 8.0, "p99_ms": 9.0}, "many": {"pictures_per_s": 150.0, "faces_per_s": 300.0},
    "peak_rss_mib": 900.0,
}  # fmt: skip

PLATES_CASE = {**BENCH_CASE, "many": {"pictures_per_s": 120.0, "plates_per_s": 240.0}}


def board() -> dict[str, Any]:
    """What a Jetson leaves on which everything is as it should be."""
    started = {
        "seconds_to_live": 6.0, "seconds_to_answer": 40.0, "seconds_to_engines": 400.0, "engines_serve": True,
        "engines": {"glintr100": "serving"}, "backends": {"glintr100": "tensorrt"}, "rejected": {},
        "build_seconds": 380.0, "readings": 7, "version": "0.1.0",
        "device": {"module": "Jetson AGX Orin", "gpu": "integrated"},
    }  # fmt: skip
    return {
        "run": {"mode": "docker", "started": "2026-11-22 10:00 UTC", "revision": "abc", "image": "built here"},
        "doctor": {
            "jetface": "0.1.0", "verdict": "would start", "would_start": True,
            "machine": {
                "architecture": "aarch64", "jetson": {"module": "Jetson AGX Orin", "power_mode": "0 MAXN"},
                "cores": {"online": 12, "present": 12}, "memory_bytes": {"free": 55e9},
            },
            "software": {"tensorrt": "TensorRT 10.3.0", "packages": {"numpy": "1.26.4"}},
            "findings": [{"severity": "note", "name": "clocks-vary", "what": "They vary.", "cure": "jetson_clocks"}],
        },
        "build": {"seconds": 700, "image_bytes": 14e9},
        "start": started,
        "answers": {"worst_iou": 0.99, "worst_cosine": 0.999, "faces_only_one_found": 0, "golden": {"is_met": True}},
        "engines": {"passed": True, "verdicts": ["glintr100  fp16  passed  cosine 0.99997"], "faults": []},
        "speed": {"detect_ms": 5.0, "recognize_ms_per_face": 1.9, "one_face_ms": 10.0, "crowd_ms_per_face": 2.4},
        "bench": {
            "cases": [
                {"name": "tensorrt-fp16", "figures": BENCH_CASE, "reason": None},
                {"name": "openvino-f32", "figures": None, "reason": "no OpenVINO"},
            ]
        },
        "plates": {"cases": [{"name": "tensorrt-fp16", "figures": PLATES_CASE, "reason": None}]},
        "soak": {
            "minutes": 30.0, "num_callers": 4, "requests": 9000, "requests_per_s": 5.0, "refused": 0, "failed": 0,
            "reason": None, "p50_ms": 12.0, "p99_ms": 20.0, "points": POINTS, **curves(POINTS, is_judged=True),
        },
        "drain": {"answered": 20, "refused": 4, "closed": 0, "lost": 0, "failed": 0},
        "stop": {"exit_code": 0, "seconds": 1.5},
        "restart": {**started, "seconds_to_answer": 12.0, "build_seconds": 0},
    }  # fmt: skip


def leave(folder: Path, found: dict[str, Any]) -> Path:
    for step, facts in found.items():
        (folder / f"{step}.json").write_text(json.dumps(facts))
    return folder


def rows_of(page: str) -> dict[str, list[str]]:
    """Cells of the table of claims, by id."""
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in page.splitlines() if "|" in line]
    ids = {claim.id for claim in read_claims()}
    return {row[-1]: row for row in cells if row[-1] in ids}


class TestReport:
    def test_on_a_good_board_every_claim_of_ours_passes(self, tmp_path: Path) -> None:
        page, is_good = write_report(read_claims(), read_facts(leave(tmp_path, board())))
        rows = rows_of(page)
        assert is_good
        assert set(rows) == {claim.id for claim in read_claims()}
        for claim in read_claims():
            wanted = {"not run"} if claim.by else {"**pass**", "figure"}
            assert rows[claim.id][1] in wanted, rows[claim.id]
        assert rows["memory-8"][2] == "5 GB"
        assert rows["engines-kept"][2] == "yes"
        assert rows["bench"][2] == "150 pictures/s"
        assert rows["plates-100"][2] == "120 pictures/s"
        assert "**No claim failed**" in page
        assert "| 0.00 | 1500 | 50000 | 61.5 | 1300 | 97 | 38.2 | 0 |" in page
        for told in ("Jetson AGX Orin", "0 MAXN", "12, 12", "cosine 0.99997", "`clocks-vary`", "no OpenVINO", "numpy"):
            assert told in page

    def test_a_miss_fails_the_page_and_names_the_documents(self, tmp_path: Path) -> None:
        found = board()
        found["soak"]["rss_growth_percent"] = 3.5
        found["restart"]["build_seconds"] = 200.0
        page, is_good = write_report(read_claims(), read_facts(leave(tmp_path, found)))
        rows = rows_of(page)
        assert not is_good
        assert [name for name, row in rows.items() if row[1] == "**fail**"] == ["engines-kept", "leak-process"]
        assert "`docs/status.md`" in rows["leak-process"][3]
        assert "**FAILED**: " in page

    def test_memory_that_others_gave_back_is_not_taken_off(self, tmp_path: Path) -> None:
        found = board()
        found["doctor"]["machine"]["memory_bytes"]["free"] = 49e9
        page, _ = write_report(read_claims(), read_facts(leave(tmp_path, found)))
        assert rows_of(page)["memory-8"][2] == "1.5 GB"

    def test_what_went_wrong_is_told(self, tmp_path: Path) -> None:
        found = board()
        found["start"]["rejected"] = {"glintr100": "cosine 0.5"}
        found["engines"] = {"passed": False, "verdicts": ["glintr100  FAILED"], "faults": ["cosine | 0.5"]}
        found["answers"]["golden"] = {"is_met": False, "faults": ["a.jpg: 1 faces, not 2"]}
        found["soak"] |= {"reason": "503 overloaded", **curves(POINTS, is_judged=False)}
        page, _ = write_report(read_claims(), read_facts(leave(tmp_path, found)))
        for told in (
            "engine of glintr100 rejected: cosine 0.5",
            "a.jpg: 1 faces, not 2",
            "503 overloaded",
            "Too short",
            "240.0 plates/s",
        ):
            assert told in page
        assert rows_of(page)["leak-process"][1] == "not run"

    def test_nothing_but_a_run_is_a_page_as_well(self, tmp_path: Path) -> None:
        page, is_good = write_report(read_claims(), read_facts(leave(tmp_path, {"run": {"mode": "url"}})))
        assert is_good
        assert {row[1] for row in rows_of(page).values()} == {"not run"}


class TestFacts:
    def test_a_step_that_left_no_json_has_its_last_words(self, tmp_path: Path) -> None:
        leave(tmp_path, board())
        (tmp_path / "soak.json").write_text("")
        (tmp_path / "soak.log").write_text("starting\nError: /metrics is not answered\n")
        (tmp_path / "drain.json").write_text('"text"')
        facts = read_facts(tmp_path)
        assert facts["soak"] == {"not_run": "/metrics is not answered", "failed": True}
        assert facts["drain"] == {"not_run": "the step left nothing", "failed": True}

    def test_the_command_prints_the_page_and_says_by_its_exit_code_how_it_went(self, tmp_path: Path) -> None:
        leave(tmp_path, board())
        good = CliRunner().invoke(verify, ["report", str(tmp_path)])
        assert (good.exit_code, good.stdout.splitlines()[0]) == (0, "# jetface, verified")
        (tmp_path / "stop.json").write_text('{"exit_code": 137, "seconds": 30.0}')
        bad = CliRunner().invoke(verify, ["report", str(tmp_path)])
        assert bad.exit_code == 1
        assert "| **fail** | 137 |" in bad.stdout

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClickException, match="has no facts"):
            read_facts(tmp_path)
