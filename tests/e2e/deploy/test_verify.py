"""`verify.sh`: starts, stops and starts again around the steps, and writes one report whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.server import Server, free_port, running_server, service_environ
from tests.support.shared import REPOSITORY
from verifying.claims import read_claims

SCRIPT = REPOSITORY / "deploy/jetson/verify.sh"
STARTERS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_MIRROR": "", "MODEL_DOWNLOAD": "0"}
VENV = Path(sys.executable).parent.parent


def run(
    folder: Path, *arguments: str, variables: dict[str, str] | None = None, path: str = ""
) -> subprocess.CompletedProcess[str]:
    environ = service_environ({**STARTERS, "MODELS_DIR": str(folder / "models"), **(variables or {})})
    if path:
        environ["PATH"] = path
    return subprocess.run(
        [str(SCRIPT), "--report", str(folder / "report.md"), "--venv", str(VENV), *arguments],
        cwd=folder, env=environ, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip


def outcomes(folder: Path) -> dict[str, str]:
    """Outcomes of the report, by the claim's id."""
    rows = [line.strip("| ").split(" | ") for line in (folder / "report.md").read_text().splitlines()]
    ids = {claim.id for claim in read_claims()}
    return {row[-1]: row[1].strip("* ") for row in rows if row[-1] in ids}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), STARTERS) as started:
        yield started


class TestCheckout:
    def test_a_service_is_started_verified_stopped_and_started_again(self, tmp_path: Path) -> None:
        """The real one, on starter models: everything that a CPU can tell passes."""
        done = run(
            tmp_path, "--no-docker", "--soak-minutes", "0.03", "--requests", "1", "--callers", "2",
            "--bench-seconds", "0", variables={"PORT": str(free_port()), "BACKEND": "onnxruntime"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = outcomes(tmp_path)
        assert set(found) == {claim.id for claim in read_claims()}
        passed = {"preflight", "answers-overlap", "answers-cosine", "answers-faces", "soak-failures", "memory-8"}
        for name in passed | {"drain", "exit-code", "stop-time"}:
            assert found[name] == "pass", name
        figures = ("first-answer", "second-start", "detection-50", "recognition-10", "one-face-12", "crowd-per-face")
        assert {found[name] for name in figures} == {"figure"}
        rest = (
            "image-builds",
            "engines-serve",
            "engines-agree",
            "engines-kept",
            "sensors",
            "golden",
            "bench",
            "nvjpeg",
        )
        assert {found[name] for name in rest} == {"not run"}
        report = (tmp_path / "report.md").read_text()
        assert "## Soak" in report
        assert "| how | checkout |" in report

    def test_a_service_that_does_not_start_fails_the_report_and_says_why(self, tmp_path: Path) -> None:
        """At once: nobody waits an hour for the engines of a service that has ended, in the background neither."""
        port = str(free_port())
        variables = {"PORT": port, "BACKEND": "tensorrt"}
        done = run(tmp_path, "--no-docker", variables=variables)
        assert done.returncode == 1
        assert outcomes(tmp_path)["first-answer"] == "fail"
        assert "the service has ended: Error: BACKEND=tensorrt cannot be had" in (tmp_path / "report.md").read_text()
        commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
        assert [command for command in commands if f"http://127.0.0.1:{port}" in command] == []

    def test_the_service_of_somebody_else_is_not_verified_in_its_place(self, tmp_path: Path, server: Server) -> None:
        done = run(tmp_path, "--no-docker", variables={"PORT": server.url.rpartition(":")[2]})
        assert done.returncode == 2
        assert "the port is in use" in done.stderr


class TestUrl:
    def test_a_service_that_runs_is_left_running(self, tmp_path: Path, server: Server) -> None:
        done = run(tmp_path, "--url", server.url, "--soak-minutes", "0.01", "--requests", "1", "--callers", "1")
        assert done.returncode == 0, done.stderr
        found = outcomes(tmp_path)
        assert (found["soak-failures"], found["answers-faces"]) == ("pass", "pass")
        assert {found[name] for name in ("drain", "exit-code", "second-start", "preflight")} == {"not run"}
        server.wait_until_ready()


ANSWERS = {
    "doctor": {"jetface": "0.1.0", "would_start": True, "machine": {"jetson": {"module": "AGX Orin"}}},
    "start": {
        "seconds_to_live": 5.0, "seconds_to_answer": 30.0, "engines_serve": True, "build_seconds": 0.0, "readings": 7,
        "device": {"gpu": "integrated"}, "version": "0.1.0",
    },
    "answers": {"worst_iou": 0.99, "worst_cosine": 0.999, "faces_only_one_found": 0},
    "engines": {"passed": True, "verdicts": [], "faults": []},
    "speed": {"detect_ms": 5.0, "recognize_ms_per_face": 1.9, "one_face_ms": 10.0, "crowd_ms_per_face": 2.4},
    "soak": {"points": [], "failed": 0},
    "drain": {"lost": 0},
    "bench": {"cases": []},
}  # fmt: skip
"""What a step of `verifying` prints in the stand-in's containers, of a board on which all is well."""


JETSON = ("--compose", str(REPOSITORY / "deploy/compose.jetson.yaml"))


class Docker:
    """A `docker` on PATH that records its calls and plays one service; `report` is run for real, on what is mounted."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.calls_file = folder / "calls"
        self.faults = folder / "faults"
        self.faults.mkdir()
        program = self.bin / "docker"
        program.write_text(
            textwrap.dedent(f"""\
                #!{sys.executable}
                import json, os, pathlib, subprocess, sys, time
                call = sys.argv[1:]
                folder = pathlib.Path({str(folder)!r})
                with open(folder / "calls", "a") as calls:
                    calls.write(json.dumps(call) + "\\n")
                if call[:1] == ["compose"] and "--file" in call:
                    call = call[3:]
                container = folder / "container"
                for fault in (folder / "faults").iterdir():
                    if fault.name in call:
                        sys.exit("docker: " + fault.name + " broke")
                if call[0] == "up":
                    container.touch()
                    (folder / "render").write_text(os.environ.get("JETFACE_RENDER_GID", ""))
                elif call == ["compose", "version", "--short"]:
                    print(os.environ.get("COMPOSE_VERSION", "2.40.0"))
                elif call[0] == "ps" and container.exists():
                    print("c0ffee")
                elif call[0] == "down":
                    container.unlink()
                elif call[0] == "config":
                    print("jetface:jetson")
                elif call[0] == "exec":
                    print("18081")
                elif call[:2] == ["image", "inspect"]:
                    print(14_200_000_000)
                elif call[0] == "logs":
                    print("MAX_FACES: many is no number")
                elif call[0] == "inspect":
                    is_dying = (folder / "faults" / "dying").exists()
                    print("host" if "HostConfig" in call[2] else 5 * is_dying)
                elif call[0] == "run":
                    if "report" in call:
                        mounted = next(word.split(":")[0] for word in call if word.endswith(":/verify:ro"))
                        command = [sys.executable, "-m", "verifying", "report", mounted]
                        sys.exit(subprocess.run(command, cwd={str(REPOSITORY / "deploy" / "jetson")!r}).returncode)
                    step = next(name for name in {list(ANSWERS)!r} if name in call)
                    if step == "start" and (folder / "faults" / "dying").exists():
                        time.sleep(60)
                    if step == "drain":
                        print("under load", file=sys.stderr, flush=True)
                    print(json.dumps({ANSWERS!r}[step]))
                """),
            encoding="utf-8",
        )
        program.chmod(0o755)
        self.path = f"{self.bin}{os.pathsep}/usr/bin:/bin"

    def add(self, name: str, script: str) -> None:
        """Put another program beside it."""
        (self.bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.bin / name).chmod(0o755)

    @property
    def render_gid(self) -> str:
        """The host's group that the service was started with."""
        return (self.bin.parent / "render").read_text()

    @property
    def calls(self) -> list[list[str]]:
        return [json.loads(line) for line in self.calls_file.read_text(encoding="utf-8").splitlines()]

    def did(self) -> list[str]:
        """What was done, in order, in a word each: of compose, the command; of a run, the step."""
        words = {"build", "up", "stop", "down", "pull", "report", *ANSWERS}
        found: Sequence[str] = [next((w for w in call if w in words), "") for call in self.calls]
        return [word for word in found if word]


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    folder = tmp_path / "docker"
    folder.mkdir()
    return Docker(folder)


class TestDocker:
    def test_a_board_is_verified_in_its_container(self, tmp_path: Path, docker: Docker) -> None:
        docker.add("getent", "echo render:x:105:")
        done = run(tmp_path, *JETSON, path=docker.path)
        assert done.returncode == 0, done.stderr
        assert docker.render_gid == "105"
        assert docker.did() == [
            "build", "doctor", "up", "start", "answers", "engines", "speed", "soak", "drain", "stop", "bench",
            "bench",  # of plates
            "up", "start", "report", "down",
        ]  # fmt: skip
        found = outcomes(tmp_path)
        for name in ("devices-by-group", "read-only-start", "engines-serve", "engines-kept", "one-face-12", "drain"):
            assert found[name] == "pass", name
        assert "| 14.2 GB |" in (tmp_path / "report.md").read_text()
        (soak,) = [call for call in docker.calls if "soak" in call]
        assert "http://127.0.0.1:18081" in soak, "the container's own port, on the host's network"
        assert soak[soak.index("--minutes") + 1] == "30"
        assert not [call for call in docker.calls if "--volumes" in call], "weights and engines stay"

    @pytest.mark.parametrize("version", ["2.37.1+ds1-0ubuntu2~22.04.1", "2.24.0", "v2.37.2"])
    def test_a_compose_that_does_not_pass_on_the_network_of_a_build_is_refused(
        self, tmp_path: Path, docker: Docker, version: str
    ) -> None:
        """Ubuntu 22.04's own does not: the build would end at its first download, on a kernel without table `raw`."""
        done = run(tmp_path, *JETSON, path=docker.path, variables={"COMPOSE_VERSION": version})
        assert done.returncode == 2
        assert f"Compose {version} does not pass on build.network" in done.stderr
        assert "2.37.3" in done.stderr
        assert "COMPOSE_BAKE=false" in done.stderr
        assert docker.did() == []

    @pytest.mark.parametrize(
        ("arguments", "variables"),
        [
            (JETSON, {"COMPOSE_VERSION": "2.37.3"}),
            (JETSON, {"COMPOSE_VERSION": "v3.0.1-desktop"}),
            (JETSON, {"COMPOSE_VERSION": "2.37.1", "COMPOSE_BAKE": "false"}),
            ((*JETSON, "--image", "mine:1"), {"COMPOSE_VERSION": "2.37.1"}),
            ((), {"COMPOSE_VERSION": "2.37.1"}),
        ],
        ids=["new enough", "newer", "without bake", "nothing is built", "no Jetson"],
    )
    def test_where_it_makes_no_difference_nothing_is_said(
        self, tmp_path: Path, docker: Docker, arguments: tuple[str, ...], variables: dict[str, str]
    ) -> None:
        (docker.faults / "build").touch()
        (docker.faults / "image").touch()
        done = run(tmp_path, *arguments, path=docker.path, variables=variables)
        assert "build.network" not in done.stderr
        assert done.returncode == 2
        assert "the image is not here" in done.stderr

    def test_pictures_of_an_owner_are_mounted(self, tmp_path: Path, docker: Docker) -> None:
        (tmp_path / "mine").mkdir()
        done = run(tmp_path, "--golden", "mine", "--keep", "--image", "mine:1", path=docker.path)
        assert done.returncode == 0, done.stderr
        (answers,) = [call for call in docker.calls if "answers" in call]
        assert f"{tmp_path}/mine:/golden:ro" in answers
        assert answers[-2:] == ["--golden", "/golden"]
        assert "down" not in docker.did()
        assert "build" not in docker.did()

    def test_a_container_that_dies_again_and_again_is_not_waited_for(self, tmp_path: Path, docker: Docker) -> None:
        (docker.faults / "dying").touch()
        docker.add("getent", "exit 2")
        done = run(tmp_path, *JETSON, path=docker.path)
        assert done.returncode == 1
        assert docker.render_gid == "104", "where the host has no such group"
        assert "the service has ended: MAX_FACES: many is no number" in (tmp_path / "report.md").read_text()
        assert docker.did()[-1] == "down"

    def test_a_service_that_is_there_already_is_left_alone(self, tmp_path: Path, docker: Docker) -> None:
        (docker.bin.parent / "container").touch()
        done = run(tmp_path, path=docker.path)
        assert done.returncode == 2
        assert "a service is here already" in done.stderr
        assert docker.did() == []

    def test_an_image_that_does_not_build_is_said(self, tmp_path: Path, docker: Docker) -> None:
        (docker.faults / "build").touch()
        done = run(tmp_path, path=docker.path)
        assert done.returncode == 2
        assert "the image is not here: docker: build broke" in done.stderr

    def test_a_step_that_breaks_costs_its_rows_and_the_service_is_ended(self, tmp_path: Path, docker: Docker) -> None:
        (docker.faults / "soak").touch()
        done = run(tmp_path, path=docker.path)
        assert done.returncode == 1
        found = outcomes(tmp_path)
        assert (found["soak-failures"], found["drain"], found["engines-agree"]) == ("fail", "pass", "pass")
        assert "soak: docker: soak broke" in (tmp_path / "report.md").read_text()
        assert docker.did()[-1] == "down"


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "why"),
        [
            (["--frobnicate"], "unknown option"),
            (["--golden"], "needs a value"),
            (["--golden", "nowhere"], "is no folder"),
            (["--soak-minutes", "long"], "takes a number"),
            (["--no-docker", "--venv", "nowhere"], "has no jetface"),
            (["--compose", "nowhere.yaml"], "is not there"),
            (["--report", "nowhere/report.md"], "cannot be written"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_begins(
        self, tmp_path: Path, docker: Docker, arguments: list[str], why: str
    ) -> None:
        done = run(tmp_path, *arguments, path=docker.path)
        assert done.returncode == 2
        assert why in done.stderr

    def test_without_docker_there_is_another_way(self, tmp_path: Path) -> None:
        for name in ("bash", "dirname", "uname", "date", "touch", "mktemp", "mkdir", "rm", "chmod"):
            (tmp_path / name).symlink_to(f"/usr/bin/{name}")
        done = run(tmp_path, path=str(tmp_path))
        assert done.returncode == 2
        assert "--no-docker" in done.stderr

    def test_help_names_every_option(self, tmp_path: Path) -> None:
        done = run(tmp_path, "--help")
        assert done.returncode == 0
        for option in ("--report", "--golden", "--soak-minutes", "--no-docker", "--url", "--compose", "--keep"):
            assert option in done.stdout
