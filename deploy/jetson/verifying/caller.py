"""A running service, as the steps of `deploy/jetson/verify.sh` ask it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import click
import httpx
from prometheus_client.parser import text_string_to_metric_families

REQUEST_TIMEOUT_S = 120.0
_ASK_EVERY_S = 0.1


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of `/metrics`."""

    name: str
    labels: Mapping[str, str]
    value: float


class Caller:
    """Asks one service. Not thread-safe; one for each thread."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def extract(self, picture: bytes, **options: str) -> httpx.Response:
        """Post one encoded picture to `/extract`, whatever comes of it.

        Raises:
            httpx.TransportError: No answer.
        """
        return self._post("/extract", picture, options)

    def detect(self, picture: bytes, **options: str) -> dict[str, Any]:
        """Return what `/detect` finds in one picture: boxes and landmarks as they are, not cut to whole pixels.

        Raises:
            click.ClickException: It is answered by an error.
        """
        (found,) = answered(self._post("/detect", picture, options))["pictures"]
        return dict(found)

    def is_ok(self, path: str) -> bool:
        """Whether a path answers 200 now."""
        try:
            return self._client.get(path).status_code == HTTPStatus.OK
        except httpx.TransportError:
            return False

    def get(self, path: str) -> dict[str, Any]:
        """Return a JSON answer, that of 503 included: readiness says why it is not there.

        Raises:
            click.ClickException: No answer, or one that is no JSON.
        """
        try:
            return dict(self._client.get(path).json())
        except (httpx.TransportError, ValueError) as cause:
            raise click.ClickException(f"{path} is not answered: {cause}") from cause

    def samples(self) -> list[Sample]:
        """Return every sample of `/metrics`.

        Raises:
            click.ClickException: No answer, or an error.
        """
        try:
            answer = self._client.get("/metrics")
        except httpx.TransportError as cause:
            raise click.ClickException(f"/metrics is not answered: {cause}") from cause
        if answer.status_code != HTTPStatus.OK:
            raise click.ClickException(f"/metrics is answered by {answer.status_code}")
        families = text_string_to_metric_families(answer.text)
        return [Sample(each.name, each.labels, each.value) for family in families for each in family.samples]

    def wait_for(self, path: str, deadline_s: float) -> None:
        """Return when a path answers 200.

        Args:
            path: What is asked.
            deadline_s: By `time.monotonic`.

        Raises:
            click.ClickException: It is too late.
        """
        while not self.is_ok(path):
            if time.monotonic() > deadline_s:
                raise click.ClickException(f"{path} did not answer 200 in time")
            time.sleep(_ASK_EVERY_S)

    def _post(self, path: str, picture: bytes, options: Mapping[str, str]) -> httpx.Response:
        kind = "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"
        return self._client.post(path, content=picture, params=dict(options), headers={"content-type": kind})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a service is."""

    url: str
    api_key: str | None = None

    @contextmanager
    def caller(self, timeout_s: float = REQUEST_TIMEOUT_S) -> Iterator[Caller]:
        """Open a connection of one's own; proxies of the environment are passed over."""
        headers = {"x-api-key": self.api_key} if self.api_key else {}
        with httpx.Client(base_url=self.url, headers=headers, timeout=timeout_s, trust_env=False) as client:
            yield Caller(client)


def answered(response: httpx.Response) -> dict[str, Any]:
    """Return an answer's JSON.

    Raises:
        click.ClickException: It is an error.
    """
    if response.status_code != HTTPStatus.OK:
        raise click.ClickException(
            f"{response.request.url.path} is answered by {response.status_code}: {response.text}"
        )
    return dict(response.json())


def stages_ms(response: httpx.Response) -> dict[str, float]:
    """Return the stages of a `Server-Timing` header, milliseconds."""
    stages = {}
    for part in response.headers.get("server-timing", "").split(","):
        name, _, duration = part.strip().partition(";dur=")
        if duration:
            stages[name] = float(duration)
    return stages
