"""The OpenAPI description is what was agreed on: a change of it is a change of the contract."""

from __future__ import annotations

import os
from pathlib import Path

import orjson

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
        plain = {"", "/{collection}/persons", "/{collection}/faces/delete"}
        # Those of CompreFace are described by its own pages.
        if (
            "post" in methods
            and not path.startswith(("/models/", "/api/v1/"))
            and path.removeprefix("/v1/collections") not in plain
        ):
            content = methods["post"]["requestBody"]["content"]
            assert {"application/json", "application/msgpack", "multipart/form-data", "image/*"} <= set(content), path
