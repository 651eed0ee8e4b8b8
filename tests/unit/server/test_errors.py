"""Every error has a status, a code of its own and the envelope."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs

from jetface import errors
from jetface.errors import ServiceError
from jetface.server.encoding import envelope, from_http_exception, headers_of, status_of
from tests.support.fakes import Harness


def tree(kind: type[ServiceError]) -> Iterator[type[ServiceError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def test_every_error_has_a_status() -> None:
    for kind in tree(ServiceError):
        assert 400 <= status_of(kind) < 600, kind


def test_every_code_is_unique() -> None:
    codes = [kind.code for kind in tree(ServiceError)]
    assert len(codes) == len(set(codes))


def test_statuses_are_those_the_tree_of_errors_shows() -> None:
    found = re.findall(r"(\w+Error)\s+(\d{3})\s+(\w+)", errors.__doc__ or "")
    assert len(found) > 15
    for name, status, code in found:
        assert status_of(getattr(errors, name)) == int(status), name
        assert getattr(errors, name).code == code


def test_the_envelope_holds_code_message_details_and_id() -> None:
    error = errors.QueueFullError("Full.", retry_after_s=1.2, in_flight=3)
    assert envelope(error, "id") == {
        "error": {"code": "queue_full", "message": "Full.", "details": {"in_flight": 3}},
        "detail": "Full.",
        "request_id": "id",
    }
    assert headers_of(error) == {"retry-after": "2"}


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "not_found"), (405, "method_not_allowed"), (400, "invalid_request"), (503, "internal_error")],
)
def test_the_frameworks_errors_become_ours(status: int, code: str) -> None:
    assert from_http_exception(HTTPException(status, "echo")).code == code


@pytest.mark.parametrize(
    ("error", "event", "has_traceback"),
    [
        (errors.InferenceError("The run failed."), "request failed", True),
        (RuntimeError("nobody foresaw it"), "request failed", True),
        (errors.ShuttingDownError("Bye."), "request refused", False),
        (errors.DeadlineExceededError("Late."), "request refused", False),
        (errors.ModelBuildingError("Soon.", retry_after_s=3), "request refused", False),
        (errors.MemoryPressureError("Full.", retry_after_s=3), "request refused", False),
    ],
)
async def test_only_faults_are_logged_with_a_traceback(error: Exception, event: str, *, has_traceback: bool) -> None:
    """A drain behind a proxy refuses hundreds: they must not bury what is wrong."""
    harness = Harness()
    harness.extractor.error = error
    with capture_logs() as lines:
        async with harness.client() as client:
            answer = await client.post("/extract", content=b"\xff\xd8\xff", headers={"content-type": "image/jpeg"})
    assert answer.status_code >= 500
    (line,) = (line for line in lines if line["event"].startswith("request "))
    assert line["event"] == event
    assert ("exc_info" in line) is has_traceback
