"""Which hosts may be named in a URL."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from jetface.imaging.remote import HostPolicy

LISTED = HostPolicy.listed(["Images.Example.org", "*.cdn.example", "10.1.0.0/16", "192.168.1.7", "fd00::/64"])


@pytest.mark.parametrize(
    "host",
    ["images.example.org", "IMAGES.example.ORG.", "a.cdn.example", "a.b.cdn.example", "10.1.2.3", "192.168.1.7",
     "fd00::5"],
)  # fmt: skip
def test_what_is_listed_may_be_named(host: str) -> None:
    assert LISTED.allows_host(host)


@pytest.mark.parametrize(
    "host",
    ["example.org", "a.images.example.org", "cdn.example", "evilcdn.example", "cdn.example.evil", "10.2.0.1", "8.8.8.8",
     "192.168.1.8", "fd01::1", "::ffff:10.1.2.3", "", "*.cdn.example.x"],
)  # fmt: skip
def test_all_else_may_not(host: str) -> None:
    assert not LISTED.allows_host(host)


def test_without_a_list_every_name_may_be_tried() -> None:
    assert HostPolicy().allows_host("anything.example")
    assert HostPolicy().allows_host("127.0.0.1")


@pytest.mark.parametrize(
    ("address", "listed", "public"),
    [("8.8.8.8", True, True), ("10.1.2.3", True, False), ("10.2.0.1", False, False), ("127.0.0.1", False, False),
     ("fd00::5", True, False), ("169.254.169.254", False, False)],
)  # fmt: skip
def test_addresses_are_public_or_listed(address: str, listed: bool, public: bool) -> None:
    assert LISTED.allows_address(ip_address(address)) is listed
    assert HostPolicy().allows_address(ip_address(address)) is public


def test_an_empty_list_allows_nobody() -> None:
    assert not HostPolicy.listed([]).allows_host("a.example")
