"""A client written for InsightFace-REST runs against the started service unchanged."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import ormsgpack
import pytest

from tests.contract.insightface_rest_client import OldAsyncClient, OldClient, OldFace, OldPicture
from tests.contract.insightface_rest_shapes import FIXTURE, misfits
from tests.support.file_server import Answer, FileServer, file_server
from tests.support.pictures import decode_image, read_image
from tests.support.server import Server, running_server

Extract = Callable[..., list[OldPicture]]


@pytest.fixture(scope="module")
def pictures(shared_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six faces, with one, and what is no picture."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "people").mkdir()
    shutil.copy(shared_images / "t1.jpg", folder / "t1.jpg")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "people" / "one.jpg")
    (folder / "broken.jpg").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def web(pictures: Path) -> Iterator[FileServer]:
    """The same pictures by URL."""
    names = ("t1.jpg", "people/one.jpg", "broken.jpg")
    with file_server({f"/{name}": Answer((pictures / name).read_bytes()) for name in names}) as served:
        yield served


@pytest.fixture(scope="module")
def server(shared_models: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Set up by the names its operator knows from InsightFace-REST; URLs are off until somebody turns them on."""
    variables = {
        **FIXTURE["env"],
        "MODEL_MIRROR": str(shared_models),
        "DET_NAME": "scrfd_500m_bnkps",
        "REC_NAME": "w600k_mbf_dequantized",
        "DEF_DET_THRESH": "0.5",
        "NUM_WORKERS": "1",
        "ROOT_IMAGES_DIR": str(pictures),
        "URL_FETCH": "allow-list",
        "URL_ALLOW_HOSTS": "127.0.0.1",
    }
    with running_server(tmp_path_factory.mktemp("server"), variables) as started:
        yield started


@pytest.fixture(params=["sync", "async"])
def extract(request: pytest.FixtureRequest, server: Server) -> Iterator[Extract]:
    """Call `/extract` by either client."""
    if request.param == "sync":
        client = OldClient(server.url)
        yield client.extract
        client.close()
        return

    async def once(**options: object) -> list[OldPicture]:
        client = OldAsyncClient(server.url)
        try:
            return await client.extract(**options)
        finally:
            await client.aclose()

    yield lambda **options: asyncio.run(once(**options))


@pytest.mark.parametrize("body_format", ["json", "msgpack"])
@pytest.mark.parametrize("origin", ["files", "urls", "local"])
def test_faces_come_from_everywhere_in_both_formats(
    extract: Extract, pictures: Path, web: FileServer, body_format: str, origin: str
) -> None:
    """Files in the body, pictures of a web server, paths below ROOT_IMAGES_DIR: the same faces, failures in place."""
    names = ("t1.jpg", "broken.jpg", "people/one.jpg")
    sources: dict[str, dict[str, Any]] = {
        "files": {"files": [pictures / name for name in names]},
        "urls": {"urls": [f"{web.url}/{name}" for name in names]},
        "local": {"urls": list(names)},
    }
    six, broken, one = extract(**sources[origin], body_format=body_format, threshold=0.5, return_landmarks=True)
    assert [len(six.faces), len(broken.faces), len(one.faces)] == [6, 0, 1]
    assert (six.status, broken.status, one.status) == ("ok", "failed", "ok")
    assert broken.traceback
    assert [face.num_det for face in six.faces] == [0, 1, 2, 3, 4, 5]
    assert all(a.prob >= b.prob for a, b in itertools.pairwise(six.faces))
    (face,) = one.faces
    assert all(isinstance(value, int) for value in face.bbox)
    assert face.size == pytest.approx(face.bbox[2] - face.bbox[0], abs=1)
    assert face.vec is not None
    assert face.vec.shape == (512,)
    assert float(np.linalg.norm(face.vec)) == pytest.approx(1, abs=1e-4)
    assert face.norm is not None
    assert face.norm > 1
    assert face.landmarks is not None
    assert len(face.landmarks) == 5
    assert (face.gender, face.age, face.mask) == (None, None, None)


def test_crops_of_one_answer_are_the_pictures_of_the_next(extract: Extract, pictures: Path, tmp_path: Path) -> None:
    """`facedata` of the largest face, saved and sent back with `embed_only`, is the same person."""
    (picture,) = extract(files=[pictures / "t1.jpg"], limit_faces=1, return_face_data=True)
    (face,) = picture.faces
    assert face.facedata is not None
    crop = tmp_path / "crop.jpg"
    crop.write_bytes(face.facedata)
    assert read_image(crop).shape == (112, 112, 3)
    (embedded,) = extract(files=[crop], embed_only=True, msgpack=True)
    assert embedded.faces[0].bbox == (0, 0, 112, 112)
    assert embedded.faces[0].vec is not None
    assert face.vec is not None
    assert float(embedded.faces[0].vec @ face.vec) > 0.98


def area(face: OldFace) -> int:
    x1, y1, x2, y2 = face.bbox
    return (x2 - x1) * (y2 - y1)


def test_options_filter(extract: Extract, pictures: Path) -> None:
    (largest,) = extract(files=[pictures / "t1.jpg"], limit_faces=2, extract_embedding=False, extract_ga=True)
    first, second = largest.faces
    assert area(first) >= area(second)
    assert first.vec is None
    (wide,) = extract(files=[pictures / "t1.jpg"], min_face_size=first.size, limit_faces=None, threshold=None)
    assert [face.size >= first.size for face in wide.faces] == [True] * len(wide.faces)
    assert wide.faces


@pytest.mark.parametrize(
    "url", ["http://localhost:1/x.jpg", "http://169.254.169.254/latest", "../secret.jpg", "/etc/passwd"]
)
def test_what_may_not_be_fetched_fails_in_its_slot(extract: Extract, url: str) -> None:
    refused, fine = extract(urls=[url, "t1.jpg"], limit_faces=1)
    assert refused.status == "failed"
    assert "passwd" not in str(refused.traceback)
    assert len(fine.faces) == 1


def test_drawing_information_and_health(server: Server, pictures: Path) -> None:
    client = OldClient(server.url)
    try:
        for drawn in (
            client.draw(pictures / "t1.jpg", draw_landmarks=False, threshold=0.5),
            client.draw_multipart(pictures / "t1.jpg", draw_scores="false", limit_faces="2"),
        ):
            assert decode_image(drawn).shape == (886, 1280, 3)
        info = client.info()
        assert info.keys() >= {"version", "tensorrt_version", "log_level", "models", "defaults"}
        assert info["models"]["det_name"] == "det_500m"
        assert info["defaults"]["det_thresh"] == 0.5
        assert client.health() == {"status": "ok"}
    finally:
        client.close()


def test_what_their_clients_send_is_answered_as_they_read_it(server: Server, pictures: Path) -> None:
    """Requests as `insightface_rest.json` has them, in that order, over one connection: every key and type is there."""

    def filled(value: Any, *, is_msgpack: bool) -> Any:
        """Return a body with pictures in place of their names."""
        if isinstance(value, dict):
            return {key: filled(item, is_msgpack=is_msgpack) for key, item in value.items()}
        if isinstance(value, list):
            return [filled(item, is_msgpack=is_msgpack) for item in value]
        if isinstance(value, str) and value.startswith("@"):
            content = (pictures / value[1:]).read_bytes()
            return content if is_msgpack else base64.b64encode(content).decode("ascii")
        return value

    with httpx.Client(base_url=server.url, timeout=120, trust_env=False) as client:
        client.headers.clear()
        for exchange in FIXTURE["exchanges"]:
            is_msgpack = "msgpack" in exchange["headers"].get("content-type", "")
            body = filled(exchange.get("body"), is_msgpack=is_msgpack)
            packed = ormsgpack.packb(body) if is_msgpack else orjson.dumps(body)
            answer = client.request(
                exchange["method"], exchange["path"], headers=exchange["headers"],
                content=None if body is None else packed,
            )  # fmt: skip
            assert answer.status_code == 200, (exchange["what"], answer.text)
            assert answer.headers["content-type"] == exchange["answer"], exchange["what"]
            is_packed = exchange["answer"] == "application/x-msgpack"
            read = ormsgpack.unpackb(answer.content) if is_packed else orjson.loads(answer.content)
            assert misfits(read, exchange["shape"]) == [], exchange["what"]
            if exchange.get("body", {}).get("images"):
                assert all(slot["status"] == "ok" and slot["faces"] for slot in read["data"]), exchange["what"]
