"""Files below one folder, and nothing else."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.errors import UrlRefusedError
from jetface.imaging.remote import PictureFolder


@pytest.fixture
def folder(tmp_path: Path) -> PictureFolder:
    """Return a folder with one picture, and secrets beside it."""
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below" / "a.jpg").write_bytes(b"picture")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-secret").write_bytes(b"secret")
    return PictureFolder(root, max_bytes=10)


@pytest.mark.parametrize("path", ["below/a.jpg", "./below/../below/a.jpg", "below//a.jpg"])
def test_a_file_below_the_root_is_read(folder: PictureFolder, path: str) -> None:
    assert folder.read(path) == b"picture"
    assert folder.read(str(folder.root / path)) == b"picture"


@pytest.mark.parametrize(
    "path",
    ["../secret", "../root-secret", "below/../../secret", "/etc/passwd", "/proc/self/environ", "missing", "", ".",
     "below", "a\0b", "x" * 5000, "~/a.jpg"],
)  # fmt: skip
def test_all_else_is_not_there(folder: PictureFolder, path: str) -> None:
    """One sentence, whether something is there or not."""
    with pytest.raises(UrlRefusedError, match=r"^There is no such picture\.$"):
        folder.read(path)


def test_links_are_followed_and_then_judged(folder: PictureFolder) -> None:
    (folder.root / "inside").symlink_to(folder.root / "below" / "a.jpg")
    (folder.root / "outside").symlink_to(folder.root.parent / "secret")
    (folder.root / "up").symlink_to(folder.root.parent)
    (folder.root / "loop").symlink_to(folder.root / "loop")
    assert folder.read("inside") == b"picture"
    for path in ("outside", "up/secret", "loop"):
        with pytest.raises(UrlRefusedError, match="no such picture"):
            folder.read(path)


def test_links_lead_on_as_long_as_they_stay_below_the_root(folder: PictureFolder) -> None:
    (folder.root / "below" / "back").symlink_to("../below/./a.jpg")
    (folder.root / "all").symlink_to("below")
    (folder.root / "chain").symlink_to("all/back")
    (folder.root / "out").symlink_to("below/../../root/below/a.jpg")
    assert folder.read("below/back") == folder.read("all/a.jpg") == folder.read("chain") == b"picture"
    with pytest.raises(UrlRefusedError, match="no such picture"):
        folder.read("out")
    for number in range(60):
        (folder.root / f"{number}").symlink_to(f"{number + 1}")
    with pytest.raises(UrlRefusedError, match="no such picture"):
        folder.read("0")


@pytest.mark.parametrize(
    "path", ["../secret", "../none", "below/../../secret", "below/../../none/x", "none/../../secret"]
)
def test_a_path_that_leads_out_is_refused_before_the_file_system_is_asked(
    folder: PictureFolder, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """How long it takes would tell whether something is there."""
    monkeypatch.setattr(os, "open", lambda *_args, **_kwargs: pytest.fail("asked"))
    with pytest.raises(UrlRefusedError, match="no such picture"):
        folder.read(path)


def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(folder: PictureFolder) -> None:
    """Two names change places again and again, one of them of a link that leads out."""
    (folder.root / "below" / "secret").write_bytes(b"picture")
    (folder.root / "turn").symlink_to(folder.root.parent)
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            (folder.root / "below").rename(folder.root / "aside")
            (folder.root / "turn").rename(folder.root / "below")
            (folder.root / "below").rename(folder.root / "turn")
            (folder.root / "aside").rename(folder.root / "below")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(2000):
            with contextlib.suppress(UrlRefusedError):
                assert folder.read("below/secret") == b"picture"
    finally:
        done.set()
        thread.join()


def test_no_descriptor_is_left(folder: PictureFolder) -> None:
    (folder.root / "up").symlink_to("..")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in ("below/a.jpg", "below", "none", "below/none", "up/secret", "a\0b", "../x"):
        with contextlib.suppress(UrlRefusedError):
            folder.read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_root_that_is_a_link_works(folder: PictureFolder) -> None:
    link = folder.root.parent / "link"
    link.symlink_to(folder.root)
    assert PictureFolder(link, max_bytes=10).read("below/a.jpg") == b"picture"


def test_a_pipe_does_not_hold_the_thread(folder: PictureFolder) -> None:
    os.mkfifo(folder.root / "pipe")
    with pytest.raises(UrlRefusedError, match="no such picture"):
        folder.read("pipe")


def test_a_file_above_the_limit_is_refused(folder: PictureFolder) -> None:
    (folder.root / "fits").write_bytes(bytes(10))
    (folder.root / "large").write_bytes(bytes(11))
    assert folder.read("fits") == bytes(10)
    with pytest.raises(UrlRefusedError, match="longer than 10 bytes"):
        folder.read("large")


def test_a_root_that_is_gone_says_the_same(tmp_path: Path) -> None:
    with pytest.raises(UrlRefusedError, match="no such picture"):
        PictureFolder(tmp_path / "gone", max_bytes=10).read("a.jpg")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "/", "below", "a.jpg", "secret", "\0", "%2e%2e", "root"]), max_size=8))
def test_no_path_leads_out(folder: PictureFolder, parts: list[str]) -> None:
    try:
        assert folder.read("/".join(parts)) == b"picture"
    except UrlRefusedError:
        return
