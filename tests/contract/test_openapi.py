"""The OpenAPI description is what was agreed on: a change of it is a change of the contract."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from jetface.server.limits import Access
from tests.support.fakes import Harness

SNAPSHOT = Path(__file__).with_name("openapi.json")


def written() -> bytes:
    """Return the description as the snapshot has it; without what the versions of FastAPI word differently."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
    return orjson.dumps(Harness().app.openapi(), option=options)


def test_description_is_the_snapshot() -> None:
    """Set UPDATE_SNAPSHOTS=1 to accept what has changed."""
    if os.environ.get("UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_bytes(written())
    assert orjson.loads(written()) == orjson.loads(SNAPSHOT.read_bytes())


def test_every_reference_leads_somewhere() -> None:
    description = Harness().app.openapi()
    text = orjson.dumps(description).decode()
    references = {part.split('"')[0] for part in text.split('"$ref":"#/components/schemas/')[1:]}
    assert references <= description["components"]["schemas"].keys()


def test_every_post_takes_four_bodies() -> None:
    for path, methods in Harness().app.openapi()["paths"].items():
        # Those of `/models` are told all by their path, and these have no pictures.
        plain = {"", "/{collection}/persons", "/{collection}/faces/delete", "/{collection}/import"}
        # Those of CompreFace are described by its own pages.
        if (
            "post" in methods
            and not path.startswith(("/models/", "/api/v1/"))
            and path.removeprefix("/v1/collections") not in plain
        ):
            content = methods["post"]["requestBody"]["content"]
            assert {"application/json", "application/msgpack", "multipart/form-data", "image/*"} <= set(content), path


def operations(description: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return every route by its method and path."""
    return {f"{method} {path}": it for path, methods in description["paths"].items() for method, it in methods.items()}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    """The description of a service without keys."""
    description: dict[str, Any] = Harness().app.openapi()
    return description


def parts(value: Any) -> list[dict[str, Any]]:
    """Return every object in a description."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return [*([value] if isinstance(value, dict) else []), *(part for each in inner for part in parts(each))]


def test_no_field_has_a_default(described: dict[str, Any]) -> None:
    """Generators take a field with a default for one that is always there, or send it; so it is told in words."""
    assert [part for part in parts(described) if "default" in part] == []
    fields = described["components"]["schemas"]["DetectBody"]
    assert fields["required"] == ["images"]
    assert fields["properties"]["limit_faces"]["description"].endswith("Default: 0.")
    assert fields["properties"]["threshold"]["type"] == "number"


def test_every_answer_in_json_is_told_as_msgpack_too(described: dict[str, Any]) -> None:
    for name, operation in operations(described).items():
        for status, answer in operation["responses"].items():
            content = answer.get("content", {})
            if "application/json" in content:
                assert content["application/x-msgpack"]["schema"] == content["application/json"]["schema"], (
                    name,
                    status,
                )


def test_files_are_binary(described: dict[str, Any]) -> None:
    binary = {"type": "string", "format": "binary"}
    content = described["paths"]["/compare"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    assert form["properties"]["file"]["items"] == form["properties"]["other"]["items"] == binary
    assert content["image/*"]["schema"] == content["application/octet-stream"]["schema"] == binary
    crop = described["paths"]["/v1/collections/{collection}/faces/{face}/crop"]["get"]
    assert crop["responses"]["200"]["content"] == {"image/jpeg": {"schema": binary}}


def test_every_route_has_a_name_and_a_summary_of_its_own(described: dict[str, Any]) -> None:
    named = operations(described)
    assert len({operation["operationId"] for operation in named.values()}) == len(named)
    for name, operation in named.items():
        assert operation["operationId"].isidentifier(), name
        assert 10 < len(operation["summary"]) < 120, name
        assert not operation["summary"].endswith("."), name


def test_every_route_has_an_example_that_fits(described: dict[str, Any]) -> None:
    for name, operation in operations(described).items():
        sent = operation.get("requestBody", {}).get("content", {})
        shown = [it for it in [*sent.values(), *operation["responses"]["200"]["content"].values()] if "example" in it]
        of_path = [it for it in operation.get("parameters", ()) if it["in"] == "path"]
        assert all("example" in it for it in of_path), name
        assert shown or of_path, name
        for it in shown:
            schema = {**it["schema"], "components": described["components"]}
            jsonschema.Draft202012Validator(schema).validate(it["example"])


@pytest.mark.parametrize(
    ("access", "security"),
    [
        (Access(), [{}, {"bearer": []}, {"key": []}]),
        (Access(api_keys=("secret",)), [{"bearer": []}, {"key": []}]),
    ],
    ids=["open", "with keys"],
)
async def test_it_tells_what_needs_a_key(access: Access, security: list[Any]) -> None:
    """As the service does it: 401 is described for what answers 401 without a key, and for nothing else."""
    harness = Harness(access=access)
    description = harness.app.openapi()
    assert description["security"] == security
    assert description["components"]["securitySchemes"].keys() == {"bearer", "key"}
    async with harness.client() as client:
        for name, operation in operations(description).items():
            method, _, path = name.partition(" ")
            assert ("401" in operation["responses"]) == ("security" not in operation), name
            if access.api_keys:
                answer = await client.request(method, path.replace("{", "").replace("}", ""))
                assert (answer.status_code == 401) == ("401" in operation["responses"]), name


async def test_it_tells_where_the_service_is() -> None:
    async with Harness(root_path="/faces").client() as client:
        assert (await client.get("/faces/openapi.json")).json()["servers"] == [{"url": "/faces"}]
    assert Harness().app.openapi()["servers"] == [{"url": "/"}]
