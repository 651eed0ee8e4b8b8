"""Which addresses are public, and connections that go nowhere else."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.imaging.remote import Address, CheckedBackend, is_public, resolve

PUBLIC = ["1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.0", "100.63.255.255", "223.255.255.255",
          "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]  # fmt: skip
PRIVATE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.1",
    "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1", "2001:10::1", "3fff::1", "fe80::1", "fe80::1%eth0",
    "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "100::1", "5f00::1",
]  # fmt: skip


@pytest.mark.parametrize("text", PUBLIC)
def test_public_addresses_are_public_in_every_form(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_private_addresses_are_not_in_any_form(text: str) -> None:
    assert not is_public(ip_address(text))


@given(st.ip_addresses(v=4))
def test_a_wrapped_address_is_what_it_wraps(address: IPv4Address) -> None:
    number = int(address)
    for wrapped in (IPv6Address((0xFFFF << 32) | number), IPv6Address((0x64FF9B << 96) | number)):
        assert is_public(wrapped) == is_public(address)
    assert not is_public(IPv6Address((0x2002 << 112) | (number << 80)))


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public(address: Address) -> None:
    """A second opinion: the standard library's, from the same registries."""
    is_special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if (is_special or address.is_reserved or address.is_unspecified) and mapped is None:
        nat64 = isinstance(address, IPv6Address) and int(address) >> 32 == 0x64FF9B << 64
        assert nat64 or not is_public(address)


async def test_odd_spellings_of_an_address_are_resolved_to_what_they_mean() -> None:
    for host in ("127.1", "0x7f000001", "2130706433", "017700000001"):
        assert await resolve(host, 80) == [IPv4Address("127.0.0.1")]


class TestCheckedBackend:
    """Connections."""

    async def test_one_bad_address_among_good_ones_is_refused(self) -> None:
        async def mixed(_host: str, _port: int) -> list[Address]:
            return [IPv4Address("8.8.8.8"), IPv4Address("10.0.0.1")]

        with pytest.raises(httpcore.ConnectError):
            await CheckedBackend(resolver=mixed).connect_tcp("a.example", 80)

    async def test_no_address_is_refused(self) -> None:
        async def nothing(_host: str, _port: int) -> list[Address]:
            return []

        with pytest.raises(httpcore.ConnectError):
            await CheckedBackend(resolver=nothing).connect_tcp("a.example", 80)

    async def test_the_next_address_is_tried_when_the_first_is_dead(self) -> None:
        async def two(_host: str, _port: int) -> list[Address]:
            return [IPv4Address("127.0.0.2"), IPv4Address("127.0.0.1")]

        server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            backend = CheckedBackend(lambda _address: True, two)
            stream = await backend.connect_tcp("a.example", port, timeout=5)
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
            await stream.aclose()

    async def test_sockets_of_this_machine_are_out_of_reach(self) -> None:
        with pytest.raises(httpcore.ConnectError):
            await CheckedBackend().connect_unix_socket("/run/docker.sock")

    async def test_it_can_wait(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await CheckedBackend().sleep(0.02)
        assert loop.time() - started >= 0.02
