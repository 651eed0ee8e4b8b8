"""`jetface bench`: real measurements, each in a process of its own, and what is said where there can be none."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jetface.cli.bench import CASES, Outcome, draw_plot, environ_of, machine, run_cases, to_markdown
from jetface.cli.main import main
from jetface.settings import Settings
from tests.support.drawn import draw_group, encode

STARTERS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_DOWNLOAD": "0"}


@pytest.fixture(autouse=True)
def starters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in {**STARTERS, "MODELS_DIR": str(tmp_path / "models")}.items():
        monkeypatch.setenv(name, value)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["bench", "--seconds", "0.3", *arguments])


def figures(rate: float = 10.0) -> dict[str, Any]:
    load = {
        "pictures_per_s": rate, "faces_per_s": 2 * rate, "mean_ms": 9.5, "p50_ms": 10.0, "p95_ms": 11.0, "p99_ms": 12.0,
        "stages_ms": {"decode": 1.0, "detect": 8.0, "attributes": 0.0},
    }  # fmt: skip
    return {
        "backends": {"starter_det": "onnxruntime-cpu"}, "load_s": 0.5, "first_ms": 50.0, "callers": 4,
        "one": load, "many": load,
        "cpu_ms_per_picture": 20.0, "peak_rss_mib": 200.0,
        "device": {"power_mode": "0 MAXN", "power_watts": {"VDD_GPU": 9.5}, "cores_online": {"": 12}},
    }  # fmt: skip


class TestMeasuring:
    def test_drawn_faces_are_measured_where_no_pictures_are_named(self) -> None:
        """Both with one caller and with several; the stages add up to what a caller waits for, or less."""
        result = run("--case", "onnxruntime-cpu", "--callers", "2", "--json")
        assert result.exit_code == 0, result.output
        (case,) = json.loads(result.stdout)["cases"]
        measured = case["figures"]
        assert measured["backends"] == {"starter_det": "onnxruntime-cpu", "starter_rec": "onnxruntime-cpu"}
        for load in (measured["one"], measured["many"]):
            assert load["pictures_per_s"] > 0
            assert load["faces_per_s"] >= load["pictures_per_s"]
            assert 0 < load["p50_ms"] <= load["p95_ms"] <= load["p99_ms"]
            assert load["stages_ms"]["detect"] > 0
        assert measured["peak_rss_mib"] > 50
        assert measured["cpu_ms_per_picture"] > 0

    def test_plates_are_measured_alone(self, shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """On drawn cars: detector, reader and the whole."""
        monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
        monkeypatch.setenv("PLATE_OCR_MODEL", "plate_ocr_cct_xs")
        result = run("--task", "plates", "--case", "onnxruntime-cpu", "--callers", "2")
        assert result.exit_code == 0, result.output
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in result.stdout.splitlines()]
        tables = [dict(zip(lines[at], lines[at + 2], strict=True)) for at in (2, lines.index([], 3) + 3)]
        rates, stages = tables
        assert float(rates["plates/s"]) >= float(rates["pictures/s"]) > 0
        assert rates["backends"] == "onnxruntime-cpu"
        assert float(rates["first picture, ms"]) > 0
        assert float(stages["detect"]) > 0
        assert float(stages["recognize"]) > 0
        assert float(stages["total"]) > float(stages["detect"]) + float(stages["recognize"])

    def test_pictures_of_a_folder_are_measured(self, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "group.png").write_bytes(encode(draw_group()))
        result = run("--measure", "onnxruntime-cpu", str(tmp_path / "photos"))
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["one"]["faces_per_s"] > 0

    def test_a_folder_without_pictures_is_one_line(self, tmp_path: Path) -> None:
        (outcome,) = run_cases(["onnxruntime-cpu"], [tmp_path], callers=1, seconds=0.1, build_timeout_s=60)
        assert (outcome.figures, outcome.reason) == (None, "no pictures found")

    def test_a_picture_that_cannot_be_read_is_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff no more")
        (outcome,) = run_cases(["onnxruntime-cpu"], [tmp_path], callers=1, seconds=0.1, build_timeout_s=60)
        assert outcome.figures is None
        assert "\n" not in outcome.reason
        assert outcome.reason

    def test_what_cannot_be_had_is_left_out_and_says_why(self) -> None:
        """And nothing measured at all is a failure."""
        result = run("--case", "tensorrt-fp16")
        assert result.exit_code == 1
        assert "- tensorrt-fp16 was not measured: BACKEND=tensorrt cannot be had." in result.stdout


class TestCases:
    @pytest.mark.parametrize("case", sorted(CASES))
    def test_a_case_is_settings_that_exist(self, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """They win over what the environment says by any name, and the rest of it stays."""
        monkeypatch.setenv("INFERENCE_BACKEND", "trt")
        monkeypatch.setenv("PORT", "1234")
        environ = environ_of(case)
        assert "INFERENCE_BACKEND" not in environ
        for name in list(environ):
            monkeypatch.setenv(name, environ[name])
        monkeypatch.delenv("INFERENCE_BACKEND")
        settings = Settings()
        assert settings.port == 1234
        assert case.startswith(settings.backend)


class TestReport:
    def test_cases_are_compared_with_one_of_them(self) -> None:
        outcomes = [Outcome("onnxruntime-cpu", figures(10)), Outcome("openvino-f32", figures(15))]
        text = "\n".join(to_markdown(machine(), outcomes))
        assert "| openvino-f32 | onnxruntime-cpu | 15.0 | 30.0 | 10.0 / 11.0 / 12.0 |" in text
        assert "| 1.50 |" in text
        assert "Baseline: onnxruntime-cpu." in text

    def test_stages_that_nothing_ran_in_are_left_out(self) -> None:
        text = "\n".join(to_markdown(machine(), [Outcome("tensorrt-fp16", figures())]))
        assert "| decode | detect |" in text
        assert "attributes" not in text
        assert "Baseline" not in text

    def test_the_state_of_the_device_is_told(self) -> None:
        text = "\n".join(to_markdown({"module": None}, [Outcome("tensorrt-fp16", figures())]))
        assert "power_mode 0 MAXN; power_watts VDD_GPU 9.5" in text

    def test_a_machine_is_named(self) -> None:
        here: Mapping[str, Any] = machine()
        assert here["cores"] >= 1
        assert here["python"] == ".".join(map(str, sys.version_info[:3]))

    def test_a_plot_is_a_picture(self, tmp_path: Path) -> None:
        path = tmp_path / "plot.png"
        draw_plot([Outcome("onnxruntime-cpu", figures()), Outcome("tensorrt-fp16", None, "none")], path)
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_a_plot_of_an_unknown_kind_is_one_line(self, tmp_path: Path) -> None:
        result = run("--case", "tensorrt-fp16", "--plot", str(tmp_path / "plot.abc"))
        assert result.exit_code == 1
        assert "plot.abc cannot be drawn" in result.output
