"""Which hosts may be named in a URL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from jetface.imaging.addresses import Address, Network, is_public


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
