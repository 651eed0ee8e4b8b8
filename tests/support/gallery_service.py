"""The API with a gallery, over an extractor whose pictures say in words who is on them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from jetface.domain import Embedding, Face
from jetface.errors import ServiceError
from jetface.gallery.local import LocalGallery
from jetface.gallery.people import People
from jetface.gallery.protocol import Gallery
from jetface.gallery.records import ModelPin
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from tests.support.fakes import FakeExtractor, Harness, bytes_of, face_number
from tests.support.gallery_faces import PIN, vectors_of


@asynccontextmanager
async def opened_gallery(folder: Path) -> AsyncIterator[LocalGallery]:
    """Open the gallery of a folder, and close it."""
    gallery = LocalGallery(folder, Metrics())
    await gallery.open()
    yield gallery
    await gallery.close()


PEOPLE = vectors_of(12, 4)
"""(12, 4, 512): persons, and photographs of each."""
MATCH_THRESHOLD = 0.35


def portrait(person: int, photograph: int) -> bytes:
    """Return a picture of one face."""
    return f"face {person}.{photograph}".encode()


def group(*faces: tuple[int, int]) -> bytes:
    """Return a picture of several, the first of them the largest."""
    return b"face " + b"+".join(f"{person}.{photograph}".encode() for person, photograph in faces)


NOBODY = b"face"


class WordExtractor(FakeExtractor):
    """Finds the faces that a picture names."""

    def faces_of(self, source: PictureSource, index: int) -> list[Face]:
        """Return them, each narrower than the one before."""
        try:
            said = bytes_of(source).decode("latin-1").removeprefix("face").strip()
        except ServiceError:
            return []
        faces = []
        for number, each in enumerate(said.split("+") if said else ()):
            person, _, photograph = each.partition(".")
            embedding = Embedding(PEOPLE[int(person), int(photograph)], 20.0)
            faces.append(replace(face_number(min(number, 4), index), embedding=embedding))
        return faces


class Served:
    """A client of the API, and what a test looks at or changes."""

    def __init__(self, client: httpx.AsyncClient, harness: Harness, gallery: Gallery) -> None:
        self.client = client
        self.harness = harness
        self.gallery = gallery
        self.model: ModelPin | None = PIN

    async def enrol(self, person: str, *pictures: bytes, collection: str = "people", **options: Any) -> httpx.Response:
        """Enrol pictures as a form."""
        return await self.client.post(
            f"/v1/collections/{collection}/persons/{person}/faces",
            files=[("file", (f"{number}.jpg", each, "image/jpeg")) for number, each in enumerate(pictures)],
            data={name: str(value) for name, value in options.items()},
        )

    async def search(self, *pictures: bytes, collection: str = "people", **options: Any) -> list[list[list[str]]]:
        """Return who each face of each picture may be."""
        answer = await self.client.post(
            f"/v1/collections/{collection}/search",
            files=[("file", (f"{number}.jpg", each, "image/jpeg")) for number, each in enumerate(pictures)],
            data={name: str(value) for name, value in options.items()},
        )
        assert answer.status_code == 200, answer.text
        return [
            [[match["person"]["id"] for match in face["matches"]] for face in picture["faces"]]
            for picture in answer.json()["pictures"]
        ]


@asynccontextmanager
async def served(gallery: Gallery, *, keeps_crops: bool = False, **harness: Any) -> AsyncIterator[Served]:
    """Serve a gallery that is open."""
    made: Served

    def model() -> ModelPin | None:
        return made.model

    people = People(gallery, model=model, match_threshold=lambda: MATCH_THRESHOLD, keeps_crops=keeps_crops)
    built = Harness(extractor=WordExtractor(), people=people, **harness)
    async with built.client() as client:
        made = Served(client, built, gallery)
        yield made
