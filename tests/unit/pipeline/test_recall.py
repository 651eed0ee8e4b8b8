"""Answers from memory: to the same bytes, options, caller and models alone, within a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pybase64
import pytest

from jetface.domain import ExtractOptions, KnownFaces, PictureResult
from jetface.errors import ImageDecodeError
from jetface.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture
from jetface.pipeline.pictures import PictureJob
from jetface.pipeline.recall import ENTRY_BYTES, ResultCache
from jetface.service import Service, open_registry, open_service
from jetface.settings import Settings
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.file_server import Answer, file_server

pytestmark = pytest.mark.weights  # the starter models

OPTIONS = ExtractOptions(score_threshold=0.5)
ONE, OTHER = (encode(draw_portrait(person)) for person in PEOPLE[:2])


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    """A service of the starter models, loaded, that remembers."""
    settings = Settings(
        models_dir=tmp_path, model_download=False, backend="onnxruntime", result_cache_mb=1,
        url_fetch="allow-list", url_allow_hosts="127.0.0.1",
    )  # fmt: skip
    async with open_service(settings) as opened:
        for name in opened.chosen.names:
            await opened.store.get(name)
        yield opened


async def ask(
    service: Service, *pictures: bytes | PictureSource, whose: str | None = "", options: ExtractOptions = OPTIONS
) -> list[PictureResult]:
    sources = [EncodedPicture(picture) if isinstance(picture, bytes) else picture for picture in pictures]
    deadline = asyncio.get_running_loop().time() + 60
    return await service.extractor.extract(sources, options, deadline=deadline, whose=whose)


def counted(service: Service, outcome: str) -> float:
    labels = {"outcome": outcome}
    return service.metrics.registry.get_sample_value("jetface_result_cache_total", labels) or 0


def kept_bytes(service: Service) -> float:
    return service.metrics.registry.get_sample_value("jetface_result_cache_bytes") or 0


async def test_the_same_picture_is_answered_from_memory_wherever_it_stands(service: Service) -> None:
    """With its place in the request, its own time, and no stage; a broken neighbour is none of its business."""
    (first,) = await ask(service, ONE)
    other, broken, again = await ask(service, OTHER, b"none", ONE)
    assert (counted(service, "miss"), counted(service, "hit")) == (2, 1)
    assert isinstance(broken.error, ImageDecodeError)
    assert (again.image_index, [face.image_index for face in again.faces]) == (2, [2])
    assert again.image_hw == first.image_hw
    assert again.times.total_s == 0
    assert 0 < again.took_s < first.took_s
    np.testing.assert_array_equal(again.faces[0].box, first.faces[0].box)
    assert again.faces[0].embedding is not None
    assert first.faces[0].embedding is not None
    np.testing.assert_array_equal(again.faces[0].embedding.vector, first.faces[0].embedding.vector)
    assert not np.array_equal(other.faces[0].box, first.faces[0].box)


async def test_what_a_caller_does_to_an_answer_reaches_no_other(service: Service) -> None:
    (first,) = await ask(service, ONE)
    expected = first.faces[0].box.copy()
    for _ in range(2):
        (again,) = await ask(service, ONE)
        np.testing.assert_array_equal(again.faces[0].box, expected)
        again.faces[0].box[:] = 0


@pytest.mark.parametrize(
    "changes",
    [
        {"whose": "another key"},
        {"whose": None},
        {"options": ExtractOptions(score_threshold=0.55)},
        {"options": ExtractOptions(score_threshold=0.5, with_quality=True)},
    ],
)
async def test_another_caller_or_option_is_another_question(service: Service, changes: dict[str, Any]) -> None:
    await ask(service, ONE)
    await ask(service, ONE, **changes)
    assert counted(service, "hit") == 0


async def test_known_faces_and_crops_are_questions_of_their_own(service: Service) -> None:
    (found,) = await ask(service, ONE)
    deadline = asyncio.get_running_loop().time() + 60
    source = EncodedPicture(ONE)
    boxes = np.array([found.faces[0].box])

    async def both(shift: float) -> None:
        known = [KnownFaces(boxes=boxes + np.float32(shift))]
        await service.extractor.recognize([source], known, deadline=deadline, whose="")
        await service.extractor.embed_crops([source], deadline=deadline, whose="")

    await both(0)
    assert counted(service, "hit") == 0
    await both(0)
    assert counted(service, "hit") == 2
    await both(1)
    assert counted(service, "hit") == 3


async def test_a_model_that_is_loaded_anew_forgets_all(service: Service) -> None:
    await ask(service, ONE)
    assert kept_bytes(service) > 0
    await service.store.reload(open_registry(service.settings), service.chosen.names[1])
    await ask(service, ONE)
    assert counted(service, "hit") == 0
    await service.store.unload(service.chosen.names[1], reason="to see")
    await ask(service, ONE)
    await ask(service, ONE)
    assert counted(service, "hit") == 1


async def test_a_model_that_changes_under_way_leaves_nothing(service: Service) -> None:
    """What was begun before and is done after may be of either."""
    asked = asyncio.create_task(ask(service, ONE))
    await asyncio.sleep(0)
    service.store.note_backend(service.chosen.names[0], "another")
    await asked
    await ask(service, ONE)
    assert counted(service, "hit") == 0


async def test_a_picture_elsewhere_is_known_by_its_bytes(service: Service) -> None:
    """It is fetched each time; one that has changed is looked at, one that is here under another name is not."""
    with file_server({"/a.jpg": Answer(ONE), "/b.jpg": Answer(ONE)}) as files:
        await ask(service, RemotePicture(f"{files.url}/a.jpg"))
        await ask(service, RemotePicture(f"{files.url}/b.jpg"))
        await ask(service, ONE)
        assert (counted(service, "miss"), counted(service, "hit")) == (1, 2)
        files.answers["/a.jpg"] = Answer(OTHER)
        await ask(service, RemotePicture(f"{files.url}/a.jpg"))
        assert (counted(service, "miss"), counted(service, "hit")) == (2, 2)
        assert files.requests == ["/a.jpg", "/b.jpg", "/a.jpg"]
        (gone,) = await ask(service, RemotePicture(f"{files.url}/none.jpg"))
        assert gone.error is not None
    assert service.loader.byte_budget.held == 0


async def test_base64_is_known_by_what_it_says(service: Service) -> None:
    await ask(service, ONE)
    text = pybase64.b64encode(ONE).decode()
    await ask(service, Base64Picture(text))
    await ask(service, Base64Picture(f"data:image/png;base64,{text}"))
    (broken,) = await ask(service, Base64Picture("no base64!"))
    assert counted(service, "hit") == 2
    assert isinstance(broken.error, ImageDecodeError)


async def test_callers_at_once_get_their_own_answers(service: Service) -> None:
    answers = await asyncio.gather(*(ask(service, *pictures) for pictures in [(ONE, OTHER), (OTHER, ONE)] * 8))
    boxes = [[result.faces[0].box.tolist() for result in results] for results in answers]
    assert all(pair == (boxes[0] if index % 2 == 0 else boxes[0][::-1]) for index, pair in enumerate(boxes))
    assert counted(service, "hit") + counted(service, "miss") == 32


async def test_what_was_asked_for_longest_ago_makes_way(service: Service) -> None:
    """Memory stays within its bound, to the byte; an answer that is larger than all of it is not kept."""
    (result,) = await ask(service, ONE)
    one_bytes = int(kept_bytes(service))
    cache = ResultCache(
        2 * one_bytes + ENTRY_BYTES // 2, loader=service.loader, pool=service.pool, store=service.store,
        metrics=service.metrics,
    )  # fmt: skip
    worked: list[str] = []

    async def answer(name: str, times: int = 1) -> None:
        async def work(job: PictureJob) -> PictureResult:
            worked.append(name)
            faces = [replace(result.faces[0], score=number / times) for number in range(times)]
            return job.result(faces=faces, image_hw=(1, 1))

        job = PictureJob(index=0, source=EncodedPicture(ONE), group=object(), deadline=float("inf"))
        await cache.answer(job, work, name)

    for name in ("a", "b", "a", "c", "a", "b"):
        await answer(name)
        assert kept_bytes(service) <= 2 * one_bytes + ENTRY_BYTES // 2
    assert worked == ["a", "b", "c", "b"]
    await answer("huge", times=200)
    await answer("huge", times=200)
    assert worked[-2:] == ["huge", "huge"]


def test_without_the_setting_nothing_is_remembered(tmp_path: Path) -> None:
    async def run() -> tuple[float, float]:
        settings = Settings(models_dir=tmp_path, model_download=False, backend="onnxruntime")
        async with open_service(settings) as service:
            await ask(service, ONE)
            await ask(service, ONE)
            return counted(service, "hit"), counted(service, "miss")

    assert asyncio.run(run()) == (0, 0)
