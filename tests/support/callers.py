"""Clients that ask a service again and again while something is done to it."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator

import httpx
from typing_extensions import Self

from tests.support.drawn import PEOPLE, draw_portrait, encode

PATIENCE_S = 90.0
"""Longest wait for something that happens in a moment on a machine at rest."""


def wait_until(happened: Callable[[], bool], what: str) -> None:
    """Return when `happened` does; raises after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


class Callers:
    """Threads that ask for the faces of a portrait until told to stop, each over a connection of its own."""

    def __init__(self, url: str, count: int) -> None:
        """Begin when entered; `url` is a service's or a proxy's."""
        self.statuses: list[int | str] = []
        """Of the answers; where none came, what happened."""
        self.num_faces: list[int] = []
        """Of the answers that are 200 and the caller's own."""
        self._url = url
        self._stop = threading.Event()
        self._may_ask = threading.Event()
        self._may_ask.set()
        self._ids = itertools.count()
        self._portrait = encode(draw_portrait(PEOPLE[0]), ".jpg")
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Send no further requests inside."""
        self._may_ask.clear()
        try:
            yield
        finally:
            self._may_ask.set()

    def wait_for_more(self, count: int) -> None:
        """Return when `count` further requests were answered."""
        goal = len(self.statuses) + count
        wait_until(lambda: len(self.statuses) >= goal, f"{count} more answers")

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S, trust_env=False) as client:
            while self._may_ask.wait() and not self._stop.is_set():
                request_id = f"call-{next(self._ids)}"
                headers = {"content-type": "image/jpeg", "x-request-id": request_id}
                try:
                    answer = client.post("/extract", content=self._portrait, headers=headers)
                except httpx.TransportError as error:
                    self.statuses.append(repr(error))
                    continue
                if answer.status_code == httpx.codes.OK and answer.headers["x-request-id"] == request_id:
                    self.num_faces.append(len(answer.json()["data"][0]["faces"]))
                self.statuses.append(answer.status_code)
