"""Hosts of their own on one machine: network namespaces on one bridge, which threads and processes enter."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typing_extensions import Self

_CLONE_NEWNET = 0x40000000
_RESOLVERS = Path("/etc/netns")
"""Where `ip netns exec` looks for files that stand in the place of those of /etc."""


def _ip(*arguments: str) -> None:
    subprocess.run([_program(), *arguments], check=True, capture_output=True)


def _program() -> str:
    return shutil.which("ip") or shutil.which("ip", path="/usr/sbin:/sbin") or "ip"


def require_namespaces() -> None:
    """End the test where there is no network namespace: it fails where `CI` is set, else it is skipped and says why."""
    name = f"jetface-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "delete", name)
    except FileNotFoundError:
        reason = "ip is not installed (Debian and Ubuntu: apt install iproute2)"
    except subprocess.CalledProcessError as error:
        reason = f"no network namespace is to be had: {error.stderr.decode().strip()} (needs root)"
    else:
        return
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


class Lan:
    """A bridge, and hosts on it that reach each other and nothing else. A context manager: all of it goes at the end.

    Args:
        resolver: Address of the server that hosts ask for names.
        search: Domain that they put behind a name without one.
    """

    def __init__(self, *, resolver: str, search: str) -> None:
        self._prefix = f"jetface-{os.getpid()}"
        self._bridge = f"{self._prefix}-lan"
        self._resolver = f"nameserver {resolver}\nsearch {search}\noptions ndots:5\n"
        self._hosts: list[str] = []

    def __enter__(self) -> Self:
        _ip("netns", "add", self._bridge)
        _ip("-n", self._bridge, "link", "add", "lan", "type", "bridge")
        _ip("-n", self._bridge, "link", "set", "lan", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts:
            shutil.rmtree(_RESOLVERS / self.namespace(host), ignore_errors=True)
            _ip("netns", "delete", self.namespace(host))
        _ip("netns", "delete", self._bridge)

    def namespace(self, host: str) -> str:
        """Return what `ip netns` knows a host by."""
        return f"{self._prefix}-{host}"

    def add_host(self, host: str, *addresses: str) -> None:
        """Plug in a host, at most 15 letters, with addresses of 10.77.0.0/16."""
        name = self.namespace(host)
        _ip("netns", "add", name)
        self._hosts.append(host)
        folder = _RESOLVERS / name
        folder.mkdir(parents=True)
        (folder / "resolv.conf").write_text(self._resolver, encoding="ascii")
        _ip("-n", self._bridge, "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._bridge, "link", "set", host, "master", "lan", "up")
        for interface in ("lo", "eth0"):
            _ip("-n", name, "link", "set", interface, "up")
        for address in addresses:
            self.add_address(host, address)

    def add_address(self, host: str, address: str) -> None:
        """Give a host one more address."""
        _ip("-n", self.namespace(host), "address", "add", f"{address}/16", "dev", "eth0")

    def cut(self, host: str) -> None:
        """Drop every packet from and to a host from now on; nobody is told."""
        _ip("-n", self._bridge, "link", "set", host, "down")

    def mend(self, host: str) -> None:
        """Undo a cut."""
        _ip("-n", self._bridge, "link", "set", host, "up")

    def kill(self, host: str) -> None:
        """End every process on a host by SIGKILL, as a loss of its power would."""
        listed = subprocess.run(
            [_program(), "netns", "pids", self.namespace(host)], check=True, capture_output=True, text=True
        )
        for pid in map(int, listed.stdout.split()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def command(self, host: str, *command: str) -> list[str]:
        """Return the command line that runs a command on a host."""
        return [_program(), "netns", "exec", self.namespace(host), *command]

    def thread(self, host: str, target: Callable[[], None]) -> threading.Thread:
        """Return a thread, not yet started, that is on a host."""

        def run() -> None:
            with Path("/run/netns", self.namespace(host)).open("rb") as handle:
                if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            target()

        return threading.Thread(target=run, daemon=True)
