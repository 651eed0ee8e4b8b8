"""docs/extending.md works as it is written: an attribute from a file of settings, and one from a head in code."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from jetface_client import Client, ExtractOptions
from tests.support.server import running_server
from tests.support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
TOML, HEAD, ROW = (
    re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[at] for kind, at in (("toml", 0), ("python", 0), ("python", 1))
)
LOGITS = (1.0, 3.0, 2.0)


def answering(numbers: tuple[float, ...]) -> bytes:
    """Return a graph that answers every picture with the same numbers, and has to look at it first."""
    weights = np.zeros((3, len(numbers)), np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "numbers"], ["answer"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["N", len(numbers)])],
        [
            numpy_helper.from_array(weights, "weights"),
            numpy_helper.from_array(np.array(numbers, np.float32), "numbers"),
        ],
    )
    made: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return made


def put(models_dir: Path, name: str, entry: str, numbers: tuple[float, ...]) -> None:
    """Write a graph and its entry, with the graph's digest."""
    graph = answering(numbers)
    models_dir.mkdir(parents=True, exist_ok=True)
    (models_dir / f"{name}.onnx").write_bytes(graph)
    (models_dir / f"{name}.toml").write_text(entry.replace("0" * 64, hashlib.sha256(graph).hexdigest()))


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve both: a copy of the package with the page's file and row, and both models."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(REPOSITORY / "app", folder / "app")
    (folder / "models").symlink_to(REPOSITORY / "models")
    heads = folder / "app" / "jetface" / "heads"
    (heads / "age_regression.py").write_text(HEAD)
    table = (heads / "families.py").read_text()
    table = table.replace("from jetface.heads import ", "from jetface.heads import age_regression, ", 1)
    (heads / "families.py").write_text(
        table.replace('        "scrfd": scrfd.FAMILY,\n', f'        "scrfd": scrfd.FAMILY,\n{ROW}', 1)
    )
    put(folder / "weights", "emotion", TOML, LOGITS)
    age = TOML.replace('"emotion"', '"years"').replace("classifier", "age_regression").replace("classification", "age")
    put(folder / "weights", "years", re.sub(r"labels = .*\n", "", age), (42.5,))
    variables = {
        "PYTHONPATH": str(folder / "app"),
        "MODELS_DIR": str(folder / "weights"),
        "DET_MODEL": "starter_det",
        "REC_MODEL": "none",
        "ATTRIBUTE_MODELS": "emotion,years",
    }
    with running_server(folder, variables) as server:
        yield server.url


@pytest.fixture
def caller(extended: str) -> Iterator[httpx.Client]:
    """A caller of the extended service."""
    with httpx.Client(base_url=extended, timeout=60, trust_env=False) as connected:
        yield connected


CROP = cv2.imencode(".png", np.full((112, 112, 3), 90, np.uint8))[1].tobytes()


def attributes_of_crop(caller: httpx.Client, **options: str) -> Any:
    answer = caller.post(
        "/extract",
        params={"embed_only": "1", "extract_embedding": "0", **options},
        content=CROP,
        headers={"content-type": "image/png"},
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["data"][0]["faces"][0]["attributes"]


def test_a_classifier_is_answered_by_its_name(caller: httpx.Client) -> None:
    told = attributes_of_crop(caller, attributes="emotion")
    weights = np.exp(LOGITS) / np.exp(LOGITS).sum()
    assert told.keys() == {"emotion"}
    assert told["emotion"]["label"] == "sad"
    assert told["emotion"]["score"] == pytest.approx(weights[1], rel=1e-5)
    assert told["emotion"]["scores"] == pytest.approx(
        dict(zip(("glad", "sad", "angry"), weights, strict=True)), rel=1e-5
    )


def test_a_family_of_ones_own_is_answered_beside_it(caller: httpx.Client) -> None:
    told = attributes_of_crop(caller, attributes="years,emotion")
    assert told["years"] == {"years": 42.5}
    assert told["emotion"]["label"] == "sad"


def test_all_that_is_served_is_told_when_the_key_alone_is_asked_for(caller: httpx.Client) -> None:
    assert attributes_of_crop(caller, fields="attributes").keys() == {"emotion", "years"}


def test_a_name_that_is_not_served_is_refused(caller: httpx.Client) -> None:
    answer = caller.post(
        "/extract", params={"attributes": "emotoin"}, content=CROP, headers={"content-type": "image/png"}
    )
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].endswith("there are: emotion, years.")


def test_info_and_openapi_tell_of_both(caller: httpx.Client) -> None:
    told = caller.get("/info").json()["models"]["attributes"]
    assert [(each["name"], each["option"], each["shown"]) for each in told] == [
        ("emotion", "attributes", ["label"]),
        ("years", "attributes", ["years"]),
    ]
    schemas = caller.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["Age"]["properties"]["years"]["description"] == "Years."
    assert "label" in schemas["Classification"]["properties"]


def test_the_client_has_them(extended: str, shared_images: Path) -> None:
    with Client(extended) as client:
        names = client.info().attributes
        assert names == ("emotion", "years")
        picture = client.extract(
            shared_images / "ifrest_Stallone.jpg", ExtractOptions(embeddings=False, attributes=names)
        )
    (face,) = picture.faces
    assert face.attributes["years"] == {"years": 42.5}
    assert (face.attributes["emotion"] or {})["label"] == "sad"
