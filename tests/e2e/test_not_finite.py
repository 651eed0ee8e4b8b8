"""A face to which a model has no finite answer fails its own picture, not the run."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import ormsgpack
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jetface.cli.main import main
from jetface.domain import ExtractOptions
from jetface.errors import NotFiniteError
from jetface.imaging.sources import EncodedPicture
from jetface.service import open_service
from jetface.settings import read_settings
from jetface_client import Client, PictureError
from tests.support.fragile_onnx import dazzled_model
from tests.support.server import Server, running_server

ENTRY = """
name = "dazzled"
task = "recognition"
family = "arcface"
license = "none"
source = "built in code"
sha256 = "{sha256}"
embedding_length = 128

[input]
height_px = 112
width_px = 112
mean = 127.5
std = 127.5
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory, shared_images: Path) -> Path:
    """A picture whose one face is too bright for the model, between two whose faces are not."""
    folder = tmp_path_factory.mktemp("photos")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "a.jpg")
    shutil.copy(shared_images / "t1.jpg", folder / "b.jpg")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "c.jpg")
    return folder


@pytest.fixture(scope="module")
def variables(shared_models: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings with a recognizer that knows all faces of `photos` but the brightest of b.jpg."""
    folder = tmp_path_factory.mktemp("models")
    variables = {
        "MODELS_DIR": str(folder),
        "MODEL_MIRROR": str(shared_models),
        "MODEL_DOWNLOAD": "0",
        "DET_MODEL": "det_500m",
        "BACKEND": "onnxruntime",
    }
    with pytest.MonkeyPatch.context() as patch:
        set_variables(variables, patch)
        others = asyncio.run(brightnesses((photos / "a.jpg").read_bytes()))
        *_, second, brightest = sorted(asyncio.run(brightnesses((photos / "b.jpg").read_bytes())))
    assert brightest > max(others)
    most = (brightest + max(second, *others)) / 2
    graph = dazzled_model(most)
    (folder / "dazzled.onnx").write_bytes(graph)
    (folder / "dazzled.toml").write_text(ENTRY.format(sha256=hashlib.sha256(graph).hexdigest()))
    return {**variables, "REC_MODEL": "dazzled"}


@pytest.fixture
def with_variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Set them."""
    set_variables(variables, monkeypatch)


def set_variables(variables: Mapping[str, str], patch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.fixture(scope="module")
def server(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service with them, and a gallery."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, {**variables, "GALLERY_DIR": str(folder / "gallery")}) as started:
        yield started


async def brightnesses(picture: bytes) -> list[float]:
    """Return the mean of each crop of a picture, 0 to 1."""
    options = ExtractOptions(score_threshold=0.6, with_embedding=False, with_crop=True)
    async with open_service(read_settings()) as service:
        deadline = asyncio.get_running_loop().time() + 60
        (result,) = await service.extractor.extract([EncodedPicture(picture)], options, deadline=deadline)
    return [float(face.crop.mean()) / 255 for face in result.faces if face.crop is not None]


@pytest.mark.usefixtures("with_variables")
def test_extract_goes_on(photos: Path) -> None:
    """The picture has an error beside its path; the exit code tells that one failed."""
    result = CliRunner().invoke(main, ["extract", str(photos), "--json"])
    assert result.exit_code == 1, result.output
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert second["error"]["code"] == "not_finite"
    assert len(first["faces"]) == len(third["faces"]) == 1


@pytest.mark.usefixtures("with_variables")
def test_embed_goes_on(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    result = CliRunner().invoke(main, ["embed", str(photos), "--out", str(out)])
    assert "b.jpg: failed" in result.output
    assert sorted(pq.read_table(out)["path"].to_pylist()) == ["a.jpg", "c.jpg"]


@pytest.mark.usefixtures("with_variables")
async def test_of_a_request_only_its_picture_fails(photos: Path) -> None:
    """Of pictures in one request and of faces in one batch, whatever was asked of them."""
    sources = [EncodedPicture((photos / name).read_bytes()) for name in ("a.jpg", "b.jpg", "c.jpg")]
    async with open_service(read_settings()) as service:
        deadline = asyncio.get_running_loop().time() + 60
        options = ExtractOptions(score_threshold=service.score_threshold)
        first, second, third = await service.extractor.extract(sources, options, deadline=deadline)
        assert isinstance(second.error, NotFiniteError)
        assert (first.error, third.error) == (None, None)
        assert len(first.faces) == len(third.faces) == 1
        again = await service.extractor.extract(sources[:1], options, deadline=deadline)
    assert again[0].error is None


@pytest.fixture
def contents(photos: Path) -> list[bytes]:
    """A picture that the model knows, and the one that it does not."""
    return [(photos / name).read_bytes() for name in ("a.jpg", "b.jpg")]


def test_over_http_only_its_slot_fails(server: Server, contents: list[bytes]) -> None:
    """In all four bodies, by whatever route embeddings are asked for; and the service stays ready."""
    known, unknown = contents
    texts = [base64.b64encode(content).decode() for content in contents]
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        packed = ormsgpack.packb({"images": {"data": contents}})
        answers = [
            client.post("/extract", json={"images": {"data": texts}}),
            client.post("/extract", files=[("files", ("a.jpg", known)), ("files", ("b.jpg", unknown))]),
            client.post("/extract", content=packed, headers={"content-type": "application/msgpack"}),
        ]
        for answer in answers:
            assert [slot["status"] for slot in answer.json()["data"]] == ["ok", "failed"]
        alone = client.post("/extract", content=unknown, headers={"content-type": "image/jpeg"})
        assert [slot["status"] for slot in alone.json()["data"]] == ["failed"]

        found = client.post("/detect", json={"images": {"data": texts}}).json()["pictures"]
        boxes = [[face["box"] for face in picture["faces"]] for picture in found]
        assert list(map(len, boxes)) == [1, 6]
        client.post("/v1/collections", json={"name": "people"})
        for route, options in (
            ("/recognize", {"boxes": boxes}),
            ("/v1/collections/people/persons/somebody/faces", {"largest": True}),
            ("/v1/collections/people/search", {}),
        ):
            pictures = client.post(route, json={"images": {"data": texts}, **options}).json()["pictures"]
            assert [picture["status"] for picture in pictures] == ["ok", "failed"], route
            assert pictures[1]["error"]["code"] == "not_finite"
        assert client.get("/health/ready").status_code == httpx.codes.OK


@pytest.mark.parametrize("path", ["recognize", "faces?subject=somebody"])
def test_compreface_s_clients_are_told_that_it_is_the_picture(server: Server, contents: list[bytes], path: str) -> None:
    """They have no slots: the request fails, and not as if the service had."""
    files = {"file": ("b.jpg", contents[1])}
    answer = httpx.post(f"{server.url}/api/v1/recognition/{path}", files=files, timeout=60, trust_env=False)
    assert answer.status_code == httpx.codes.BAD_REQUEST
    assert "not finite" in answer.json()["message"]


def test_the_client_raises_for_it_and_goes_on_with_the_others(server: Server, photos: Path) -> None:
    with Client(server.url) as client:
        with pytest.raises(PictureError, match="not finite"):
            client.extract(photos / "b.jpg")
        pictures = client.extract_many([photos / name for name in ("a.jpg", "b.jpg", "c.jpg")])
        assert [picture.failure is None for picture in pictures] == [True, False, True]
