"""`jetface serve`: what it says, and where it listens."""

from __future__ import annotations

import errno
import socket
from pathlib import Path

import pytest
import uvicorn
from click.testing import CliRunner

from jetface.cli.main import main
from jetface.cli.serve import bind_address, bind_path, uvicorn_options
from jetface.settings import Settings
from tests.support.server import free_port


def test_a_dry_run_refuses_bad_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "xml")
    result = CliRunner().invoke(main, ["serve", "--dry-run"])
    assert result.exit_code == 3
    assert result.stdout == ""


def test_uvicorn_has_every_option() -> None:
    """And does with it what we mean."""
    config = uvicorn.Config("jetface.main:create_app", factory=True, **uvicorn_options(Settings()))
    assert config.timeout_graceful_shutdown == 1
    assert (config.access_log, config.server_header, config.proxy_headers) == (False, False, False)


class TestAddresses:
    """What is bound for a `HOST` and a `PORT`."""

    @pytest.mark.parametrize("caller", ["127.0.0.1", "::1"])
    def test_two_colons_are_ipv6_and_ipv4(self, caller: str) -> None:
        (listener,) = bind_address("::", port := free_port())
        with listener:
            listener.listen()
            socket.create_connection((caller, port), timeout=5).close()
            accepted, (address, *_) = listener.accept()
            accepted.close()
            assert address in {caller, f"::ffff:{caller}"}

    def test_one_address_is_that_alone(self) -> None:
        (listener,) = bind_address("::1", port := free_port())
        with listener:
            listener.listen()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), timeout=5)

    def test_a_name_is_all_its_addresses_that_there_are(self) -> None:
        listeners = bind_address("localhost", free_port())
        try:
            assert ("127.0.0.1", listeners[0].getsockname()[1]) in [each.getsockname()[:2] for each in listeners]
        finally:
            for listener in listeners:
                listener.close()

    @pytest.mark.parametrize(("host", "cause"), [("192.0.2.1", errno.EADDRNOTAVAIL), ("127.0.0.1", errno.EADDRINUSE)])
    def test_what_cannot_be_had_is_said(self, host: str, cause: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            with pytest.raises(OSError, match=r"in use|assign") as raised:
                bind_address(host, other.getsockname()[1])
            assert raised.value.errno == cause


class TestPaths:
    """What is bound for a `UDS`."""

    def test_a_socket_that_nobody_listens_on_is_replaced(self, tmp_path: Path) -> None:
        """A killed service leaves it."""
        path = tmp_path / "socket"
        for _ in range(2):
            (listener,) = bind_path(path)
            listener.close()
        assert path.is_socket()
        assert path.stat().st_mode & 0o777 == 0o666

    def test_a_service_that_answers_keeps_its_socket(self, tmp_path: Path) -> None:
        (listener,) = bind_path(tmp_path / "socket")
        with listener:
            listener.listen()
            with pytest.raises(OSError, match="in use"):
                bind_path(tmp_path / "socket")

    def test_a_file_is_not_replaced(self, tmp_path: Path) -> None:
        (tmp_path / "socket").write_text("mine")
        with pytest.raises(OSError, match="in use"):
            bind_path(tmp_path / "socket")
        assert (tmp_path / "socket").read_text() == "mine"
