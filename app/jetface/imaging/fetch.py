"""Pictures by URL: fetched as if the one who sent the URL were hostile, since they may be."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass

import httpcore
import httpx

from jetface.errors import DeadlineExceededError, UrlRefusedError
from jetface.imaging.addresses import CheckedBackend, Resolver, resolve
from jetface.imaging.budget import Share
from jetface.imaging.hosts import HostPolicy
from jetface.imaging.sources import RemotePicture

MAX_REDIRECTS = 5
MAX_URL_LENGTH = 8192
"""Signed URLs of object stores have one to two thousand characters."""

MAX_HEADERS = 32
MAX_HEADER_CHARACTERS = 8192
"""Names and values of one request together; servers refuse more anyway."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""A token of RFC 9110, section 5.6.2."""

_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")

_OURS = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "range", "te", "trailer",
    "transfer-encoding", "upgrade",
})  # fmt: skip
"""Headers that are the transport's business; a caller's are left out. So is all that begins with `proxy-`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchLimits:
    """How much one fetch may take."""

    max_bytes: int = 32 * 2**20
    timeout_s: float = 10.0
    """From the first name that is resolved to the last byte, redirects included."""
    silence_s: float = 5.0
    """Longest wait for a connection, and for the next byte."""
    max_connections: int = 8
    """Fetches at once; the others wait. With `max_bytes` it bounds the memory of all fetches."""


class UrlFetcher:
    """Fetches http and https URLs. Belongs to one event loop; `aclose` ends its connections."""

    def __init__(
        self,
        hosts: HostPolicy,
        *,
        limits: FetchLimits | None = None,
        resolver: Resolver = resolve,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Create a fetcher.

        Args:
            hosts: Who may be asked; every redirect is checked like the URL itself.
            limits: How much a fetch may take.
            resolver: Finds addresses of names.
            tls: Verifies servers; None trusts the authorities that httpx trusts.
        """
        self._hosts = hosts
        self._limits = limits or FetchLimits()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls or httpx.create_ssl_context(),
            max_connections=self._limits.max_connections,
            keepalive_expiry=5.0,
            network_backend=CheckedBackend(hosts.allows_address, resolver),
        )

    async def fetch(self, picture: RemotePicture, share: Share | None = None, *, deadline: float) -> bytes:
        """Fetch a file.

        Args:
            picture: The URL, and the caller's headers for it; they are not sent on to another host.
            share: Where its bytes are counted as they come; None: nowhere.
            deadline: `loop.time()` after which the file is of no use.

        Raises:
            UrlRefusedError: Not allowed, not to be had, too long or too slow. Which addresses exist behind our door
                cannot be told from it.
            QueueFullError: There was no room for its bytes in the time that the fetch has.
            DeadlineExceededError: The deadline passed.
        """
        url, headers = _parse_url(picture.url), _clean_headers(picture.headers)
        loop = asyncio.get_running_loop()
        timeout_s = min(self._limits.timeout_s, deadline - loop.time())
        try:
            return await asyncio.wait_for(self._follow(url, headers, share), timeout_s)
        except asyncio.TimeoutError:
            if loop.time() >= deadline:
                raise DeadlineExceededError("The deadline passed before the picture was fetched.") from None
            raise _too_slow() from None
        except httpcore.ReadTimeout:
            raise _too_slow() from None
        except httpcore.ProtocolError as cause:
            raise UrlRefusedError("The URL's host broke the rules of HTTP.") from cause
        except (httpcore.NetworkError, httpcore.TimeoutException) as cause:
            raise UrlRefusedError("The URL's host cannot be reached from here.") from cause

    async def aclose(self) -> None:
        """Close idle connections."""
        await self._pool.aclose()

    async def _follow(self, url: httpx.URL, headers: Mapping[str, str], share: Share | None) -> bytes:
        origin = _origin(url)
        for _ in range(MAX_REDIRECTS + 1):
            if not self._hosts.allows_host(url.host):
                raise UrlRefusedError("The URL's host is not on the list of allowed hosts.")
            # Whatever the caller sends may be a credential (`x-api-key`, a cookie): none of it leaves the first host.
            found = await self._get(url, headers if _origin(url) == origin else {}, share)
            if isinstance(found, bytes):
                return found
            url = found
        raise UrlRefusedError(f"The URL redirects more than {MAX_REDIRECTS} times.")

    async def _get(self, url: httpx.URL, headers: Mapping[str, str], share: Share | None) -> bytes | httpx.URL:
        """Return the file, or where it is said to be."""
        silence_s = self._limits.silence_s
        # Identity: what is counted is what arrives, and nothing unpacks to a thousand times its length.
        sent = {"accept": "image/*,*/*;q=0.5", "user-agent": "jetface", **headers, "accept-encoding": "identity"}
        request = self._pool.stream(
            "GET",
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=list(sent.items()),
            extensions={"timeout": {"connect": silence_s, "read": silence_s, "write": silence_s}},
        )
        async with request as response:
            answered = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in answered:
                return _join(url, answered[b"location"])
            if response.status != 200:
                raise UrlRefusedError(f"The URL's host answered with status {response.status}.")
            if answered.get(b"content-encoding", b"identity").lower() != b"identity":
                raise UrlRefusedError("The URL's host packed the picture though asked not to.")
            declared = answered.get(b"content-length", b"0")
            if declared.isdigit() and int(declared) > self._limits.max_bytes:
                raise self._too_long()
            return await self._read(response, share)

    async def _read(self, response: httpcore.Response, share: Share | None) -> bytes:
        end = asyncio.get_running_loop().time() + self._limits.timeout_s
        received = bytearray()
        async for part in response.aiter_stream():
            received += part
            if len(received) > self._limits.max_bytes:
                raise self._too_long()
            if share is not None:
                await share.grow(len(part), deadline=end)
        return bytes(received)

    def _too_long(self) -> UrlRefusedError:
        return UrlRefusedError(f"The URL's file is longer than {self._limits.max_bytes} bytes.")


def _too_slow() -> UrlRefusedError:
    return UrlRefusedError("The picture did not arrive in time.")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _parse_url(text: str) -> httpx.URL:
    if len(text) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"The URL is longer than {MAX_URL_LENGTH} characters.")
    try:
        return _checked(httpx.URL(text))
    except (httpx.InvalidURL, ValueError):
        raise _not_a_url() from None


def _join(url: httpx.URL, location: bytes) -> httpx.URL:
    if len(location) > MAX_URL_LENGTH:
        raise UrlRefusedError(f"The URL redirects to one longer than {MAX_URL_LENGTH} characters.")
    try:
        return _checked(url.join(location.decode("utf-8")))
    except (httpx.InvalidURL, ValueError):
        raise UrlRefusedError("The URL redirects to something that is not an http or https URL.") from None


def _checked(url: httpx.URL) -> httpx.URL:
    if url.scheme not in {"http", "https"} or not url.host or not 0 < (url.port or 80) < 65536:
        raise _not_a_url()
    if url.userinfo:
        raise UrlRefusedError("The URL holds a user name; send credentials as headers.")
    return url


def _not_a_url() -> UrlRefusedError:
    return UrlRefusedError("This is not an http or https URL.")


def _clean_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's headers without those that are the transport's business, names in lower case."""
    if len(headers) > MAX_HEADERS or sum(len(name) + len(headers[name]) for name in headers) > MAX_HEADER_CHARACTERS:
        raise UrlRefusedError("There are too many headers for the URL.")
    if not all(_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(headers[name]) for name in headers):
        raise UrlRefusedError("A header for the URL holds characters that are not allowed.")
    lowered = {name.lower(): value for name, value in headers.items()}
    return {name: value for name, value in lowered.items() if name not in _OURS and not name.startswith("proxy-")}
