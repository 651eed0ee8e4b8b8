"""Requests made from the service's own description, right and wrong ones, on every route."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import given, reject
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from tests.support.answers import check_answer
from tests.support.fakes import Harness
from tests.support.fuzzing import fuzz
from tests.support.server import Server

SCHEMA = schemathesis.openapi.from_dict(Harness().app.openapi())
OPERATIONS = {result.ok().label: result.ok() for result in SCHEMA.get_all_operations() if isinstance(result, Ok)}
WITH_PICTURES = sorted(label for label in OPERATIONS if label.startswith("POST"))


def cases(label: str) -> st.SearchStrategy[Any]:
    """Requests to one route: as described, and, where it takes anything, not as described."""
    operation = OPERATIONS[label]
    right = operation.as_strategy(generation_mode=GenerationMode("positive"))
    if label not in WITH_PICTURES:
        return right
    return right | operation.as_strategy(generation_mode=GenerationMode("negative"))


def as_sent(case: Any, base_url: str) -> httpx.Request:
    """Write a case as the HTTP request it means."""
    kwargs = case.as_transport_kwargs(base_url=base_url)
    known = {"method", "url", "headers", "files", "data", "json", "params", "auth", "cookies"}
    sent = requests.Request(**{name: value for name, value in kwargs.items() if name in known}).prepare()
    try:
        return httpx.Request(
            sent.method or "", sent.url or "", headers=dict(sent.headers.items()), content=sent.body or b""
        )  # fmt: skip
    except httpx.InvalidURL:  # longer than this client sends
        reject()


def check(case: Any, answer: httpx.Response) -> None:
    check_answer(answer)
    assert str(int(answer.status_code)) in case.operation.definition.raw["responses"], "a status that is not described"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with Harness().client() as connected:
        yield connected


@pytest.mark.parametrize("label", OPERATIONS)
@fuzz(40)
@given(data=st.data())
async def test_the_api_over_fakes(client: httpx.AsyncClient, label: str, data: st.DataObject) -> None:
    case = data.draw(cases(label))
    check(case, await client.send(as_sent(case, "http://jetface")))


@pytest.mark.parametrize("label", WITH_PICTURES)
@fuzz(10)
@given(data=st.data())
def test_the_service_itself(service: Server, caller: httpx.Client, label: str, data: st.DataObject) -> None:
    case = data.draw(cases(label))
    check(case, caller.send(as_sent(case, service.url)))
