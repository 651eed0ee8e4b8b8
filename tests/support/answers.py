"""What every answer of the service must be, whatever was asked."""

from __future__ import annotations

import re

import httpx
import ormsgpack

from tests.support.shared import REPOSITORY

_INTERNAL = re.compile(rf'Traceback|File "|site-packages|\.py\b|{re.escape(str(REPOSITORY))}|/tmp/|0x[0-9a-f]{{8}}')
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


def check_answer(answer: httpx.Response) -> None:
    """Raise when an answer says it was the service's fault, is no envelope, or tells what is inside.

    Raises:
        AssertionError: Says which.
    """
    if answer.status_code >= 500:
        raise AssertionError(f"{answer.status_code}: {answer.text[:500]}")
    if not _REQUEST_ID.fullmatch(answer.headers["x-request-id"]):
        raise AssertionError("no sane request id")
    if answer.status_code >= 400:
        body = _read(answer)
        if not isinstance(body, dict) or body.keys() != {"error", "detail", "request_id"}:
            raise AssertionError(f"no envelope: {body!r}")
        if found := _INTERNAL.search(str(body)):
            raise AssertionError(f"{found[0]!r} in {body!r}")


def _read(answer: httpx.Response) -> object:
    is_msgpack = answer.headers["content-type"] == "application/x-msgpack"
    return ormsgpack.unpackb(answer.content) if is_msgpack else answer.json()
