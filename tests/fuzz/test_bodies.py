"""Bodies that are almost right: bytes flipped, nested deep, split into thousands of parts, called something else."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.api.requests import RequestLimits
from tests.support.answers import check_answer
from tests.support.fakes import Harness, jpeg_of
from tests.support.fuzzing import fuzz

ROUTES = ["/extract", "/detect", "/recognize", "/compare", "/draw_detections", "/multipart/draw_detections"]
MAX_IMAGES = 8
PICTURE = jpeg_of()
TEXT = base64.b64encode(PICTURE).decode()
WHOLE: dict[str, Any] = {
    "threshold": 0.5, "limit_faces": 2, "min_face_size": 8, "msgpack": False, "fields": ["bbox"],
    "embedding_format": "float", "img_req_headers": {"a": "b"}, "landmarks": None, "boxes": [[[1, 2, 3, 4]]],
}  # fmt: skip
MSGPACK = ormsgpack.packb({"images": {"data": [b"picture", b"another"]}, **WHOLE})
JSON = json.dumps({"images": {"data": ["cGljdHVyZQ==", "YW5vdGhlcg=="]}, **WHOLE}).encode()
DISPOSITION = b"--b\r\nContent-Disposition: form-data; "
FILE = DISPOSITION + b'name="file"; filename="a"\r\n'
THRESHOLD = DISPOSITION + b'name="threshold"\r\n'
CLOSE = b"\r\n--b--\r\n"
FORM = FILE + b"Content-Type: image/jpeg\r\n\r\npicture\r\n" + THRESHOLD + b"\r\n0.5" + CLOSE
SEEDS = {"application/json": JSON, "application/msgpack": MSGPACK, "multipart/form-data; boundary=b": FORM}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Harness(limits=RequestLimits(max_images=MAX_IMAGES)).client() as connected:
        yield connected


@st.composite
def mutated(draw: st.DrawFn, seed: bytes) -> bytes:
    """Cut, overwrite, insert and repeat pieces of a body."""
    body = bytearray(seed)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        end = start + draw(st.integers(0, 6))
        body[start:end] = draw(st.binary(max_size=6) | st.just(bytes(body[end : end + 20]) * 2))
    return bytes(body)


@pytest.mark.parametrize("media_type", SEEDS)
@fuzz(100)
@given(data=st.data())
async def test_mutated_bodies(client: httpx.AsyncClient, media_type: str, data: st.DataObject) -> None:
    body = data.draw(mutated(SEEDS[media_type]))
    route = data.draw(st.sampled_from(ROUTES))
    check_answer(await client.post(route, content=body, headers={"content-type": media_type}))


def nested(opening: bytes, inner: bytes, closing: bytes, depth: int) -> bytes:
    return opening * depth + inner + closing * depth


BOMBS = {
    "json list": (b"", b"[", b"", b"]", b""),
    "json object": (b"", b'{"a":', b"1", b"}", b""),
    "json in images": (b'{"images":', b'{"images":', b"1", b"}", b"}"),
    "json in boxes": (b'{"images":{"data":[]},"boxes":', b"[", b"", b"]", b"}"),
    "json in fields": (b'{"images":{"data":[]},"fields":', b"[", b"", b"]", b"}"),
    "msgpack list": (b"", b"\x91", b"\xc0", b"", b""),
    "msgpack map": (b"", b"\x81\xa1a", b"\xc0", b"", b""),
    "msgpack in boxes": (b"\x82\xa6images\x81\xa4data\x90\xa5boxes", b"\x91", b"\xc0", b"", b""),
    "msgpack map of list keys": (b"", b"\x81\x91", b"\xc0", b"", b""),
}


@pytest.mark.parametrize("depth", [100, 1_000, 1_000_000])
@pytest.mark.parametrize("bomb", BOMBS)
async def test_depth_bombs(client: httpx.AsyncClient, bomb: str, depth: int) -> None:
    """Parsers refuse what is nested too deep; what they take, the checks after them must bear."""
    before, opening, inner, closing, after = BOMBS[bomb]
    body = before + nested(opening, inner, closing, depth) + after
    answer = await client.post(
        "/recognize", content=body, headers={"content-type": f"application/{bomb.partition(' ')[0]}"}
    )
    check_answer(answer)
    assert answer.status_code == 422


@pytest.mark.parametrize("depth", [50, 500, 5_000, 500_000])
async def test_depth_bombs_in_a_form(client: httpx.AsyncClient, depth: int) -> None:
    """`boxes` of a form is JSON within text."""
    boxes = nested(b"[", b"1", b"]", depth).decode()
    answer = await client.post("/recognize", files={"file": ("a", PICTURE)}, data={"boxes": boxes})
    check_answer(answer)
    assert answer.status_code == 422


@pytest.mark.parametrize("length", ["dd ffffffff", "df ffffffff", "db ffffffff", "c6 7fffffff", "c9 ffffffff 01"])
async def test_lengths_that_are_lies(client: httpx.AsyncClient, length: str) -> None:
    """Four billion elements are announced; nothing is set aside for them."""
    headers = {"content-type": "application/msgpack"}
    for before in (b"", b"\x81\xa6images", b"\x81\xa6images\x81\xa4data\x91"):
        check_answer(await client.post("/extract", content=before + bytes.fromhex(length), headers=headers))


@pytest.mark.parametrize(
    "number", ["9" * 400, "-" + "9" * 5000, "1e400", "1e-400", "NaN", "-Infinity", "0x10", "1_0", "٣"]
)
async def test_numbers_of_every_kind(client: httpx.AsyncClient, number: str) -> None:
    for field in ("threshold", "limit_faces", "min_face_size", "min_quality"):
        body = f'{{"images": {{"data": ["{TEXT}"]}}, "{field}": {number}}}'
        as_json = await client.post("/extract", content=body.encode(), headers={"content-type": "application/json"})
        as_form = await client.post("/extract", files={"file": ("a", PICTURE)}, data={field: number})
        as_query = await client.post(
            "/extract", params={field: number}, content=PICTURE, headers={"content-type": "image/jpeg"}
        )
        for answer in (as_json, as_form, as_query):
            check_answer(answer)


NUMBERS_AND_FLAGS = [
    "threshold", "embed_only", "return_face_data", "return_landmarks", "extract_embedding", "extract_ga",
    "detect_masks", "detect_liveness", "return_quality", "min_quality", "limit_faces", "min_face_size",
    "verbose_timings", "msgpack", "img_req_headers", "fields", "embedding_format", "draw_landmarks", "draw_scores",
    "draw_sizes", "landmarks", "boxes", "others", "detection_threshold",
]  # fmt: skip


@pytest.mark.parametrize("route", ROUTES)
async def test_null_is_not_given(client: httpx.AsyncClient, route: str) -> None:
    body = {"images": {"data": [TEXT, TEXT], "urls": None}, **dict.fromkeys(NUMBERS_AND_FLAGS)}
    assert (await client.post(route, json=body)).status_code == 200


@pytest.mark.parametrize("num_parts", [MAX_IMAGES + 1, 2_000, 20_000])
@pytest.mark.parametrize("name", ["file", "other", "threshold", "unheard_of"])
async def test_many_parts(client: httpx.AsyncClient, name: str, num_parts: int) -> None:
    """Counted while they come: of twenty thousand parts a few are read."""
    part = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\nx\r\n' % name.encode()
    answer = await client.post(
        "/extract", content=part * num_parts + b"--b--\r\n", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    check_answer(answer)
    assert answer.status_code == 422


ODD_FORMS = {
    "no name": DISPOSITION + b'filename="a"\r\n\r\nx' + CLOSE,
    "a path as file name": DISPOSITION + b'name="file"; filename="../../etc/x"\r\n\r\nx' + CLOSE,
    "long part header": FILE + b"X: " + b"a" * 10**6 + b"\r\n\r\nx" + CLOSE,
    "many part headers": FILE + b"X: a\r\n" * 10**5 + b"\r\nx" + CLOSE,
    "long name": DISPOSITION + b'name="' + b"a" * 10**6 + b'"\r\n\r\nx' + CLOSE,
    "not form-data": b'--b\r\nContent-Disposition: attachment; name="file"; filename="a"\r\n\r\nx' + CLOSE,
    "charset field": DISPOSITION + b'name="_charset_"\r\n\r\nutf-7\r\n' + THRESHOLD + b"\r\n+ADA-" + CLOSE,
    "bytes as name": DISPOSITION + b'name="\xff\xfe"\r\n\r\n\xff' + CLOSE,
    "bytes as field": THRESHOLD + b"\r\n\xff\xfe" + CLOSE,
}


@pytest.mark.parametrize("form", ODD_FORMS)
async def test_odd_forms(client: httpx.AsyncClient, form: str) -> None:
    headers = {"content-type": "multipart/form-data; boundary=b"}
    check_answer(await client.post("/extract", content=ODD_FORMS[form], headers=headers))


FORM_HEADERS = {"content-type": "multipart/form-data; boundary=b"}


async def test_a_form_that_was_cut_off_is_refused(client: httpx.AsyncClient) -> None:
    """Else the pictures after the cut were lost unnoticed."""
    for body in (FORM.removesuffix(CLOSE), FORM.removesuffix(b"--\r\n"), FORM.removesuffix(CLOSE) + b"\r\n" + FILE):
        answer = await client.post("/extract", content=body, headers=FORM_HEADERS)
        check_answer(answer)
        assert answer.status_code == 422


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "utf-7", "rot13", "zlib", "unicode_escape", "x"])
async def test_no_charset_of_the_client_decodes_a_form(client: httpx.AsyncClient, charset: str) -> None:
    """Some codecs of Python's fail, some take quadratic time; fields are UTF-8."""
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    body = DISPOSITION + b'name="x"\r\n\r\n' + b"a" * 10**5 + b"-" + b"b9" * 10**5 + b"\r\n" + FORM
    assert (await client.post("/extract", content=body, headers=headers)).status_code == 200


PARAMETERS = [
    "", "; charset=utf-7", "; charset=utf-16", "; charset=nonsense", '; charset="', "; boundary=b", "; ; ;",
    ";" * 9000, "; boundary=" + "b" * 9000, '; boundary="', "; boundary*=utf-8''b", "; boundary=\xff",
    "; charset=utf-8; charset=utf-16",
]  # fmt: skip


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("media_type", ["application/json", "application/msgpack", "multipart/form-data", "image/jpeg"])
async def test_parameters_of_the_content_type(client: httpx.AsyncClient, media_type: str, parameters: str) -> None:
    """A charset is not looked at: JSON is UTF-8 and the rest is bytes."""
    body = SEEDS.get(media_type, FORM if "form" in media_type else PICTURE)
    headers = [(b"content-type", (media_type + parameters).encode("latin-1"))]
    check_answer(await client.post("/extract", content=body, headers=headers))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-8-sig", "utf-7"])
async def test_json_of_another_encoding_is_refused(client: httpx.AsyncClient, encoding: str) -> None:
    body = json.dumps({"images": {"data": [TEXT]}, "x": "ä"}, ensure_ascii=False).encode(encoding)
    answer = await client.post(
        "/extract", content=body, headers={"content-type": f"application/json; charset={encoding}"}
    )
    check_answer(answer)
    assert answer.status_code in {200, 422}


HEADER_NAMES = [
    "accept", "content-type", "content-encoding", "x-request-id", "x-request-timeout-ms", "x-api-key", "authorization",
    "host", "origin", "if-none-match", "range", "expect", "content-language", "cookie",
]  # fmt: skip
HEADER_VALUES = [
    b"", b"*/*", b"application/msgpack", b"image/jpeg", b"identity", b"gzip, br", b"1000", b"-1", b"\xff\xfe",
    b"a" * 5000, b"'; DROP TABLE", b"bytes=0-", b"Bearer", b"Basic Og==", b'"', b",,,", b";q=x",
]  # fmt: skip
ANY_VALUE = st.binary(max_size=12).filter(lambda value: not {0, 10, 13} & set(value))


@fuzz(60)
@given(
    headers=st.lists(st.tuples(st.sampled_from(HEADER_NAMES), st.sampled_from(HEADER_VALUES) | ANY_VALUE), max_size=8),
    method=st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"]),
    path=st.sampled_from(["/", "/extract", "/models/det_500m", "/health", "/metrics", "/static/x/y", "/docs"]),
)
async def test_headers_of_every_kind(
    client: httpx.AsyncClient, headers: list[tuple[str, bytes]], method: str, path: str
) -> None:
    """Twice, empty, no text: each is refused or not looked at."""
    check_headers = [(name.encode(), value) for name, value in headers]
    answer = await client.request(method, path, headers=check_headers, content=PICTURE if method == "POST" else b"")
    if method != "HEAD":
        check_answer(answer)
    assert answer.status_code < 500


@fuzz(60)
@given(name=st.text(min_size=1, max_size=40) | st.sampled_from(["..", "%2e%2e%2f", "\x00", "a" * 9000, "/etc/passwd"]))
async def test_model_names_of_every_kind(client: httpx.AsyncClient, name: str) -> None:
    answer = await client.get(httpx.URL("http://jetface").copy_with(raw_path=b"/models/" + _quoted(name)))
    check_answer(answer)
    assert answer.status_code in {404, 200}


def _quoted(name: str) -> bytes:
    return "".join(f"%{byte:02x}" for byte in name.encode("utf-8", "surrogatepass")).encode()
