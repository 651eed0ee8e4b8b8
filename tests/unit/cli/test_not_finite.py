"""A face to which a model has no finite answer fails its own picture, not the run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from jetface.cli.main import main
from jetface.domain import ExtractOptions
from jetface.errors import NotFiniteError
from jetface.imaging.sources import EncodedPicture
from jetface.service import open_service
from jetface.settings import Settings, read_settings
from tests.support.fragile_onnx import dazzled_model

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


@pytest.fixture
def photos(tmp_path: Path, shared_images: Path) -> Path:
    """A picture whose one face is too bright for the model, between two whose faces are not."""
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "a.jpg")
    shutil.copy(shared_images / "t1.jpg", folder / "b.jpg")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "c.jpg")
    return folder


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, shared_models: Path, photos: Path, tmp_path: Path) -> Settings:
    """Settings with a recognizer that knows all faces of `photos` but the brightest of b.jpg."""
    folder = tmp_path / "models"
    folder.mkdir()
    variables = {"MODELS_DIR": str(folder), "MODEL_MIRROR": str(shared_models), "MODEL_DOWNLOAD": "0"}
    for name, value in {**variables, "DET_MODEL": "det_500m", "BACKEND": "onnxruntime"}.items():
        monkeypatch.setenv(name, value)
    others = asyncio.run(brightnesses((photos / "a.jpg").read_bytes()))
    *_, second, brightest = sorted(asyncio.run(brightnesses((photos / "b.jpg").read_bytes())))
    assert brightest > max(others)
    most = (brightest + max(second, *others)) / 2
    graph = dazzled_model(most)
    (folder / "dazzled.onnx").write_bytes(graph)
    (folder / "dazzled.toml").write_text(ENTRY.format(sha256=hashlib.sha256(graph).hexdigest()))
    monkeypatch.setenv("REC_MODEL", "dazzled")
    return read_settings()


async def brightnesses(picture: bytes) -> list[float]:
    """Return the mean of each crop of a picture, 0 to 1."""
    options = ExtractOptions(score_threshold=0.6, with_embedding=False, with_crop=True)
    async with open_service(read_settings()) as service:
        deadline = asyncio.get_running_loop().time() + 60
        (result,) = await service.extractor.extract([EncodedPicture(picture)], options, deadline=deadline)
    return [float(face.crop.mean()) / 255 for face in result.faces if face.crop is not None]


def test_extract_goes_on(settings: Settings, photos: Path) -> None:
    """The picture has an error beside its path; the exit code tells that one failed."""
    del settings
    result = CliRunner().invoke(main, ["extract", str(photos), "--json"])
    assert result.exit_code == 1, result.output
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert second["error"]["code"] == "not_finite"
    assert len(first["faces"]) == len(third["faces"]) == 1


def test_embed_goes_on(settings: Settings, photos: Path, tmp_path: Path) -> None:
    del settings
    out = tmp_path / "faces.parquet"
    result = CliRunner().invoke(main, ["embed", str(photos), "--out", str(out)])
    assert "b.jpg: failed" in result.output
    assert sorted(pq.read_table(out)["path"].to_pylist()) == ["a.jpg", "c.jpg"]


async def test_of_a_request_only_its_picture_fails(settings: Settings, photos: Path) -> None:
    """Of pictures in one request and of faces in one batch, whatever was asked of them."""
    sources = [EncodedPicture((photos / name).read_bytes()) for name in ("a.jpg", "b.jpg", "c.jpg")]
    async with open_service(settings) as service:
        deadline = asyncio.get_running_loop().time() + 60
        options = ExtractOptions(score_threshold=service.score_threshold)
        first, second, third = await service.extractor.extract(sources, options, deadline=deadline)
        assert isinstance(second.error, NotFiniteError)
        assert (first.error, third.error) == (None, None)
        assert len(first.faces) == len(third.faces) == 1
        again = await service.extractor.extract(sources[:1], options, deadline=deadline)
    assert again[0].error is None
