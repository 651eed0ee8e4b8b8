"""`backup.sh`: what a host has comes back, engines only where they fit, and a damaged file changes nothing."""

from __future__ import annotations

import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.support.shared import REPOSITORY

# Volumes are folders; what would run inside the image runs here, `dpkg-query` aside, with /volume as that folder.
_DOCKER = """\
#!/bin/bash
printf '%s\\n' "$*" >>"$STAGE/calls"
case $1 in
  info) [[ ! -e $STAGE/no-engine ]] || exit 1 ;;
  ps) [[ ! -e $STAGE/container ]] || echo c1 ;;
  inspect) echo sha256:1 ;;
  image) [[ ${@: -1} != missing ]] ;;
  stop) [[ ! -e $STAGE/will-not-stop ]] && touch "$STAGE/stopped" ;;
  volume)
    [[ $2 != create ]] || mkdir -p "$STAGE/volumes/$3"
    [[ -d $STAGE/volumes/$3 ]]
    ;;
  compose) [[ ! -e $STAGE/will-not-start ]] || { echo 'no such image' && exit 1; } ;;
  run)
    while (($#)); do
      case $1 in
        --volume) volume=${2%%:*} ;;
        --entrypoint) program=$2 && shift 3 && break ;;
      esac
      shift
    done
    if [[ $program == dpkg-query ]]; then cat "$STAGE/tensorrt" 2>/dev/null; exit; fi
    [[ ! -e $STAGE/full || $* != *-x* ]] || { cat >/dev/null; exit 1; }
    "$program" "${@//\\/volume/$STAGE/volumes/$volume}"
    ;;
esac
"""


class Host:
    """A host whose Docker engine is a stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.deployed = root / "deploy"
        self.volumes = root / "volumes"
        self.file = root / "kept.tar"
        for name in ("jetface_models", "jetface_engines"):
            (self.volumes / name).mkdir(parents=True)
        (self.deployed / "local").mkdir(parents=True)
        (root / "bin").mkdir()
        docker = root / "bin/docker"
        docker.write_text(_DOCKER, encoding="utf-8")
        docker.chmod(0o755)
        (root / "calls").touch()
        (root / "container").touch()
        self.write("tensorrt", "10.3.0.30-1+cuda12.5")
        self.write("volumes/jetface_models/det.onnx", "weights")
        self.write("volumes/jetface_engines/det-fp16-0123.plan", "plan")
        self.write("deploy/compose.yaml", "services: {}\n")
        self.write("deploy/.env", "JETFACE_IMAGE=jetface:1\n")
        self.write("deploy/local/jetface.env", "API_KEYS=mine\n")

    def write(self, path: str, text: str) -> None:
        """Write a file of the host."""
        (self.root / path).write_text(text, encoding="utf-8")

    def read(self, path: str) -> str:
        """Read a file of the host."""
        return (self.root / path).read_text(encoding="utf-8")

    @property
    def calls(self) -> list[str]:
        """Every call of docker so far."""
        return self.read("calls").splitlines()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `backup.sh`."""
        return subprocess.run(
            [REPOSITORY / "deploy/jetson/backup.sh", "--folder", str(self.deployed), *arguments],
            env={"PATH": f"{self.root / 'bin'}:{os.environ['PATH']}", "STAGE": str(self.root)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def backup(self) -> None:
        """Keep all of it in `file`."""
        done = self.run("backup", str(self.file))
        assert (done.returncode, done.stderr) == (0, "")

    def lose_everything(self) -> None:
        """As a disk that died and was replaced; the compose file and .env came with a new image."""
        for path in ("volumes/jetface_models/det.onnx", "volumes/jetface_engines/det-fp16-0123.plan"):
            (self.root / path).unlink()
        self.write("deploy/local/jetface.env", "API_KEYS=other\n")
        self.write("deploy/.env", "JETFACE_IMAGE=jetface:2\n")
        self.write("deploy/compose.yaml", "services: {new: {}}\n")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_all_of_it_comes_back(host: Host) -> None:
    """Weights, engines and the host's own settings; what came with the image in use stays, the replaced is kept."""
    host.backup()
    host.lose_everything()
    done = host.run("restore", str(host.file))
    assert (done.returncode, done.stderr) == (0, "")
    assert host.read("volumes/jetface_models/det.onnx") == "weights"
    assert host.read("volumes/jetface_engines/det-fp16-0123.plan") == "plan"
    assert host.read("deploy/local/jetface.env") == "API_KEYS=mine\n"
    assert host.read("deploy/local/jetface.env.before-restore") == "API_KEYS=other\n"
    assert host.read("deploy/.env") == "JETFACE_IMAGE=jetface:2\n"
    assert host.read("deploy/compose.yaml") == "services: {new: {}}\n"
    assert (host.root / "stopped").exists()
    assert host.calls[-1] == "compose -p jetface -f compose.yaml up --detach --no-build"


def test_the_file_is_for_its_owner_alone(host: Host) -> None:
    """It holds API keys; and nothing else is left beside it."""
    host.backup()
    assert host.file.stat().st_mode & 0o077 == 0
    assert not list(host.root.glob(".jetface-backup-*"))
    with tarfile.open(host.file) as archive:
        assert archive.getnames() == ["SHA256SUMS", "made-on", "about", "models.tar", "engines.tar", "settings.tar"]


def test_a_backup_stops_nothing(host: Host) -> None:
    host.backup()
    assert not [call for call in host.calls if call.split()[0] in {"stop", "compose"}]
    assert all(":ro " in call for call in host.calls if "--volume" in call)


def test_engines_of_another_tensorrt_are_left_out(host: Host) -> None:
    """Said with both versions; weights and settings come back."""
    host.backup()
    host.lose_everything()
    host.write("tensorrt", "10.7.0.23-1+cuda12.6")
    done = host.run("restore", str(host.file))
    assert done.returncode == 0
    assert "engines are left out" in done.stdout
    for version in ("10.3.0.30", "10.7.0.23"):
        assert version in done.stdout
    assert list((host.volumes / "jetface_engines").iterdir()) == []
    assert host.read("volumes/jetface_models/det.onnx") == "weights"


def test_a_damaged_file_changes_nothing(host: Host) -> None:
    host.backup()
    damaged = host.file.read_bytes().replace(b"weights", b"weighty")
    host.file.write_bytes(damaged)
    done = host.run("restore", str(host.file))
    assert done.returncode == 2
    assert "damaged; nothing was restored" in done.stderr
    assert not (host.root / "stopped").exists()


def test_what_is_no_backup_is_refused(host: Host) -> None:
    host.file.write_bytes(b"something else")
    assert "no backup of jetface" in host.run("restore", str(host.file)).stderr
    assert "cannot be read" in host.run("restore", str(host.root / "nowhere")).stderr


def test_a_restore_that_is_cut_off_says_how_far_it_came(host: Host) -> None:
    """A full disk, say."""
    host.backup()
    (host.root / "full").touch()
    done = host.run("restore", str(host.file))
    assert done.returncode == 1
    assert "cut off: the service is stopped, and models are half restored; run it again" in done.stderr
    (host.root / "full").unlink()
    assert host.run("restore", str(host.file)).returncode == 0


def test_a_service_that_does_not_start_again_is_said(host: Host) -> None:
    host.backup()
    (host.root / "will-not-start").touch()
    done = host.run("restore", str(host.file))
    assert done.returncode == 1
    assert "no such image" in done.stderr
    assert "all is restored, and the service is not started" in done.stderr


def test_a_service_that_does_not_stop_is_left_as_it_is(host: Host) -> None:
    host.backup()
    host.lose_everything()
    (host.root / "will-not-stop").touch()
    done = host.run("restore", str(host.file))
    assert done.returncode == 2
    assert host.read("deploy/local/jetface.env") == "API_KEYS=other\n"


def test_a_new_host_needs_an_image_to_be_named(host: Host) -> None:
    """Without a container there is none to take it from; with a name all comes back, compose file included."""
    host.backup()
    host.lose_everything()
    (host.root / "container").unlink()
    (host.deployed / "compose.yaml").unlink()
    assert "--image" in host.run("restore", str(host.file)).stderr
    assert "no image missing" in host.run("--image", "missing", "restore", str(host.file)).stderr
    done = host.run("--image", "jetface:2", "restore", str(host.file))
    assert done.returncode == 0
    assert host.read("deploy/compose.yaml") == "services: {}\n"
    assert not (host.root / "stopped").exists()


def test_a_host_without_a_compose_file_is_told_to_start_it(host: Host) -> None:
    (host.deployed / "compose.yaml").unlink()
    host.backup()
    done = host.run("restore", str(host.file))
    assert done.returncode == 0
    assert "start the service yourself" in done.stdout


def test_a_volume_that_is_not_there_is_said(host: Host) -> None:
    (host.volumes / "jetface_engines/det-fp16-0123.plan").unlink()
    (host.volumes / "jetface_engines").rmdir()
    done = host.run("backup", str(host.file))
    assert done.returncode == 2
    assert "no volume jetface_engines" in done.stderr
    assert not host.file.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["backup"], "see --help"),
        (["keep", "x.tar"], "see --help"),
        (["--frobnicate", "backup", "x.tar"], "unknown option"),
        (["--wait", "0", "backup", "x.tar"], "no number above 0"),
        (["--folder", "/nowhere", "backup", "x.tar"], "--folder names"),
        (["--folder"], "needs a value"),
    ],
)
def test_a_call_that_is_wrong_begins_nothing(host: Host, arguments: list[str], said: str) -> None:
    done = host.run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_no_engine_no_backup(host: Host) -> None:
    (host.root / "no-engine").touch()
    assert "does not answer" in host.run("backup", str(host.file)).stderr


def test_help_names_every_option(host: Host) -> None:
    done = host.run("--help")
    assert done.returncode == 0
    for option in ("--folder", "--image", "--wait"):
        assert option in done.stdout
