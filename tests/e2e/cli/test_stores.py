"""`embed` reads from an object store, and an actor of `bulk` reads from one and writes to it: S3's protocol, by moto.

pip install s3fs 'moto[server]' for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

pytest.importorskip("ray", reason="Ray is not installed: requirements/dev.txt has it")
pytest.importorskip("s3fs", reason="s3fs is not installed: pip install s3fs")
pytest.importorskip("moto.server", reason="moto is not installed: pip install 'moto[server]'")

from jetface.cli.bulk import Actor, Work, looked_at
from jetface.cli.main import main
from jetface.cli.pictures import Wish
from jetface.cli.sources import find
from jetface.settings import read_settings
from tests.support.drawn import PEOPLE, draw_portrait, encode

pytestmark = pytest.mark.filterwarnings("ignore:::aiobotocore", "ignore:::botocore", "ignore:::moto")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A bucket with two portraits, and what is no picture; s3fs remembers its server, so there is one for all tests."""
    server = import_module("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    variables = {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MODELS_DIR": str(tmp_path_factory.mktemp("models")),
        "MODEL_DOWNLOAD": "0",
        "DET_MODEL": "starter_det",
        "REC_MODEL": "starter_rec",
        "BACKEND": "onnxruntime",
    }
    with pytest.MonkeyPatch.context() as environ:
        for name, value in variables.items():
            environ.setenv(name, value)
        files, _ = fsspec.core.url_to_fs("s3://pictures")
        files.mkdir("pictures")
        for number in (0, 1):
            with files.open(f"pictures/below/{number}.jpg", "wb") as file:
                file.write(encode(draw_portrait(PEOPLE[number]), ".jpg"))
        with files.open("pictures/notes.txt", "wb") as file:
            file.write(b"none")
        yield "s3://pictures"
    server.stop()


def test_pictures_of_a_store(bucket: str, tmp_path: Path) -> None:
    out = tmp_path / "faces.parquet"
    result = CliRunner().invoke(main, ["embed", f"{bucket}/below/*.jpg", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert pq.read_table(out)["path"].to_pylist() == [f"{bucket}/below/0.jpg", f"{bucket}/below/1.jpg"]


def test_files_of_faces_in_a_store(bucket: str) -> None:
    """What is written there is what a later run leaves out."""
    settings = read_settings()
    addresses = [source.address for source in find(bucket, settings)]
    assert addresses == [f"{bucket}/below/0.jpg", f"{bucket}/below/1.jpg"]
    out = f"{bucket}/faces"
    actor = Actor(Work(settings=settings, out=out, wish=Wish()))
    try:
        (done,) = actor(pa.table({"address": list(map(os.fsencode, addresses))})).to_pylist()
    finally:
        asyncio.run_coroutine_threadsafe(actor._stack.aclose(), actor._loop).result(30)
        actor._loop.call_soon_threadsafe(actor._loop.stop)
        actor._thread.join(30)
        actor._loop.close()
    assert done == {"pictures": 2, "failed": 0, "faces": 2}
    assert looked_at(out) == set(addresses)
