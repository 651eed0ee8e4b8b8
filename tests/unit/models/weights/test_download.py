"""Downloads against a real server that lies, breaks off, redirects and drips."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import ssl
import threading
import traceback
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import httpx
import pytest
import trustme
from structlog.testing import capture_logs

from jetface.atomic import whole_file
from jetface.errors import ModelFileError
from jetface.models.download import DownloadProgress, Fetcher, _open_url
from tests.support.file_server import Answer, file_server
from tests.support.weights import make_spec

BODY = bytes(range(256)) * 4000


def names(folder: Path) -> list[str]:
    """Files that are not locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


@contextlib.contextmanager
def tls_server() -> Iterator[str]:
    """Serve with a certificate of an authority that nobody trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        for name, body in members.items():
            package.writestr(name, body)
    return file.getvalue()


def test_a_download_is_verified_and_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "mine.onnx"
    with file_server({"/f": Answer(BODY)}) as server:
        Fetcher().fetch(make_spec(BODY, url=f"{server.url}/f"), path)
    assert path.read_bytes() == BODY
    assert names(path.parent) == ["mine.onnx"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(BODY[:-1]), "another checksum"),
        (Answer(b"<html>quota exceeded</html>"), "another checksum"),
        (Answer(BODY[: len(BODY) // 2], claimed_length=len(BODY)), "the download failed"),
        (Answer(BODY, claimed_length=10**12), "too large"),
        (Answer(BODY * 3, claimed_length=-1), "too large"),
        (Answer(status=500), "answered 500"),
        (Answer(status=302, location="/f"), "redirects without end"),
    ],
    ids=["wrong", "page", "truncated", "claims-too-much", "sends-too-much", "fails", "redirects"],
)
def test_what_is_not_the_file_leaves_nothing_behind(tmp_path: Path, answer: Answer, said: str) -> None:
    with file_server({"/f": answer}) as server, pytest.raises(ModelFileError, match=said):
        Fetcher(max_bytes=len(BODY) * 2).fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx")
    assert names(tmp_path) == []


def test_a_server_that_is_not_there_is_told_apart(tmp_path: Path) -> None:
    with file_server({}) as server:
        url = server.url
    with pytest.raises(ModelFileError, match="the download failed"):
        Fetcher().fetch(make_spec(BODY, url=f"{url}/f"), tmp_path / "mine.onnx")


def why(url: str, folder: Path) -> str:
    """What is said when a download fails."""
    with pytest.raises(ModelFileError) as caught:
        Fetcher().fetch(make_spec(BODY, url=url), folder / "mine.onnx")
    assert "hunter" not in str(caught.value)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE cannot be used: No such file or directory"),
        ({"SSL_CERT_FILE": "/dev/null"}, "SSL_CERT_FILE cannot be used: "),
        ({"ALL_PROXY": "socks5://me:hunter2@127.0.0.1:9"}, "the proxy in ALL_PROXY speaks SOCKS.*pip install socksio"),
        ({"https_proxy": "socks5h://127.0.0.1:9"}, "the proxy in HTTPS_PROXY speaks SOCKS"),
        ({"NO_PROXY": "localhost,[::1]"}, "NO_PROXY cannot be understood: it is a comma list"),
        ({"HTTP_PROXY": "http://me:hunter/2@127.0.0.1:9"}, "HTTP_PROXY cannot be understood: it is http://HOST:PORT"),
        ({"HTTP_PROXY": "ftp://me:hunter2@127.0.0.1:9"}, "HTTP_PROXY cannot be understood"),
        ({"HTTP_PROXY": "http://me:hunter2@127.0.0.1:9"}, r"or its proxy \(HTTP_PROXY\) refuses the connection"),
        ({"HTTP_PROXY": "me:hunter2@nowhere.invalid:9"}, "cannot be looked up"),
    ],
)
def test_what_is_wrong_with_the_environment_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], said: str
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with file_server({"/f": Answer(BODY)}) as server:
        url = server.url.replace("127.0.0.1", "models.example") if "HTTP_PROXY" in variables else server.url
        assert re.search(said, why(f"{url}/f", tmp_path))


def test_a_name_that_cannot_be_looked_up_is_named(tmp_path: Path) -> None:
    assert "the name nowhere.invalid cannot be looked up" in why("http://nowhere.invalid/f", tmp_path)


def test_a_certificate_that_nobody_here_trusts_is_named(tmp_path: Path) -> None:
    with tls_server() as url:
        assert re.search("certificate of 127.0.0.1 is not trusted.*SSL_CERT_FILE", why(f"{url}/f", tmp_path))


def test_a_server_without_tls_is_named(tmp_path: Path) -> None:
    with file_server({}) as server:
        said = why(f"{server.url.replace('http', 'https')}/f", tmp_path)
    assert "speaks no TLS that we do" in said


@pytest.mark.parametrize(("status", "said"), [(401, "put user and password"), (404, "no such file"), (407, "proxy")])
def test_what_a_status_means_is_said(tmp_path: Path, status: int, said: str) -> None:
    with file_server({"/f": Answer(status=status)}) as server:
        url = server.url.replace("//", "//me:hunter2@")
        assert said in why(f"{url}/f", tmp_path)


def test_how_far_a_download_is_can_be_followed(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    with file_server({"/f": Answer(BODY)}) as server:
        fetcher = Fetcher(on_progress=lambda done, total: steps.append((done, total)))
        fetcher.fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx")
    assert steps == sorted(steps)
    assert steps[-1] == (len(BODY), len(BODY))


def test_a_download_ends_at_its_deadline(tmp_path: Path) -> None:
    with (
        file_server({"/f": Answer(BODY, pause_s=0.3)}) as server,
        pytest.raises(ModelFileError, match="took too long"),
    ):
        Fetcher(deadline_s=0.1).fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx")


def test_a_redirect_is_followed(tmp_path: Path) -> None:
    with file_server({"/f": Answer(status=302, location="/g"), "/g": Answer(BODY)}) as server:
        Fetcher().fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx")
        assert server.requests == ["/f", "/g"]


def test_a_redirect_never_leaves_tls() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(302, headers={"location": "http://127.0.0.1/f"}, request=request)

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as client,
        pytest.raises(ModelFileError, match="without TLS"),
        _open_url(client, "https://127.0.0.1/f"),
    ):
        pytest.fail("the redirect was followed")


def test_a_mirror_that_fails_gives_way_to_the_official_address(tmp_path: Path) -> None:
    with file_server({"/m": Answer(b"stale"), "/f": Answer(BODY)}) as server:
        Fetcher().fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx", mirror_url=f"{server.url}/m")
        assert server.requests == ["/m", "/f"]


@pytest.mark.parametrize("folder", ["", "antelopev2/"])
def test_a_model_is_taken_out_of_an_archive_of_any_layout(tmp_path: Path, folder: str) -> None:
    package = zipped({f"{folder}other.onnx": b"other", f"{folder}mine.onnx": BODY})
    with file_server({"/pack.zip": Answer(package)}) as server:
        spec = make_spec(
            BODY, url=f"{server.url}/pack.zip", member="mine.onnx",
            archive_sha256=hashlib.sha256(package).hexdigest(),
        )  # fmt: skip
        Fetcher().fetch(spec, tmp_path / "mine.onnx")
    assert (tmp_path / "mine.onnx").read_bytes() == BODY
    assert names(tmp_path) == ["mine.onnx"]


def test_models_of_one_archive_cost_one_download(tmp_path: Path) -> None:
    package = zipped({"mine.onnx": BODY, "twin.onnx": b"twin"})
    with file_server({"/pack.zip": Answer(package)}) as server:
        url = f"{server.url}/pack.zip"
        mine = make_spec(BODY, url=url, member="mine.onnx")
        twin = make_spec(b"twin", name="twin", url=url, member="twin.onnx")
        Fetcher().fetch(mine, tmp_path / "mine.onnx", siblings=[twin])
        Fetcher().fetch(twin, tmp_path / "twin.onnx", siblings=[mine])
        assert server.requests == ["/pack.zip"]
    assert names(tmp_path) == ["mine.onnx", "twin.onnx"]


@pytest.mark.parametrize(
    ("package", "digest", "said"),
    [
        (zipped({"other.onnx": BODY}), None, "holds no mine.onnx"),
        (zipped({"mine.onnx": b"other"}), None, "another checksum"),
        (zipped({"mine.onnx": BODY}), "0" * 64, "the archive has another checksum"),
        (zipped({"mine.onnx": bytes(10**7)}), None, "too large"),
        (b"not a zip", None, "cannot be read"),
    ],
    ids=["no-member", "wrong-member", "wrong-archive", "bomb", "not-a-zip"],
)
def test_a_bad_archive_leaves_nothing_behind(tmp_path: Path, package: bytes, digest: str | None, said: str) -> None:
    with file_server({"/pack.zip": Answer(package)}) as server:
        spec = make_spec(BODY, url=f"{server.url}/pack.zip", member="mine.onnx", archive_sha256=digest)
        with pytest.raises(ModelFileError, match=said):
            Fetcher(max_bytes=len(BODY) * 2).fetch(spec, tmp_path / "mine.onnx")
    assert names(tmp_path) == []


def test_an_archive_cannot_write_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    package = zipped({"../../mine.onnx": BODY, "../evil.onnx": b"evil"})
    with file_server({"/pack.zip": Answer(package)}) as server:
        Fetcher().fetch(make_spec(BODY, url=f"{server.url}/pack.zip", member="mine.onnx"), folder / "mine.onnx")
    assert names(tmp_path) == ["models"]
    assert names(folder) == ["mine.onnx"]


def test_waiting_for_another_process_is_said_and_bounded(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with filelock.FileLock(tmp_path / ".mine.onnx.lock"):
            held.set()
            done.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(30)
    try:
        with capture_logs() as logs, pytest.raises(ModelFileError, match="another process"):
            Fetcher(deadline_s=0.1).fetch(make_spec(BODY, url="http://127.0.0.1:9/f"), path)
        assert logs[0]["event"].startswith("waiting for another process")
    finally:
        done.set()
        holder.join()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".mine.onnx.deadbeef.part").write_bytes(b"half")
    with file_server({"/f": Answer(BODY)}) as server:
        Fetcher().fetch(make_spec(BODY, url=f"{server.url}/f"), tmp_path / "mine.onnx")
    assert names(tmp_path) == ["mine.onnx"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFileError, match="MODELS_DIR cannot be written"):
        Fetcher().fetch(make_spec(BODY, url="http://127.0.0.1:9/f"), tmp_path / "file" / "mine.onnx")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_said(tmp_path: Path) -> None:
    class FullDisk(Fetcher):
        def _copy_url(self, *_: object) -> None:
            with Path("/dev/full").open("wb", buffering=0) as file:
                file.write(BODY)

    with pytest.raises(ModelFileError, match="the disk is full"):
        FullDisk().fetch(make_spec(BODY, url="http://127.0.0.1:9/f"), tmp_path / "mine.onnx")
    assert names(tmp_path) == []


def test_a_whole_file_keeps_the_permissions_a_user_expects(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with whole_file(tmp_path / "x") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


def test_machines_get_a_line_each_tenth() -> None:
    with capture_logs() as logs:
        progress = DownloadProgress("mine", 1000, is_terminal=False)
        for _ in range(100):
            progress.advance(10)
        progress.close()
    assert [line["percent"] for line in logs] == list(range(10, 101, 10))


def test_people_get_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    progress = DownloadProgress("mine", 1000, is_terminal=True)
    progress.advance(1000)
    progress.close()
    shown = capsys.readouterr()
    assert "mine: 100%" in shown.err
    assert shown.out == ""
