"""A fleet that is one folder: stand-ins of ssh, scp, rsync and docker that record their calls and fail when told to.

The stand-in of ssh runs the command here, in the folder of its host, so what `fleet_host.sh` does on a host is done for
real; the stand-in of docker keeps an engine's images and its one running container as files.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.shared import REPOSITORY

FOLDER = "/opt/jetface"
"""Where hosts keep what they are sent; below the host's folder here."""

IDENTITY = 'arm64 2026-11-20T10:00:00Z ["sha256:new"]'
OLD_IDENTITY = 'arm64 2026-10-01T10:00:00Z ["sha256:old"]'

_SSH = """\
#!/bin/bash
while [[ $1 == -* ]]; do shift 2; done
host=$1
shift
printf 'ssh %s %s\\n' "$host" "${*##* -- }" >>"$STAGE/calls"
here=$STAGE/$host
[[ ! -e $here/faults/unreachable ]] || exit 255
[[ ! -e $here/faults/no-rsync || $* != *" -- has rsync "* ]] || exit 1
for step in up roll_back; do
  [[ ! -e $here/faults/lost-at-$step || $* != *" -- $step "* ]] || exit 255
done
if [[ -e $here/faults/hang-at-up && $* == *" -- up "* ]]; then touch "$here/hanging"; exec sleep 600; fi
cd "$here" && HOST_FOLDER=$here exec bash -c "${*//\\/opt\\/jetface/$here/opt/jetface}"
"""

_SCP = """\
#!/bin/bash
printf 'scp %s\\n' "$*" >>"$STAGE/calls"
while [[ $1 == -* ]]; do shift 2; done
host=${2%%:*}
[[ ! -e $STAGE/$host/faults/scp ]] || exit 1
cp "$1" "$STAGE/$host/${2#*:}"
"""

_RSYNC = """\
#!/bin/bash
[[ $# -gt 0 ]] || exit 1
printf 'rsync %s\\n' "$*" >>"$STAGE/calls"
args=("$@")
from=${args[-2]} to=${args[-1]}
host=${to%%:*}
target=$STAGE/$host/${to#*:}
if [[ -e $STAGE/$host/faults/cut ]]; then
  rm "$STAGE/$host/faults/cut"
  head -c 10 "$from" >"$target"
  exit 20
fi
[[ ! -s $target ]] || printf 'resumed at %s\\n' "$(stat -c %s "$target")" >>"$STAGE/calls"
cp "$from" "$target"
if [[ -e $STAGE/$host/faults/damage ]]; then rm "$STAGE/$host/faults/damage"; echo x >>"$target"; fi
"""

_DOCKER = """\
import hashlib, os, re, sys
from pathlib import Path

home = Path(os.environ.get("HOST_FOLDER", os.environ["STAGE"] + "/local"))
call = sys.argv[1:]
with open(os.environ["STAGE"] + "/calls", "a") as calls:
    calls.write(f"docker@{home.name} {' '.join(call)}\\n")
images, running, faults = home / "images", home / "running", home / "faults"
image_id = lambda text: "sha256:" + hashlib.sha256(text.encode()).hexdigest()
file_of = lambda name: images / re.sub("[/:]", "_", name)


def add(name, text):
    for key in (name, image_id(text)):
        file_of(key).write_text(text)


def end(text="", code=0):
    sys.stdout.write(text)
    sys.exit(code)


words = " ".join(call)
if words.startswith("image inspect"):
    if not file_of(call[-1]).exists():
        end(code=1)
    end({"{{.Size}}": "1000\\n"}.get(call[call.index("--format") + 1] if "--format" in call else "",
        file_of(call[-1]).read_text() + "\\n"))
if call[0] == "save":
    end(call[1] + "\\n" + file_of(call[1]).read_text())
if call[0] == "load":
    if (faults / "load").exists():
        end(code=1)
    name, text = sys.stdin.read().split("\\n", 1)
    add(name, text)
    end("Loaded image: " + name + "\\n")
if call[0] == "tag":
    add(call[2], file_of(call[1]).read_text())
    end()
if call[0] == "ps":
    end("container\\n" if running.exists() else "")
if call[0] == "inspect":
    end(running.read_text() + "\\n")
if call[0] == "info":
    end(str(home) + "\\n" if "--format" in call else "", code=int((faults / "engine").exists()))
if call[0] == "compose" and "up" in call:
    chosen = re.search("JETFACE_IMAGE=(.*)", Path(".env").read_text())[1]
    if not Path("compose.yaml").exists() or not file_of(chosen).exists():
        end(code=1)
    running.write_text(image_id(file_of(chosen).read_text()))
    end()
end()
"""


class Stage:
    """The folder `fleet.sh` is run over. Hosts are added by `add_host`."""

    def __init__(self, root: Path) -> None:
        """Lay the stand-ins out below `root`."""
        self.root = root
        self.bin = root / "bin"
        self._ports: dict[str, int] = {}
        self.bin.mkdir()
        (root / "calls").touch()
        for name, text in (("ssh", _SSH), ("scp", _SCP), ("rsync", _RSYNC)):
            self._add_program(name, text)
        self._add_program("docker", f"#!{sys.executable} -IS\n{_DOCKER}")
        # What hosts say of themselves must not depend on the machine of the test.
        self._add_program("uname", "#!/bin/sh\necho aarch64\n")
        self._lay_out("local")
        self.add_image("local", "jetface:jetson", IDENTITY)

    def add_host(self, name: str, port: int, *, runs: str | None = OLD_IDENTITY) -> Path:
        """Add a host and return its folder.

        Args:
            name: As in the hosts file.
            port: Where its service would listen.
            runs: Identity of the image it runs, as `jetface:jetson`; None runs nothing.
        """
        folder = self._lay_out(name)
        self._ports[name] = port
        deployed = folder / "opt/jetface/deploy"
        (deployed / "local").mkdir(parents=True)
        (deployed / "local/jetface.env").write_text("API_KEYS=mine\n", encoding="utf-8")
        if runs is not None:
            self.add_image(name, "jetface:jetson", runs)
            (deployed / "compose.yaml").write_text("old: true\n", encoding="utf-8")
            (deployed / ".env").write_text("JETFACE_IMAGE=jetface:jetson\n", encoding="utf-8")
            (folder / "running").write_text(_image_id(runs), encoding="utf-8")
        return folder

    def add_image(self, host: str, name: str, identity: str) -> None:
        """Give the engine of a host an image."""
        for key in (name, _image_id(identity)):
            (self.root / host / "images" / re.sub("[/:]", "_", key)).write_text(identity, encoding="utf-8")

    def runs(self, host: str) -> str | None:
        """Identity of the image that a host runs."""
        running = self.root / host / "running"
        if not running.exists():
            return None
        image = running.read_text(encoding="utf-8")
        return (self.root / host / "images" / image.replace(":", "_")).read_text(encoding="utf-8")

    def fault(self, host: str, name: str) -> Path:
        """Let something fail on a host; the file returned ends the fault when it is removed."""
        path = self.root / host / "faults" / name
        path.touch()
        return path

    @property
    def calls(self) -> list[str]:
        """Every call so far."""
        return (self.root / "calls").read_text(encoding="utf-8").splitlines()

    def command(self, *options: str, image: str = "jetface:jetson") -> list[str]:
        """Return the call of `fleet.sh` over all hosts, which waits 2 s for a service at most."""
        hosts = self.root / "hosts"
        hosts.write_text(
            "# name, port\n" + "".join(f"{name} {port} # a board\n" for name, port in self._ports.items()),
            encoding="utf-8",
        )
        script = REPOSITORY / "deploy/jetson/fleet.sh"
        return [str(script), "--wait", "2", "--work", str(self.root / "work"), *options, str(hosts), image]

    @property
    def environ(self) -> dict[str, str]:
        """What the call runs in: the stand-ins come first."""
        return {"PATH": f"{self.bin}:{os.environ['PATH']}", "STAGE": str(self.root), "HOME": str(self.root)}

    def run(self, *options: str, image: str = "jetface:jetson") -> subprocess.CompletedProcess[str]:
        """Run `fleet.sh` to its end."""
        return subprocess.run(
            self.command(*options, image=image),
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    def outcome(self, done: subprocess.CompletedProcess[str], host: str) -> str:
        """What the summary says of a host."""
        return next(
            line.split(maxsplit=1)[1].strip()
            for line in reversed(done.stdout.splitlines())
            if line.startswith(f"{host} ")
        )

    def _lay_out(self, name: str) -> Path:
        folder = self.root / name
        for part in ("images", "faults", "opt/jetface"):
            (folder / part).mkdir(parents=True)
        return folder

    def _add_program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        path.chmod(0o755)


@contextmanager
def service_of(stage_root: Path, host: str, *, bad: frozenset[str] = frozenset()) -> Iterator[int]:
    """Answer `/health/ready` for a host, 503 while it runs an image whose identity is `bad`; yields the port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer one request."""
            running = stage_root / host / "running"
            is_ready = running.exists() and running.read_text(encoding="utf-8") not in map(_image_id, bad)
            self.send_response(200 if is_ready else 503)
            self.end_headers()

        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _image_id(identity: str) -> str:
    return "sha256:" + hashlib.sha256(identity.encode()).hexdigest()
