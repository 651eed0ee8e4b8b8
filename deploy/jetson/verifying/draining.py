"""Callers that never pause while a service is told to stop: whoever was being served must get an answer."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httpx

from verifying.caller import Target
from verifying.drawing import crowd

_LOOK_EVERY_S = 0.05

_UNSERVED_S = 0.02
"""A connection that breaks sooner after a request was sent was closed already; nobody was serving it."""


def load_until_stopped(
    target: Target, *, seconds: float, num_callers: int, on_first_answer: Callable[[], None]
) -> dict[str, Any]:
    """Post pictures until the service stops taking them; each caller ends at its first refusal.

    Args:
        target: The service, about to be stopped by somebody else.
        seconds: Longest wait for that.
        num_callers: At once.
        on_first_answer: Called once the load has begun: now the service may be stopped.

    Returns:
        `answered`, `refused` (503), `closed` (no connection, or one that was closed before its request) and `lost`:
        requests that were being served and got no answer.
    """
    counts: Counter[str] = Counter()
    lock = threading.Lock()
    has_begun = threading.Event()
    end_s = time.monotonic() + seconds
    picture = crowd()

    def call() -> None:
        outcome = "answered"
        with target.caller() as caller:
            while outcome == "answered" and time.monotonic() < end_s:
                sent_s = time.monotonic()
                try:
                    status = caller.extract(picture).status_code
                except httpx.TransportError as cause:
                    was_served = time.monotonic() - sent_s >= _UNSERVED_S
                    outcome = "lost" if was_served and not isinstance(cause, httpx.ConnectError) else "closed"
                else:
                    outcome = _NAMES.get(status, "failed")
                with lock:
                    counts[outcome] += 1
                if outcome == "answered":
                    has_begun.set()

    threads = [threading.Thread(target=call) for _ in range(num_callers)]
    for thread in threads:
        thread.start()
    while not has_begun.wait(_LOOK_EVERY_S) and any(thread.is_alive() for thread in threads):
        pass
    if has_begun.is_set():
        on_first_answer()
    for thread in threads:
        thread.join()
    return {name: counts[name] for name in ("answered", "refused", "closed", "lost", "failed")}


_NAMES = {int(HTTPStatus.OK): "answered", int(HTTPStatus.SERVICE_UNAVAILABLE): "refused"}
