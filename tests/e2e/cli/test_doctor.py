"""`jetface doctor`: a report that can be pasted into an issue, whatever is wrong with the machine."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from jetface.cli import doctor as examination
from jetface.cli.main import main
from jetface.engines.plan import PlanFolder, PlanRecord
from jetface.runtimes.engine_kit import profiles_for
from jetface.settings import Settings
from tests.support import machines
from tests.support.file_server import Answer, file_server
from tests.support.recipes import recipe_of

SECTIONS = ("Findings", "Machine", "Software", "Backend", "Models", "Engines", "Settings")

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command on a machine with these files."""
    monkeypatch.setenv("MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("MODEL_DOWNLOAD", "0")
    monkeypatch.setenv("BACKEND", "onnxruntime")
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.setenv("API_KEYS", "k")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PORT", str(listener.getsockname()[1]))

    def invoke(*arguments: str, files: Mapping[str, str] = machines.PLAIN) -> Result:
        root = machines.plant(tmp_path / "root", files)
        return CliRunner().invoke(main, ["doctor", "--root", str(root), *arguments])

    return invoke


@pytest.fixture
def port_in_use(monkeypatch: pytest.MonkeyPatch, run: Run) -> Any:
    """Somebody listens where the service would."""
    del run
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("PORT", str(listener.getsockname()[1]))
        yield


def test_where_all_is_well(run: Run) -> None:
    result = run()
    assert result.exit_code == 0
    assert "would start.**" in result.stdout.splitlines()[2]
    assert "## Findings\n\nNone.\n" in result.stdout


def test_every_section_is_there(run: Run) -> None:
    output = run().stdout
    assert [line[3:] for line in output.splitlines() if line.startswith("## ")] == list(SECTIONS)
    assert "Not to be had" not in output


def test_json_holds_all_of_it(run: Run) -> None:
    report = json.loads(run("--json").stdout)
    assert report["missing"] == {}
    assert report["machine"]["cores"]["present"] == 4
    assert report["backend"]["chosen"] == "onnxruntime-cpu"
    assert {model["name"] for model in report["models"] if model["in_use"]} == {"starter_det", "starter_rec"}
    assert len(report["settings"]) == len(Settings.model_fields)


def test_secrets_are_masked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEYS", "hunter2")
    monkeypatch.setenv("MODEL_MIRROR", "https://me:hunter3@models.example/faces")
    for arguments in ((), ("--json",)):
        assert "hunter" not in run(*arguments).stdout


def test_a_jetson_is_told_in_one_line(run: Run) -> None:
    output = run(files=machines.ORIN_30W).stdout
    for part in ("NVIDIA Jetson AGX Orin Developer Kit", "L4T 36.4.3", "power mode 2 MODE_30W", "driver 540.4.0"):
        assert part in output.splitlines()[2]
    assert "`power-mode`" in output
    assert "  Mend: On the host" in output


@pytest.mark.parametrize(
    ("files", "module", "release"),
    [
        (machines.ORIN, "AGX Orin", "36.4.3"),
        (machines.ORIN_R36_5, "AGX Orin", "36.5.0"),
        (machines.ORIN_R39, "AGX Orin", "39.2.0"),
        (machines.THOR, "AGX Thor", "39.2.0"),
    ],
    ids=["R36.4", "R36.5", "R39.2", "Thor"],
)
def test_every_jetson_is_told_with_its_release(run: Run, files: Mapping[str, str], module: str, release: str) -> None:
    report = json.loads(run("--json", files=files).stdout)
    assert module in report["machine"]["jetson"]["module"]
    assert report["machine"]["jetson"]["l4t_release"] == release
    assert report["machine"]["gpu"]["is_integrated"] is True
    assert {each["name"] for each in report["findings"]} <= {"cpu-only-runtime", "cores-offline"}


def test_a_warning_starts_and_says_that_it_could_be_more(run: Run) -> None:
    result = run(files=machines.SERVER_WITHOUT_TOOLKIT)
    assert result.exit_code == 0
    assert "would start, with less than it could.**" in result.stdout
    assert "`gpu-unreachable`" in result.stdout


def test_what_stops_the_service_is_exit_code_3(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "192.0.2.1")
    result = run()
    assert result.exit_code == 3
    assert "would not start.**" in result.stdout
    assert "**stop**, `address-unusable`" in result.stdout


def test_beside_the_running_service_its_port_is_no_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_server({"/health/live": Answer(b'{"status": "alive"}')}) as service:
        monkeypatch.setenv("PORT", service.url.rpartition(":")[2])
        result = run()
    assert result.exit_code == 0
    assert "**note**, `port-in-use`" in result.stdout


def test_somebody_elses_port_is_a_fault(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with file_server({"/health/live": Answer(b"[]")}) as other:
        monkeypatch.setenv("PORT", other.url.rpartition(":")[2])
        result = run()
    assert result.exit_code == 3
    assert "**stop**, `port-in-use`" in result.stdout


def test_a_service_that_is_open_to_all_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEYS")
    result = run()
    assert result.exit_code == 0
    assert "open to all: no API_KEYS" in result.stdout


@pytest.mark.parametrize("name", ["API_KEY", "APIKEYS", "JETFACE_API_KEY", "Api_Key"])
def test_a_variable_that_is_nearly_ours_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """And its value, which may be a key, is not."""
    monkeypatch.setenv(name, "hunter2")
    for arguments in ((), ("--preflight",)):
        result = run(*arguments)
        assert result.exit_code == 0
        assert f"{name} is set, and means nothing here." in result.output
        assert "API_KEYS was probably meant" in result.output
        assert "hunter2" not in result.output


REFUSED = {
    "unknown model": ({"DET_MODEL": "nobody"}, "DET_MODEL='nobody' is not allowed"),
    "model of another task": ({"REC_MODEL": "starter_det"}, "REC_MODEL='starter_det' is not allowed"),
    "model whose entry cannot be read": ({"DET_MODEL": "broken"}, "broken.toml"),
    "backend that is not here": ({"BACKEND": "tensorrt"}, "tensorrt"),
    "provider that is not here": ({"ORT_PROVIDERS": "migraphx"}, "ORT_PROVIDERS"),
    "setting that is no value": ({"PORT": "http"}, "PORT='http' is not allowed"),
    "gallery that cannot be": ({"GALLERY_DIR": "/proc/none"}, "no folder that may be written"),
    "address of another machine": ({"HOST": "192.0.2.1"}, "192.0.2.1"),
}
"""What the service does not start with."""

COMMANDS = [("doctor",), ("doctor", "--json"), ("doctor", "--preflight"), ("serve", "--dry-run")]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize(
    "arguments", [("doctor",), ("doctor", "--json"), ("doctor", "--preflight"), ("serve", "--dry-run")]
)
def test_all_commands_agree_on_what_does_not_start(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, case: str, arguments: tuple[str, ...]
) -> None:
    del run  # its environment is wanted
    variables, said = REFUSED[case]
    (tmp_path / "models").mkdir()
    (tmp_path / "models/broken.toml").write_text('name = "broken"\nthis is no TOML')
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 3
    assert said in result.output
    assert "Traceback" not in result.output


def test_a_folder_of_pictures_that_is_none_is_told(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ROOT_IMAGES_DIR", str(tmp_path / "none"))
    result = run()
    assert result.exit_code == 0
    assert f"ROOT_IMAGES_DIR={tmp_path / 'none'} is no folder." in result.stdout
    (tmp_path / "none").mkdir()
    assert "ROOT_IMAGES_DIR" not in run("--preflight").output


@pytest.mark.parametrize("arguments", COMMANDS)
def test_all_commands_agree_on_what_starts(run: Run, arguments: tuple[str, ...]) -> None:
    del run
    assert CliRunner().invoke(main, arguments).exit_code == 0


def test_a_backend_that_cannot_be_had_is_told_with_its_cure(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKEND", "tensorrt")
    backend = json.loads(run("--json").stdout)["backend"]
    assert backend["chosen"] is None
    assert "tensorrt" in backend["fault"].lower()


def test_a_runtime_that_crashes_is_not_imported_here(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The process apart crashes; the report does not."""
    package = tmp_path / "broken/onnxruntime"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import os\nos.abort()\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    result = run()
    assert result.exit_code == 3
    assert "crashed with SIGABRT" in result.stdout
    assert "not tried here" in result.stdout


def test_a_section_that_fails_costs_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_settings: Settings) -> Any:
        raise ImportError("numpy.core.multiarray failed to import")

    monkeypatch.setattr(examination, "_examine_models", broken)
    output = run().stdout
    assert "Not to be had: ImportError: numpy.core.multiarray failed to import" in output
    assert "Chosen: onnxruntime-cpu" in output


def test_plans_are_listed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_ENGINE_CACHE_PATH", str(tmp_path / "engines"))
    recipe = recipe_of(profiles_for([(3, 112, 112)], (1,)), toolkit={"toolkit": "tensorrt 10.3.0"})
    record = PlanRecord.of(recipe, b"plan", verdict="fine", build_s=2.5)
    assert PlanFolder(tmp_path / "engines").keep(b"plan", record)
    (tmp_path / f"engines/orphan{Path(recipe.file_name).suffix}").write_bytes(b"no sidecar")
    plans = {plan["file"]: plan for plan in json.loads(run("--json").stdout)["engines"]["plans"]}
    assert plans[recipe.file_name]["verdict"] == "fine"
    assert plans[recipe.file_name]["built_for"]["toolkit"] == "tensorrt 10.3.0"
    assert [plan["verdict"] for name, plan in plans.items() if name.startswith("orphan")] == [None]
    output = run().stdout
    assert f"| {recipe.file_name} | 4 |" in output
    assert "Plans: 2." in output


def test_engines_that_are_not_kept(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_ENGINE_CACHE_ENABLE", "0")
    assert "Folder: none: engines are not kept. Plans: 0." in run().stdout


def test_the_version_of_cuda_is_read_where_it_is_installed(run: Run) -> None:
    files = {**machines.PLAIN, "usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "12.6.11"}}'}
    assert "| cuda | 12.6.11 |" in run(files=files).stdout


class TestPreflight:
    """What entrypoint.sh does first."""

    def test_where_all_is_well_it_says_nothing(self, run: Run) -> None:
        result = run("--preflight")
        assert (result.exit_code, result.output) == (0, "")

    def test_findings_go_to_the_log_with_their_cures(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LOG_FORMAT", "json")
        result = run("--preflight", files={**machines.ORIN_30W, "proc/meminfo": "MemAvailable: 1 kB\n"})
        assert (result.exit_code, result.stdout) == (0, "")
        lines = {line["finding"]: line for line in map(json.loads, result.stderr.splitlines())}
        assert lines["memory-low"]["level"] == "warning"
        assert lines["power-mode"]["level"] == "info"
        assert all(line["cure"] and line["why"] for line in lines.values())

    @pytest.mark.usefixtures("port_in_use")
    def test_what_would_stop_the_start_stops_it_with_one_line(self, run: Run) -> None:
        result = run("--preflight")
        assert (result.exit_code, result.stdout) == (3, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith("Error: Port ")
        assert "PORT" in line

    @pytest.mark.usefixtures("port_in_use")
    def test_a_second_cause_is_logged(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKEND", "tensorrt")
        result = run("--preflight", files=machines.SERVER_WITHOUT_TOOLKIT)
        assert result.exit_code == 3
        assert "gpu-unreachable" in result.stderr or "GPU" in result.stderr
        assert result.stderr.count("Error: ") == 1

    def test_a_bad_setting_is_one_line(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "http")
        result = run("--preflight")
        assert (result.exit_code, result.stderr.count("\n")) == (3, 1)
