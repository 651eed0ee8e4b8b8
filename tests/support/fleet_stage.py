"""A fleet that is one folder: stand-ins of ssh, scp, rsync and docker that record their calls and fail when told to.

The stand-in of ssh runs the command here, in the folder of its host, so what `fleet_host.sh` does on a host is done for
real; the stand-in of docker keeps an engine's images and its one running container as files.
"""

from __future__ import annotations

import os
import re
import subprocess
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
#!/bin/bash
home=${HOST_FOLDER:-$STAGE/local}
printf 'docker@%s %s\\n' "${home##*/}" "$*" >>"$STAGE/calls"
file_of() { printf '%s/images/%s' "$home" "${1//[:\\/]/_}"; }
id_of() { printf 'sha256:%s' "${1//[^A-Za-z0-9]/}"; }
add() {
  printf '%s' "$2" >"$(file_of "$1")"
  printf '%s' "$2" >"$(file_of "$(id_of "$2")")"
}
case "$*" in
  'image inspect'*)
    [[ -e $(file_of "${@: -1}") ]] || exit 1
    if [[ $* == *'{{.Size}}'* ]]; then echo 1000; else printf '%s\\n' "$(<"$(file_of "${@: -1}")")"; fi
    ;;
  save*) printf '%s\\n%s\\n' "$2" "$(<"$(file_of "$2")")" ;;
  load)
    [[ ! -e $home/faults/load ]] || exit 1
    read -r name && read -r text && add "$name" "$text" && echo "Loaded image: $name"
    ;;
  tag*) add "$3" "$(<"$(file_of "$2")")" ;;
  ps*) [[ ! -e $home/running ]] || echo container ;;
  inspect*) printf '%s\\n' "$(<"$home/running")" ;;
  info*)
    [[ ! -e $home/faults/engine ]] || exit 1
    echo "$home"
    ;;
  'compose version --short') cat "$home/compose-version" 2>/dev/null || echo 2.40.0 ;;
  compose*up*)
    [[ -e compose.yaml && $(<.env) =~ JETFACE_IMAGE=([^[:space:]]*) && -e $(file_of "${BASH_REMATCH[1]}") ]] || exit 1
    id_of "$(<"$(file_of "${BASH_REMATCH[1]}")")" >"$home/running"
    ;;
esac
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
        self._add_program("docker", _DOCKER)
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
            (deployed / ".env").write_text("JETFACE_IMAGE=jetface:old\nJETFACE_RENDER_GID=105\n", encoding="utf-8")
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
        path.write_text(text, encoding="utf-8")
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
    """As the stand-in of docker makes it."""
    return "sha256:" + re.sub("[^A-Za-z0-9]", "", identity)
