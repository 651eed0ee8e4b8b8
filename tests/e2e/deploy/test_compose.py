"""The compose files: valid, and each with what it must have to run unattended."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from jetface.cli.settings import TARGETS
from jetface.settings import Settings
from tests.support.dockerfiles import Dockerfile
from tests.support.shared import REPOSITORY

DEPLOY = REPOSITORY / "deploy"
FILES = sorted([REPOSITORY / "compose.yaml", *DEPLOY.glob("compose.*.yaml")])
TARGET_BY_SERVICE = {
    ("compose.cpu.yaml", "jetface"): "cpu",
    ("compose.gpu.yaml", "jetface"): "gpu",
    ("compose.gpus.yaml", "jetface-0"): "gpu",
    ("compose.gpus.yaml", "jetface-1"): "gpu",
    ("compose.jetson.yaml", "jetface"): "jetson",
    ("compose.jetson7.yaml", "jetface"): "jetson",
}

Service = dict[str, Any]


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(DEPLOY / name)
    return loaded


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.fixture(params=TARGET_BY_SERVICE, ids="/".join)
def service(request: pytest.FixtureRequest) -> Service:
    """One service, as its file has it, with `target` beside."""
    name, service = request.param
    return {**load(name)["services"][service], "target": TARGET_BY_SERVICE[request.param]}


def test_all_are_what_the_compose_specification_says() -> None:
    check: list[str | Path] = [
        Path(sys.executable).with_name("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        *FILES,
    ]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_service_of_ours_is_held_to_the_rules() -> None:
    ours = {
        (path.name, name)
        for path in FILES
        for name in YAML(typ="safe").load(path).get("services", {})
        if name.startswith("jetface")
    }
    assert ours == set(TARGET_BY_SERVICE)


def test_images_of_others_stand_by_tag_and_digest() -> None:
    images = {
        service["image"] for path in FILES for service in YAML(typ="safe").load(path).get("services", {}).values()
    }
    theirs = {image for image in images if not image.startswith("${JETFACE_IMAGE:-jetface:")}
    assert theirs
    assert all(re.fullmatch(r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}", image) for image in theirs)


def test_plain_up_is_the_cpu() -> None:
    (included,) = YAML(typ="safe").load(REPOSITORY / "compose.yaml")["include"]
    assert included == {"path": "deploy/compose.cpu.yaml", "project_directory": "deploy"}


def test_its_settings_are_the_target_s_and_then_the_operator_s(service: Service) -> None:
    generated, own = service["env_file"]
    assert generated == f"{service['target']}.env"
    assert service["target"] in TARGETS
    assert own == {"path": "local/jetface.env", "required": False}
    # Git must not see keys.
    ignored = REPOSITORY.joinpath(".gitignore").read_text(encoding="utf-8").split()
    assert "/deploy/local/" in ignored


def test_it_builds_the_image_of_its_target(service: Service) -> None:
    build = service["build"]
    name = re.sub(r"\$\{\w+:-(.*)\}", r"\1", build["dockerfile"])
    dockerfile = Dockerfile.read((DEPLOY / build["context"] / name).resolve())
    environment = dockerfile.environment()
    assert environment.items() >= TARGETS[service["target"]].items()


def test_it_comes_back_and_ends_in_peace(service: Service) -> None:
    assert service["restart"] == "unless-stopped"
    assert seconds(service["stop_grace_period"]) > Settings().shutdown_grace_s


def test_its_health_is_asked_for_only_when_engines_may_be_there(service: Service) -> None:
    health = service["healthcheck"]
    assert health["test"] == ["CMD", "/app/healthcheck.sh"]
    assert seconds(health["start_period"]) >= (300 if service["target"] == "cpu" else 600)
    # The script waits for the answer as long as it is let.
    assert seconds(health["timeout"]) < seconds(health["interval"])


def test_its_log_does_not_fill_the_disk(service: Service) -> None:
    assert service["logging"]["driver"] == "json-file"
    assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_it_writes_to_volumes_alone(service: Service) -> None:
    assert service["read_only"] is True
    assert [entry.split(":")[0] for entry in service["tmpfs"]] == ["/tmp"]
    named = [entry.split(":")[1] for entry in service["volumes"] if isinstance(entry, str)]
    places = TARGETS[service["target"]]
    assert named == [places[name] for name in ("MODELS_DIR", "TRT_ENGINE_CACHE_PATH") if name in places]
    assert all(entry["read_only"] for entry in service["volumes"] if isinstance(entry, dict))


def test_it_may_do_no_more_than_it_needs(service: Service) -> None:
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["ulimits"]["nofile"]["soft"] >= 65535


class TestJetson:
    """What JetPack makes necessary."""

    @pytest.fixture(params=["compose.jetson.yaml", "compose.jetson7.yaml"])
    def jetson(self, request: pytest.FixtureRequest) -> Service:
        jetson: Service = load(request.param)["services"]["jetface"]
        return jetson

    def test_one_release_s_file_differs_from_the_other_s_in_what_is_built_alone(self) -> None:
        one, other = (load(f"compose.{name}.yaml") for name in ("jetson", "jetson7"))
        for each in (one, other):
            del each["services"]["jetface"]["image"]
            assert each["services"]["jetface"].pop("build")["network"] == "host"
        assert one == other

    def test_a_wheel_of_the_user_s_is_named_from_outside(self) -> None:
        assert load("compose.jetson7.yaml")["services"]["jetface"]["build"]["args"] == {
            "VARIANT": "${JETFACE_VARIANT:-tensorrt}",
            "ONNXRUNTIME_WHEEL": "${ONNXRUNTIME_WHEEL:-}",
            "ONNXRUNTIME_SHA256": "${ONNXRUNTIME_SHA256:-}",
        }

    def test_it_gets_the_gpu_from_the_nvidia_runtime(self, jetson: Service) -> None:
        assert jetson["runtime"] == "nvidia"
        assert "deploy" not in jetson

    def test_its_user_is_in_the_groups_of_the_gpu_s_files(self, jetson: Service) -> None:
        video, render = jetson["group_add"]
        assert video == "44"
        assert render.startswith("${JETFACE_RENDER_GID:-")

    def test_it_publishes_no_port(self, jetson: Service) -> None:
        """The kernel has no iptables table `raw`: with Docker 28 publishing one fails, in builds too."""
        assert jetson["network_mode"] == "host"
        assert "ports" not in jetson
        assert jetson["build"]["network"] == "host"

    def test_it_sees_the_power_mode(self, jetson: Service) -> None:
        bound = {entry["source"] for entry in jetson["volumes"] if isinstance(entry, dict)}
        assert bound == {"/etc/nv_tegra_release", "/etc/nvpmodel.conf", "/var/lib/nvpmodel"}

    def test_the_file_says_what_a_reader_must_know(self) -> None:
        for name in ("compose.jetson.yaml", "compose.jetson7.yaml"):
            text = (DEPLOY / name).read_text(encoding="utf-8")
            for words in (
                "nvpmodel -m 0",
                "jetson_clocks",
                "# mem_limit:",
                "moby/moby#49557",
                "2.37.3",
                "COMPOSE_BAKE",
            ):
                assert words in text


def test_monitoring_on_the_host_s_network_is_otherwise_as_beside_the_service() -> None:
    """And no less to itself: nothing listens on another address than this machine's own."""
    beside, host = (load(f"compose.{name}.yaml")["services"] for name in ("monitoring", "monitoring-host"))
    for name, service in host.items():
        assert service.pop("network_mode") == "host"
        assert "ports" not in service
        assert all(port.startswith("127.0.0.1:") for port in beside[name].pop("ports"))
    assert "--web.listen-address=127.0.0.1:9090" in host["prometheus"].pop("command")
    environment = host["grafana"]["environment"]
    assert environment.pop("GF_SERVER_HTTP_ADDR") == "127.0.0.1"
    environment["PROMETHEUS_URL"] = environment["PROMETHEUS_URL"].replace("127.0.0.1", "prometheus")
    assert host == beside
    configured = [YAML(typ="safe").load(DEPLOY / f"prometheus/prometheus{name}.yml") for name in ("", "-host")]
    assert configured[1]["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:18080"]}]
    for each in configured:
        each["scrape_configs"][0].pop("static_configs")
    assert configured[0] == configured[1]


class TestGpu:
    """One GPU, or several behind a proxy."""

    @staticmethod
    def device(service: Service) -> dict[str, Any]:
        (device,) = service["deploy"]["resources"]["reservations"]["devices"]
        found: dict[str, Any] = device
        return found

    def test_a_process_has_one_gpu(self) -> None:
        device = self.device(load("compose.gpu.yaml")["services"]["jetface"])
        assert device == {"driver": "nvidia", "device_ids": ["${JETFACE_GPU:-0}"], "capabilities": ["gpu"]}

    def test_several_have_one_each_and_are_otherwise_as_the_one(self) -> None:
        one = load("compose.gpu.yaml")["services"]["jetface"]
        services = load("compose.gpus.yaml")["services"]
        ours = [services[name] for name in services if name.startswith("jetface")]
        assert [self.device(each)["device_ids"] for each in ours] == [["0"], ["1"]]
        for each in ours:
            assert {k: v for k, v in each.items() if k != "deploy"} == {
                k: v for k, v in one.items() if k not in {"deploy", "ports"}
            }

    def test_the_proxy_knows_them_all_and_alone_is_published(self) -> None:
        services = load("compose.gpus.yaml")["services"]
        proxy = services["proxy"]
        names = sorted(name for name in services if name.startswith("jetface"))
        assert proxy["environment"]["JETFACE_HOSTS"].split() == [f"{name}:18080" for name in names]
        assert proxy["depends_on"] == names
        assert proxy["ports"] == ["${JETFACE_PUBLISH:-18080}:18080"]
        assert proxy["environment"]["MAX_BODY_BYTES"] == str(Settings().max_body_bytes)
        assert float(proxy["environment"]["REQUEST_TIMEOUT_S"]) == Settings().request_timeout_s
        mounted = [entry.split(":")[0] for entry in proxy["volumes"]]
        assert all((DEPLOY / source).exists() for source in mounted)
