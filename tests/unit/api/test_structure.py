"""Bodies are taken apart as a parser would read them, and refused before they cost."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import orjson
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.api.requests import MAX_ITEMS, Cut, Structure, parse_json, parse_msgpack
from jetface.errors import RequestError
from jetface.imaging.sources import Base64Picture, EncodedPicture, decode_base64
from tests.support.fakes import Harness, jpeg_of
from tests.support.fuzzing import fuzz

PICTURE = base64.b64encode(jpeg_of()).decode()
LONG = base64.b64encode(bytes(range(256)) * 100).decode()
JSON = {"content-type": "application/json"}
MSGPACK = {"content-type": "application/msgpack"}


def whole(structure: Structure, item: Any) -> Any:
    """Put everything back that was cut out."""
    found = structure.found(item)
    if isinstance(found, Cut):
        content = structure.body[found.start : found.end]
        if not found.is_text:
            return content
        return orjson.loads(b'"%b"' % content) if structure.is_json else content.decode()
    if isinstance(found, dict):
        return {name: whole(structure, value) for name, value in found.items()}
    return [whole(structure, each) for each in found] if isinstance(found, list) else found


TEXTS = st.text(max_size=9) | st.sampled_from(
    ["a" * 5000, '"' * 3000, "\\" * 100, "ä" * 5000, "\\" * 9 + '"' + "x" * 5000]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
KEYS = st.text(min_size=1, max_size=5)


def values(scalars: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
    )


@fuzz(100)
@given(value=values(SCALARS), indent=st.sampled_from([None, 2]))
def test_json_reads_as_it_does_whole(value: Any, indent: int | None) -> None:
    body = json.dumps({"v": value, "w": "y" * 20_000}, indent=indent, allow_nan=False).encode()
    structure = parse_json(body)
    assert structure.cuts
    assert whole(structure, structure.value) == orjson.loads(body)


@fuzz(100)
@given(value=values(SCALARS | st.binary(max_size=9) | st.just(b"b" * 5000)), behind=st.binary(max_size=3))
def test_msgpack_reads_as_it_does_whole(value: Any, behind: bytes) -> None:
    body = ormsgpack.packb(value)
    structure = parse_msgpack(body + behind)
    assert structure.num_bytes == len(body)
    assert whole(structure, structure.value) == ormsgpack.unpackb(body)


@fuzz(200)
@given(body=st.binary(max_size=40))
def test_what_is_no_msgpack_is_refused_and_nothing_else_happens(body: bytes) -> None:
    try:
        structure = parse_msgpack(body)
    except RequestError:
        return
    assert ormsgpack.packb(structure.value) or structure.num_bytes <= len(body)


def test_every_kind_of_msgpack_value_is_stepped_over() -> None:
    numbers = "7f e0 cc01 cd0001 ce00000001 cf0000000000000001 d0ff d1ffff d2ffffffff d3ffffffffffffffff ca3f800000"
    texts = "cb3ff0000000000000 a161 d90161 da000161 db0000000161 c40161 c5000161 c60000000161"
    heads = (
        f"c0 c2 c3 {numbers} {texts} 90 80 9101 dc000101 dd0000000101 81a16102 de0001a161c0 df00000001a161c0".split()
    )
    body = b"\xdc" + len(heads).to_bytes(2, "big") + b"".join(map(bytes.fromhex, heads))
    for number in range(len(body)):
        with pytest.raises(RequestError):
            parse_msgpack(body[:number])
    assert parse_msgpack(body + b"\xc1").num_bytes == len(body)


@pytest.mark.parametrize(
    "escaped",
    [
        LONG.replace("/", "\\/"),
        LONG.replace("+", "\\u002B"),
        LONG.replace("=", "\\u003d"),
        "\\r\\n".join(LONG[at : at + 76] for at in range(0, len(LONG), 76)),
    ],
    ids=["PHP", ".NET", "Java", "lines"],
)
async def test_base64_as_other_encoders_escape_it(client: httpx.AsyncClient, harness: Harness, escaped: str) -> None:
    body = b'{"images":{"data":["' + escaped.encode() + b'"]}}'
    assert (await client.post("/extract", content=body, headers=JSON)).status_code == 200
    (source,) = harness.extractor.sources
    assert isinstance(source, Base64Picture)
    assert decode_base64(source.text) == bytes(range(256)) * 100


async def test_long_and_short_values_keep_their_order(client: httpx.AsyncClient, harness: Harness) -> None:
    long_url, header = "http://localhost/" + "a" * 6000, "b" * 5000
    data = [LONG, "QUJD", LONG[::-1], "data:image/png;base64," + LONG]
    asked: dict[str, Any] = {"images": {"data": data}, "threshold": 0.5, "unknown": LONG}
    assert (await client.post("/extract", json=asked)).status_code == 200
    texts = [source.text for source in harness.extractor.sources if isinstance(source, Base64Picture)]
    assert [text if isinstance(text, str) else bytes(text).decode() for text in texts] == data
    asked = {"images": {"urls": [long_url, "x"]}, "img_req_headers": {"a": header}, "unknown": LONG}
    for content, headers in ((json.dumps(asked).encode(), JSON), (ormsgpack.packb(asked), MSGPACK)):
        assert (await client.post("/extract", content=content, headers=headers)).status_code == 200
        found: Any = harness.extractor.sources
        assert [(source.url, source.headers) for source in found] == [(long_url, {"a": header}), ("x", {"a": header})]
    packed = ormsgpack.packb({"images": {"data": [b"p" * 9000, LONG, b"q"]}})
    assert (await client.post("/extract", content=packed, headers=MSGPACK)).status_code == 200
    first, second, third = harness.extractor.sources
    assert (first, third) == (EncodedPicture(b"p" * 9000), EncodedPicture(b"q"))
    assert isinstance(second, Base64Picture)
    assert bytes(second.text).decode() == LONG if isinstance(second.text, memoryview) else second.text == LONG


@pytest.mark.parametrize("marker", [{"": 0}, {"": 7}, {"": -1}, {"": True}, {"": None}])
async def test_a_marker_that_a_client_made_up_is_no_picture(
    client: httpx.AsyncClient, harness: Harness, marker: dict[str, Any]
) -> None:
    """At most it names a long text of the same body once more."""
    answer = await client.post("/extract", json={"images": {"data": [marker]}})
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].startswith("images.data.0")
    answer = await client.post("/extract", json={"images": {"data": [LONG, marker]}})
    assert answer.status_code == (200 if marker == {"": 0} else 422)
    assert len(harness.extractor.sources) in {0, 2}


@pytest.mark.parametrize("path", ["/extract", "/detect", "/recognize", "/draw_detections"])
async def test_a_long_text_where_none_belongs_is_named(client: httpx.AsyncClient, path: str) -> None:
    for field in ("threshold", "limit_faces", "landmarks", "msgpack"):
        answer = await client.post(path, json={"images": {"data": [PICTURE]}, field: "x" * 100_000})
        assert answer.status_code in {200, 422}
        assert len(answer.content) < 100_000
    answer = await client.post(path, json={"images": {"urls": ["x" * 20_000]}})
    assert answer.json()["error"]["message"].startswith("images.urls.0: String should have at most 8192 characters")


async def test_all_faces_of_a_full_picture_may_be_named(client: httpx.AsyncClient, harness: Harness) -> None:
    """As many as MAX_FACES allows by default."""
    for fields in (
        {"landmarks": [[[[1.5, 2.25]] * 5] * 512] * 2},
        {"boxes": [[[1.5, 2.25, 300.125, 400.5]] * 512] * 2},
    ):
        asked = {"images": {"data": [PICTURE] * 2}, **fields}
        for content, headers in ((json.dumps(asked).encode(), JSON), (ormsgpack.packb(asked), MSGPACK)):
            answer = await client.post("/recognize", content=content, headers=headers)
            assert answer.status_code == 200, answer.text
            assert len(harness.extractor.known) == 2
        answer = await client.post(
            "/recognize",
            files=[("file", ("a", jpeg_of()))] * 2,
            data={name: json.dumps(value) for name, value in fields.items()},
        )
        assert answer.status_code == 200, answer.text


async def test_too_many_values_are_told_with_their_limit(client: httpx.AsyncClient) -> None:
    answer = await client.post("/extract", json={"images": {"data": [1] * 30_000}})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"]["max_items"] == MAX_ITEMS + 2 * 128
