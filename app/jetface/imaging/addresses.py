"""Which network addresses may be connected to, and connections that go nowhere else."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import httpcore
import structlog

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
        return await self._backend.connect_tcp(
            str(address), port, timeout=timeout, local_address=local_address, socket_options=socket_options
        )

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
