"""Registry entries for weights that a test makes up, and processes that fetch them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from jetface.models.download import Fetcher
from jetface.registry import DownloadSpec, InputSpec, ModelSpec


def make_spec(
    body: bytes,
    *,
    name: str = "mine",
    url: str | None = None,
    member: str | None = None,
    archive_sha256: str | None = None,
    with_md5: bool = False,
    aliases: tuple[str, ...] = (),
) -> ModelSpec:
    """Return an entry whose digest is that of `body`; `url` may be http, which a registry file may not."""
    return ModelSpec(
        name=name,
        task="recognition",
        family="arcface",
        aliases=aliases,
        license="mine",
        source="me",
        sha256=None if with_md5 else hashlib.sha256(body).hexdigest(),
        md5=hashlib.md5(body, usedforsecurity=False).hexdigest() if with_md5 else None,
        embedding_length=4,
        input=InputSpec(height_px=112, width_px=112, mean=0, std=1),
        download=DownloadSpec.model_construct(url=url, archive_member=member, archive_sha256=archive_sha256)
        if url
        else None,
    )


def fetch_in_process(body: bytes, url: str, path: Path) -> None:
    """Download `body` from `url` to `path`; what a spawned process runs."""
    Fetcher().fetch(make_spec(body, url=url), path)


_ENTRY = """
name = "mine"
task = "recognition"
family = "arcface"
license = "Mine"
source = "me"
sha256 = "{sha256}"
embedding_length = 4
input = {{height_px = 112, width_px = 112, mean = 127.5, std = 127.5}}
"""


def add_recognizer(models_dir: Path, serialized: bytes) -> None:
    """Put the weights of a recognizer of the user's own, `mine`, and its entry into a folder."""
    (models_dir / "mine.onnx").write_bytes(serialized)
    (models_dir / "mine.toml").write_text(_ENTRY.format(sha256=hashlib.sha256(serialized).hexdigest()))
