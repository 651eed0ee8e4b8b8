"""Both clients over real connections to a server that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import io
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from jetface_client import (
    AsyncClient,
    Client,
    DeadlineError,
    Picture,
    RetryPolicy,
    UnreachableError,
    Url,
    find_pictures,
)
from tests.client.conftest import Ask
from tests.support.pictures import decode_image
from tests.support.scripted_server import Scripted, envelope, packed, scripted_server
from tests.support.server import free_port

QUICK = {"retries": RetryPolicy(first_delay_s=0.01)}
EMPTY = packed({"took_ms": 1.0, "pictures": [{"status": "ok", "took_ms": 1.0, "image_hw": [8, 9], "faces": []}]})


def test_a_folder_is_searched_by_suffix_or_else_by_bytes(tmp_path: Path) -> None:
    """What is left out is counted by reason."""
    for name in ("a.jfif", "b.HEIC", "c.mpo", "notes.txt", "more.txt", ".hidden"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "d").write_bytes(b"\xff\xd8\xff\xe0")
    (tmp_path / "e").write_bytes(b"text")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
    skipped: Counter[str] = Counter()
    assert [path.name for path in find_pictures(tmp_path, skipped=skipped)] == ["a.jfif", "b.HEIC", "c.mpo", "d"]
    assert skipped == {".txt": 2, "without suffix": 1, "unreadable": 1}


def test_a_call_outlives_refusals_and_broken_connections(ask: Ask) -> None:
    busy = envelope(429, "queue_full", retry_after="1")
    with scripted_server([Scripted(is_broken=True), busy, EMPTY]) as served:
        started = time.monotonic()
        picture = ask(served.url, "detect", b"x", client=QUICK)
        took_s = time.monotonic() - started
    assert picture.image_hw == (8, 9)
    assert took_s >= 1
    assert len(served.seen) == 3
    assert len({seen.headers["x-request-id"] for seen in served.seen}) == 1
    assert served.seen[0].fields() == {
        "images": {"data": [b"x"]},
        "limit_faces": 0,
        "min_face_size": 0,
        "rotations": "none",
    }
    assert served.seen[0].headers["authorization"] == "Bearer secret"


def test_a_silent_service_is_given_up_in_time(ask: Ask) -> None:
    with scripted_server([Scripted(delay_s=1.0)]) as served:
        started = time.monotonic()
        with pytest.raises(DeadlineError):
            ask(served.url, "info", client={"timeout_s": 0.3})
        assert time.monotonic() - started < 0.9


def test_nothing_listens(ask: Ask) -> None:
    with pytest.raises(UnreachableError):
        ask(f"http://127.0.0.1:{free_port()}", "info", client=QUICK)


def test_connections_are_kept() -> None:
    with scripted_server([EMPTY]) as served, Client(served.url) as client:
        for _ in range(3):
            client.detect(b"x")
        assert len({seen.port for seen in served.seen}) == 1


def test_folders_keep_to_their_concurrency(ask: Ask, tmp_path: Path) -> None:
    """Eight pictures of 0.1 s, four at a time: on four connections, in the time of two rounds."""
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    answer = packed({"took": {}, "data": [{"status": "ok", "took_ms": 0.0, "faces": []}]})
    slow = Scripted(answer.status, answer.body, answer.headers, delay_s=0.1)
    with scripted_server([slow]) as served:
        found = ask(served.url, "extract_folder", str(tmp_path), concurrency=4)
        assert len(found) == 8
        assert len({seen.port for seen in served.seen}) == 4
    with pytest.raises(ValueError, match="at least 1"):
        ask("http://127.0.0.1:9", "extract_folder", tmp_path, concurrency=0)
    with pytest.raises(NotADirectoryError):
        ask(served.url, "extract_folder", tmp_path / "0.jpg")


def test_leaving_a_folder_early_ends_its_requests(tmp_path: Path) -> None:
    """What is not in flight is never sent."""
    for number in range(20):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    answer = packed({"took": {}, "data": [{"status": "ok", "took_ms": 0.0, "faces": []}]})
    with scripted_server([answer]) as served:
        with Client(served.url) as client:
            for _ in client.extract_folder(tmp_path, concurrency=2):
                break
        assert len(served.seen) <= 4

        async def leave() -> None:
            async with (
                AsyncClient(served.url) as connected,
                contextlib.aclosing(connected.extract_folder(tmp_path, concurrency=2)) as files,
            ):
                async for _ in files:
                    return

        asyncio.run(leave())
        assert len(served.seen) <= 8


def test_a_folder_ends_where_the_service_does(ask: Ask, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    with pytest.raises(UnreachableError):
        ask(f"http://127.0.0.1:{free_port()}", "extract_folder", tmp_path, client=QUICK)


def test_a_given_http_client_stays_open() -> None:
    with scripted_server([EMPTY]) as served, httpx.Client(headers={"x-mine": "1"}) as http:
        with Client(served.url, http=http) as client:
            client.detect(b"x")
        assert served.seen[0].headers["x-mine"] == "1"
        assert not http.is_closed


async def test_a_given_async_client_stays_open() -> None:
    with scripted_server([EMPTY]) as served:
        async with httpx.AsyncClient() as http:
            async with AsyncClient(served.url, http=http) as client:
                await asyncio.gather(*(client.detect(memoryview(b"x")) for _ in range(4)))
            assert not http.is_closed
    assert len(served.seen) == 4


def test_vectors_may_come_as_numbers(ask: Ask) -> None:
    """As an older service sends them."""
    face = {"embedding": [0.6, 0.8], "norm": 2.0}
    slot = {"status": "ok", "took_ms": 1.0, "image_hw": None, "faces": [face]}
    with scripted_server([packed({"took_ms": 1.0, "pictures": [slot]})]) as served:
        picture = ask(served.url, "recognize", bytearray(b"x"), boxes=np.zeros((1, 4)))
    np.testing.assert_allclose(picture.embeddings, [[0.6, 0.8]], rtol=1e-6)


def test_a_request_is_of_one_kind(ask: Ask) -> None:

    with pytest.raises(ValueError, match="not both"):
        ask("http://127.0.0.1:9", "extract_many", [Url("http://a"), b"x"])
    with pytest.raises(FileNotFoundError):
        ask("http://127.0.0.1:9", "extract", "no such file")
    picture = ask_without_embeddings(ask)
    with pytest.raises(ValueError, match="no embeddings"):
        _ = picture.embeddings


def ask_without_embeddings(ask: Ask) -> Picture:
    slot = {"status": "ok", "took_ms": 1.0, "image_hw": None, "faces": [{"score": 0.5}]}
    with scripted_server([packed({"took_ms": 1.0, "pictures": [slot]})]) as served:
        picture = ask(served.url, "detect", b"x")
    assert isinstance(picture, Picture)
    return picture


@pytest.mark.parametrize("width_px", [5, 8])
def test_pixels_are_sent_as_they_are(ask: Ask, width_px: int) -> None:
    """In BGR, gray, as a view; rows of any length."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, width_px, 3), np.uint8)
    given = [pixels, pixels[::-1, ::-1], pixels[:, :, 1]]
    with scripted_server([EMPTY]) as served:
        ask(served.url, "detect_many", given, client=QUICK)
    sent = served.seen[0].fields()["images"]["data"]
    for array, data in zip(given, sent, strict=True):
        assert np.array_equal(decode_image(data), array if array.ndim == 3 else np.dstack([array] * 3))


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros(4, np.uint8), np.zeros((0, 4, 3), np.uint8)],
    ids=["floats", "alpha", "a row", "empty"],
)
def test_arrays_that_are_no_picture_are_refused(ask: Ask, array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="BGR"):
        ask("http://127.0.0.1:9", "detect", array)


def test_files_are_read_by_path_or_as_they_are_open(ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"0123")
    with scripted_server([EMPTY]) as served, path.open("rb") as file:
        file.seek(1)
        ask(served.url, "detect_many", [path, str(path), file, io.BytesIO(b"45"), bytearray(b"6"), memoryview(b"7")])
    assert served.seen[0].fields()["images"]["data"] == [b"0123", b"0123", b"123", b"45", b"6", b"7"]
    with pytest.raises(TypeError, match="rb"):
        ask("http://127.0.0.1:9", "detect", io.StringIO("text"))


def test_urls_are_left_to_the_service(ask: Ask) -> None:
    with scripted_server([EMPTY]) as served:
        ask(served.url, "detect_many", [Url("cat.jpg"), "https://example.org/dog.jpg", "http://example.org/1.jpg"])
    assert served.seen[0].fields()["images"] == {
        "urls": ["cat.jpg", "https://example.org/dog.jpg", "http://example.org/1.jpg"]
    }
