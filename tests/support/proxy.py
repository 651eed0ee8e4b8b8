"""Debian's own nginx on loopback, with the configuration that operators are given."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.server import free_port, running
from tests.support.shared import REPOSITORY

NGINX_FOLDER = REPOSITORY / "deploy" / "nginx"

_MAIN = """
{user}
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log info;
daemon off;
events {{ }}
http {{
    log_format choices '$status $upstream_addr $upstream_status';
    access_log {folder}/access.log choices;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/jetface.conf;
}}
"""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running nginx."""

    url: str
    folder: Path

    def choices(self) -> list[str]:
        """Return a line for each request answered so far: its status, then the servers asked and their statuses."""
        return (self.folder / "access.log").read_text(encoding="utf-8").splitlines()


def require_nginx() -> str:
    """Return the path of nginx, or end the test: it fails where `CI` is set, else it is skipped and says why."""
    path = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "nginx is not installed (Debian and Ubuntu: apt install nginx-light)"
        )
    return path


def render(hosts: Sequence[str], **variables: str) -> str:
    """Fill in the template as the official image does: every `${NAME}` of the environment that the script leaves.

    Args:
        hosts: `host:port` of each server.
        variables: Further variables of the container.
    """
    script = NGINX_FOLDER / "15-jetface.envsh"
    left = subprocess.run(
        ["/bin/sh", "-ec", f". {shlex.quote(str(script))}; env -0"],
        env={"PATH": os.environ["PATH"], "JETFACE_HOSTS": " ".join(hosts), **variables},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    text = (NGINX_FOLDER / "jetface.conf.template").read_text(encoding="utf-8")
    for line in filter(None, left.split("\0")):
        name, _, value = line.partition("=")
        text = text.replace(f"${{{name}}}", value)
    return text


@contextmanager
def running_proxy(folder: Path, hosts: Sequence[str], **variables: str) -> Iterator[Proxy]:
    """Run nginx before `hosts` for the duration of the block; arguments as of `render`."""
    nginx = require_nginx()
    port = free_port()
    text = render(hosts, PROXY_LISTEN=f"127.0.0.1:{port}", **variables)
    (folder / "jetface.conf").write_text(text, encoding="utf-8")
    # As root, its workers would give up the right to read the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user), encoding="utf-8")
    command = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
    with running(command, port, folder / "nginx.log", dict(os.environ)) as server:
        server.wait_until_listening()
        yield Proxy(server.url, folder)
