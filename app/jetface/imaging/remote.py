"""Pictures behind a URL or in the folder of local pictures, fetched as if whoever sent the address were hostile."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import ssl
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any, TypeAlias

import httpcore
import httpx
import structlog

from jetface.errors import DeadlineExceededError, UrlRefusedError
from jetface.imaging.budget import Share
from jetface.imaging.sources import RemotePicture
from jetface.threads import Threads

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
Resolver: TypeAlias = Callable[[str, int], Awaitable[list[Address]]]
"""Host and port to addresses, best first."""

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)  # fmt: skip
"""As httpcore types it."""

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's platform services answer here, on every virtual machine
    )
)  # fmt: skip
"""Source: IANA IPv4 Special-Purpose Address Registry. Written out: `is_global` differs between Python's versions."""

_PUBLIC_V6 = IPv6Network("2000::/3")
"""All that is assigned for global unicast; private, link-local and multicast addresses lie outside."""

_NOT_PUBLIC_V6 = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, which wraps an IPv4 address, benchmarking, ORCHID
        "2001:db8::/32",
        "2002::/16",  # 6to4, which wraps an IPv4 address
        "3fff::/20",
    )
)
"""Source: IANA IPv6 Special-Purpose Address Registry."""

_NAT64 = IPv6Network("64:ff9b::/96")
"""How a network without IPv4 reaches IPv4 hosts (RFC 6052); the last 32 bits are the address that counts."""


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet, whatever form it is wrapped in."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
        return address in _PUBLIC_V6 and not any(address in network for network in _NOT_PUBLIC_V6)
    return not any(address in network for network in _NOT_PUBLIC_V4)


async def resolve(host: str, port: int) -> list[Address]:
    """Ask the system's resolver. Odd spellings of addresses (`127.1`, `0x7f000001`) come out as what they mean.

    Raises:
        OSError: The host is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(ip_address(entry[4][0]) for entry in found))


_SMALL_READ_BYTES = 4096
_MOST_WRAPPING_BYTES = 2**16
"""Most bytes of heads and chunks around a file, and an eighth of it on top: a host may send `100 Continue` without
end, or chunks of one byte, of which a megabyte takes a second of the event loop."""


@dataclass(slots=True)
class _Received:
    """What has come for one request."""

    num_bytes: int = 0
    num_file_bytes: int = 0


_RECEIVED: ContextVar[_Received | None] = ContextVar("received", default=None)


class CountedStream(httpcore.AsyncNetworkStream):
    """Counts what is read for a request, in small pieces until most of it is the file's; ends what is mostly not."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read.

        Raises:
            UrlRefusedError: Too little of what came is the file.
        """
        received = _RECEIVED.get()
        if received is None:
            return await self._stream.read(max_bytes, timeout)
        num_wrapping = received.num_bytes - received.num_file_bytes
        if num_wrapping > _MOST_WRAPPING_BYTES + received.num_file_bytes // 8:
            raise UrlRefusedError("The URL's host sends too little of the picture in too much around it.")
        if received.num_file_bytes < received.num_bytes // 2:
            max_bytes = min(max_bytes, _SMALL_READ_BYTES)
        data = await self._stream.read(max_bytes, timeout)
        received.num_bytes += len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write."""
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close."""
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Begin TLS, and count what it carries."""
        return CountedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """Return what the stream says of itself."""
        return self._stream.get_extra_info(info)


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to no others.

    A name is resolved once for each connection, and the connection goes to the very address that was checked: an
    answer that changes afterwards (DNS rebinding) changes nothing. TLS still asks for the name.
    """

    def __init__(self, is_allowed: Callable[[Address], bool] = is_public, resolver: Resolver = resolve) -> None:
        self._is_allowed = is_allowed
        self._resolve = resolver
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve, check, connect.

        Raises:
            httpcore.ConnectError: Unknown, not allowed or not to be reached; a caller cannot tell which.
        """
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError, ValueError) as cause:
            raise httpcore.ConnectError from cause
        if not addresses or not all(map(self._is_allowed, addresses)):
            structlog.get_logger(__name__).warning("a URL leads to an address that is not allowed", host=host)
            raise httpcore.ConnectError
        for address in addresses[:-1]:
            try:
                return await self._connect(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):  # noqa: PERF203 - a handful of addresses
                continue
        return await self._connect(addresses[-1], port, timeout, local_address, socket_options)

    async def _connect(
        self,
        address: Address,
        port: int,
        timeout: float | None,
        local_address: str | None,
        socket_options: Iterable[SocketOption] | None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._backend.connect_tcp(
            str(address), port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )
        return CountedStream(stream)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Refuse: no URL leads to a socket of this machine."""
        del path, timeout, socket_options
        raise httpcore.ConnectError

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


_MAX_LINKS = 40
"""As many as Linux follows on one path."""

_WITHOUT_WAITING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""A pipe that nobody writes to would hold the thread for ever."""


@dataclass(frozen=True, slots=True)
class PictureFolder:
    """Reads files below `root`. Thread-safe; blocks."""

    root: Path
    max_bytes: int

    def read(self, path: str) -> bytes:
        """Read a file.

        Args:
            path: Relative to `root`, or absolute and below it. One whose `..` lead out is refused as it is written;
                links are followed as long as they stay below the root.

        Raises:
            UrlRefusedError: Not below the root, not a regular file, too long; whether something is there outside the
                root cannot be told from it.
        """
        descriptor, _ = self._open_file(path)
        with os.fdopen(descriptor, "rb") as file:
            content = file.read(self.max_bytes + 1)
        if len(content) > self.max_bytes:
            raise self._too_long()
        return content

    def length(self, path: str) -> int:
        """Return how many bytes a file has that may be read; path and errors are those of `read`."""
        descriptor, num_bytes = self._open_file(path)
        os.close(descriptor)
        if num_bytes > self.max_bytes:
            raise self._too_long()
        return num_bytes

    def _open_file(self, path: str) -> tuple[int, int]:
        """Return the descriptor and the length of a regular file."""
        try:
            descriptor = self._open(self._inside(path))
        except (OSError, ValueError) as cause:  # ValueError: a NUL
            raise _not_there() from cause
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            os.close(descriptor)
            raise _not_there()
        return descriptor, found.st_size

    def _too_long(self) -> UrlRefusedError:
        return UrlRefusedError(f"The file is longer than {self.max_bytes} bytes.")

    def _inside(self, path: str) -> list[str]:
        """Return the parts of a path below the root, without asking the file system for them.

        Raises:
            UrlRefusedError: It leads out.
        """
        if Path(path).is_absolute():
            for root in (os.path.normpath(self.root.absolute()), str(self.root.resolve())):
                if os.path.commonpath((root, os.path.normpath(path))) == root:
                    path = os.path.relpath(path, root)
                    break
            else:
                raise _not_there()
        parts = Path(os.path.normpath(path)).parts
        if os.pardir in parts:
            raise _not_there()
        return list(parts)

    def _open(self, parts: list[str]) -> int:
        """Open a file folder by folder, each by its name in the one before: what is moved meanwhile leads nowhere else.

        A link is read and taken as a piece of the path, by these same rules.

        Raises:
            UrlRefusedError: A link leads out, or there are too many.
            OSError: It is not there.
        """
        folders = [os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        todo = parts[::-1]
        num_links = 0
        try:
            while todo:
                part = todo.pop()
                if part == os.pardir:
                    if len(folders) == 1:
                        raise _not_there()
                    os.close(folders.pop())
                elif (found := _open_unless_link(part, folders[-1])) is None:
                    num_links += 1
                    if num_links > _MAX_LINKS:
                        raise _not_there()
                    target = Path(os.readlink(part, dir_fd=folders[-1]))
                    while target.is_absolute() and len(folders) > 1:
                        os.close(folders.pop())
                    todo += reversed(self._inside(str(target)) if target.is_absolute() else target.parts)
                elif todo:
                    folders.append(found)
                else:
                    return found
            raise _not_there()
        finally:
            for each in folders:
                os.close(each)


def _open_unless_link(name: str, folder: int) -> int | None:
    """Open a file of a folder; None for a link."""
    try:
        return os.open(name, _WITHOUT_WAITING, dir_fd=folder)
    except OSError as cause:
        if cause.errno == errno.ELOOP:
            return None
        raise


def _not_there() -> UrlRefusedError:
    return UrlRefusedError("There is no such picture.")


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """The hosts that may be named, and the addresses they may have."""

    names: frozenset[str] | None = None
    """Lower-case host names; `*.example.org` stands for everything below example.org. None allows every name."""
    networks: tuple[Network, ...] = ()
    """Addresses that are allowed although they are not public."""

    @classmethod
    def listed(cls, entries: Sequence[str]) -> HostPolicy:
        """Allow what is listed and nothing else.

        Args:
            entries: Host names, `*.name`, addresses or networks (`10.1.0.0/16`). A host that is listed by name may
                have a public address, or one of a listed network.
        """
        networks = {entry: _network(entry) for entry in entries}
        return cls(
            frozenset(entry.lower().rstrip(".") for entry, network in networks.items() if network is None),
            tuple(network for network in networks.values() if network is not None),
        )

    def allows_host(self, host: str) -> bool:
        """Whether a URL may name `host`; its address is another question."""
        if self.names is None:
            return True
        try:
            return self._is_listed(ip_address(host))
        except ValueError:
            name = host.lower().rstrip(".")
            parents = name.split(".")[1:]
            wildcards = {f"*.{'.'.join(parents[index:])}" for index in range(len(parents))}
            return name in self.names or not self.names.isdisjoint(wildcards)

    def allows_address(self, address: Address) -> bool:
        """Whether a connection may go to `address`."""
        return is_public(address) or self._is_listed(address)

    def _is_listed(self, address: Address) -> bool:
        return any(address.version == network.version and address in network for network in self.networks)


def _network(entry: str) -> Network | None:
    """Read an address or a network; a name is None."""
    try:
        return ip_network(entry, strict=False)
    except ValueError:
        return None


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
        received = _Received()
        _RECEIVED.set(received)
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
            return await self._read(response, received, share)

    async def _read(self, response: httpcore.Response, received: _Received, share: Share | None) -> bytes:
        end = asyncio.get_running_loop().time() + self._limits.timeout_s
        file = bytearray()
        async for part in response.aiter_stream():
            file += part
            received.num_file_bytes = len(file)
            if len(file) > self._limits.max_bytes:
                raise self._too_long()
            if share is not None:
                await share.grow(len(part), deadline=end)
        return bytes(file)

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


class RemotePictures:
    """Gets a picture from where its URL or path says, as far as that is turned on."""

    def __init__(self, threads: Threads, *, urls: UrlFetcher | None, folder: PictureFolder | None) -> None:
        """Create the two ways.

        Args:
            threads: Where files are read; stay the caller's.
            urls: Fetches URLs; None refuses them.
            folder: Reads local files; None refuses them.
        """
        self._threads = threads
        self._urls = urls
        self._folder = folder

    async def fetch(self, picture: RemotePicture, share: Share, *, deadline: float) -> bytes:
        """Get a file, whose bytes are counted in `share`: what has a scheme is a URL, all else a path.

        Raises:
            UrlRefusedError: Turned off, not allowed, not to be had, too long or too slow.
            QueueFullError: There was no room for its bytes.
            DeadlineExceededError: The deadline passed.
        """
        if "://" in picture.url:
            if self._urls is None:
                raise UrlRefusedError("Fetching pictures by URL is turned off.")
            return await self._urls.fetch(picture, share, deadline=deadline)
        if self._folder is None:
            raise UrlRefusedError("Reading pictures from a folder is turned off.")
        num_bytes = await self._threads.call(partial(self._folder.length, picture.url), deadline=deadline)
        await share.grow(num_bytes, deadline=deadline)
        return await self._threads.call(partial(self._folder.read, picture.url), deadline=deadline)

    async def aclose(self) -> None:
        """Close idle connections."""
        if self._urls is not None:
            await self._urls.aclose()
