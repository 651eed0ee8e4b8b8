"""`fleet.sh`: every host ends updated or as it was, and one that does not is named."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet_stage import FOLDER, IDENTITY, OLD_IDENTITY, Stage, service_of

AddHost = Callable[..., Path]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    root = tmp_path / "stage"
    root.mkdir()
    return Stage(root)


@pytest.fixture
def add_host(stage: Stage) -> Iterator[AddHost]:
    """Add a host with a service; `bad`: identities of images that do not get healthy on it."""
    with contextlib.ExitStack() as stack:

        def add(name: str, *, runs: str | None = OLD_IDENTITY, bad: frozenset[str] = frozenset()) -> Path:
            return stage.add_host(name, stack.enter_context(service_of(stage.root, name, bad=bad)), runs=runs)

        yield add


BAD = frozenset({IDENTITY})


def test_every_host_is_updated(stage: Stage, add_host: AddHost) -> None:
    """All run the new image with the compose file sent; their own settings stay, and nothing is left behind."""
    folders = [add_host(f"orin-{number}") for number in range(3)]
    done = stage.run()
    assert (done.returncode, done.stderr) == (0, "")
    for number, folder in enumerate(folders):
        assert stage.outcome(done, f"orin-{number}") == "OK: updated"
        assert stage.runs(f"orin-{number}") == IDENTITY
        deployed = folder / "opt/jetface"
        assert "runtime: nvidia" in (deployed / "deploy/compose.yaml").read_text()
        assert "MODELS_DIR=" in (deployed / "deploy/jetson.env").read_text()
        assert (deployed / "deploy/local/jetface.env").read_text() == "API_KEYS=mine\n"
        assert (deployed / "deploy/.env").read_text() == "JETFACE_RENDER_GID=105\nJETFACE_IMAGE=jetface:jetson\n"
        assert not (deployed / "incoming").exists()
        assert not (deployed / "UPDATING").exists()
    assert len([call for call in stage.calls if call.startswith("docker@local save")]) == 1


def test_a_second_run_changes_nothing(stage: Stage, add_host: AddHost) -> None:
    """A host that runs the image is asked, and left alone."""
    add_host("orin-0", runs=IDENTITY)
    done = stage.run()
    assert stage.outcome(done, "orin-0") == "OK: ran it already"
    assert not [call for call in stage.calls if "rsync" in call or call.endswith("--no-build") or " load" in call]


def test_a_dry_run_only_looks(stage: Stage, add_host: AddHost) -> None:
    """Hosts are asked what they run; nothing is saved, copied, loaded, started."""
    add_host("orin-0")
    add_host("orin-1", runs=None)
    done = stage.run("--dry-run")
    assert done.returncode == 0
    assert stage.outcome(done, "orin-1") == "OK: would be updated"
    steps = {call.split()[2] for call in stage.calls if call.startswith("ssh")}
    assert steps == {"look", "is_current"}
    verbs = {tuple(call.split()[1:3]) for call in stage.calls if call.startswith("docker")}
    assert {verb for verb, *_ in verbs} <= {"image", "info", "compose", "ps", "inspect"}
    assert not [call for call in stage.calls if " compose " in call and "version" not in call]


def test_an_image_that_does_not_get_healthy_is_taken_back(stage: Stage, add_host: AddHost) -> None:
    """The host runs its old image by its old compose file again, and the exit code is not 0."""
    folder = add_host("orin-0", bad=BAD)
    done = stage.run()
    assert done.returncode == 1
    assert stage.outcome(done, "orin-0").startswith("ROLLED BACK")
    assert stage.runs("orin-0") == OLD_IDENTITY
    assert (
        folder / "opt/jetface/deploy/.env"
    ).read_text() == "JETFACE_RENDER_GID=105\nJETFACE_IMAGE=jetface:previous\n"
    assert (folder / "opt/jetface/deploy/compose.yaml").read_text() == "old: true\n"
    assert not (folder / "opt/jetface/UPDATING").exists()


def test_after_a_rollback_the_next_image_goes_on(stage: Stage, add_host: AddHost) -> None:
    """What was taken back is no obstacle."""
    add_host("orin-0", bad=BAD)
    stage.run()
    stage.add_image("local", "jetface:jetson", IDENTITY.replace("new", "mended"))
    done = stage.run()
    assert stage.outcome(done, "orin-0") == "OK: updated"
    assert "mended" in str(stage.runs("orin-0"))


def test_a_host_with_nothing_to_go_back_to_is_called_broken(stage: Stage, add_host: AddHost) -> None:
    """A first installation that fails is said, and its marker stays for the next run."""
    folder = add_host("orin-0", runs=None, bad=BAD)
    done = stage.run()
    assert done.returncode == 1
    assert stage.outcome(done, "orin-0").startswith("BROKEN")
    assert (folder / "opt/jetface/UPDATING").exists()


def test_when_the_first_host_fails_no_other_is_touched(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0", bad=BAD)
    add_host("orin-1")
    done = stage.run()
    assert stage.outcome(done, "orin-1") == "NOT BEGUN"
    assert not [call for call in stage.calls if call.startswith("ssh orin-1")]


def test_when_a_later_host_fails_the_others_go_on(stage: Stage, add_host: AddHost) -> None:
    """Each outcome is in the summary."""
    for number in range(4):
        add_host(f"orin-{number}")
    stage.fault("orin-1", "unreachable")
    stage.fault("orin-2", "load")
    done = stage.run("--parallel", "2")
    assert done.returncode == 1
    assert stage.outcome(done, "orin-1").startswith("UNCHANGED: it cannot be updated")
    assert stage.outcome(done, "orin-2").startswith("UNCHANGED: docker load failed")
    assert stage.runs("orin-2") == OLD_IDENTITY
    assert stage.outcome(done, "orin-0") == stage.outcome(done, "orin-3") == "OK: updated"


def test_a_copy_that_was_cut_off_goes_on(stage: Stage, add_host: AddHost) -> None:
    """The next run sends what is missing."""
    add_host("orin-0")
    stage.fault("orin-0", "cut")
    assert stage.outcome(stage.run(), "orin-0").startswith("UNCHANGED: the copy was cut off")
    assert stage.outcome(stage.run(), "orin-0") == "OK: updated"
    assert "resumed at 10" in stage.calls
    assert len([call for call in stage.calls if call.startswith("docker@local save")]) == 1


def test_a_damaged_archive_is_not_loaded(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    stage.fault("orin-0", "damage")
    assert stage.outcome(stage.run(), "orin-0").startswith("UNCHANGED: the archive arrived damaged")
    assert not [call for call in stage.calls if call == "docker@orin-0 load"]
    assert stage.outcome(stage.run(), "orin-0") == "OK: updated"


def test_settings_that_do_not_arrive_change_nothing(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    stage.fault("orin-0", "scp")
    assert stage.outcome(stage.run(), "orin-0").startswith("UNCHANGED: compose file")
    assert stage.runs("orin-0") == OLD_IDENTITY


@pytest.mark.parametrize("step", ["up", "roll_back"])
def test_a_connection_lost_between_two_states_is_said(stage: Stage, add_host: AddHost, step: str) -> None:
    """HALF-UPDATED, not a guess; the next run finishes it."""
    add_host("orin-0", bad=BAD if step == "roll_back" else frozenset())
    fault = stage.fault("orin-0", f"lost-at-{step}")
    assert stage.outcome(stage.run(), "orin-0").startswith(f"HALF-UPDATED: the connection was lost at {step}")
    fault.unlink()
    done = stage.run()
    expected = "OK: updated" if step == "up" else "ROLLED BACK"
    assert stage.outcome(done, "orin-0").startswith(expected)


def test_an_interrupted_run_says_what_it_left(stage: Stage, add_host: AddHost) -> None:
    """SIGTERM in the middle: the summary names the host and its step; the next run finishes it."""
    folder = add_host("orin-0")
    add_host("orin-1")
    fault = stage.fault("orin-0", "hang-at-up")
    with subprocess.Popen(stage.command(), env=stage.environ, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (folder / "hanging").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "UNFINISHED at: up (HALF-UPDATED" in said
    assert "NOT BEGUN" in said
    fault.unlink()
    assert stage.run().returncode == 0


def test_without_rsync_scp_copies(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    stage.fault("orin-0", "no-rsync")
    done = stage.run()
    assert stage.outcome(done, "orin-0") == "OK: updated"
    assert not [call for call in stage.calls if call.startswith("rsync")]


def test_a_host_of_another_kind_is_refused(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    stage.add_image("local", "jetface:jetson", IDENTITY.replace("arm64", "amd64"))
    done = stage.run()
    assert stage.outcome(done, "orin-0").startswith("UNCHANGED")
    log = next((stage.root / "work/logs").glob("*/orin-0.log")).read_text()
    assert "the image is for amd64, this host is aarch64" in log


def test_a_host_whose_compose_could_not_build_is_told_and_updated(stage: Stage, add_host: AddHost) -> None:
    """An update builds nothing, so it is no reason to leave a host behind."""
    add_host("orin-0")
    (stage.root / "orin-0/compose-version").write_text("2.37.1+ds1-0ubuntu2~22.04.1\n", encoding="utf-8")
    assert stage.outcome(stage.run("--dry-run"), "orin-0") == "OK: would be updated"
    log = next((stage.root / "work/logs").glob("*/orin-0.log")).read_text()
    assert "Compose 2.37.1+ds1-0ubuntu2~22.04.1 does not pass on build.network" in log
    assert "2.37.3 or COMPOSE_BAKE=false" in log


def test_a_host_without_an_engine_is_refused(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    stage.fault("orin-0", "engine")
    assert stage.outcome(stage.run(), "orin-0").startswith("UNCHANGED")


@pytest.mark.parametrize(
    ("hosts", "said"),
    [
        ("", "names no host"),
        ("orin-0\norin-0\n", "names orin-0 twice"),
        ("orin-0 port\n", "not understood"),
        ("-oProxyCommand=x\n", "not understood"),
        ("a b c\n", "not understood"),
    ],
)
def test_a_hosts_file_that_is_wrong_begins_nothing(stage: Stage, tmp_path: Path, hosts: str, said: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(hosts, encoding="utf-8")
    command = [*stage.command()[:-2], str(file), "jetface:jetson"]
    done = subprocess.run(command, env=stage.environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert not [call for call in stage.calls if call.startswith("ssh")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--parallel", "0"], "no number above 0"),
        (["--folder", "relative"], "not an absolute path"),
        (["--compress", "bzip2"], "zstd or gzip"),
        (["--compose", "/nowhere"], "cannot be read"),
        (["--frobnicate"], "unknown option"),
    ],
)
def test_an_option_that_is_wrong_begins_nothing(stage: Stage, options: list[str], said: str) -> None:
    done = stage.run(*options)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_image_that_is_not_here_begins_nothing(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    done = stage.run(image="jetface:other")
    assert done.returncode == 2
    assert "there is no image jetface:other here" in done.stderr


def test_gzip_needs_nothing_on_the_hosts(stage: Stage, add_host: AddHost) -> None:
    add_host("orin-0")
    done = stage.run("--compress", "gzip", "--folder", FOLDER)
    assert stage.outcome(done, "orin-0") == "OK: updated"
    assert next((stage.root / "work/archives").glob("*.gz")).exists()
