"""Where weights come from, in which order, and what is said when they cannot be had."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from jetface.errors import ModelFileError
from jetface.models.download import Fetcher, VerifiedFiles
from jetface.models.weights import Mirror, WeightsFolder
from jetface.registry import DataSpec, ModelSpec
from tests.support.file_server import Answer, file_server
from tests.support.weights import make_spec as make_weights_spec

WEIGHTS = b"the weights of a model"


def make_spec(**choices: Any) -> ModelSpec:
    return make_weights_spec(WEIGHTS, **choices)


def put(folder: Path, body: bytes = WEIGHTS, name: str = "mine.onnx") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(body)
    return path


@pytest.mark.parametrize("with_md5", [False, True])
def test_the_users_folder_is_asked_first(tmp_path: Path, with_md5: bool) -> None:
    folders = [tmp_path / name for name in ("models", "registry", "mirror")]
    paths = [put(folder) for folder in folders]
    weights = WeightsFolder(folder=folders[0], registry_dir=folders[1], mirror=Mirror(folder=folders[2]))
    for path in paths:
        assert weights.is_at_hand(make_spec())
        assert weights.locate(make_spec(with_md5=with_md5)) == path
        path.unlink()
    assert not weights.is_at_hand(make_spec())


@pytest.mark.parametrize("name", ["mine", "theirs"])
def test_the_folders_of_insightface_rest_are_looked_into(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "onnx" / name, name=f"{name}.onnx")
    weights = WeightsFolder(folder=tmp_path)
    spec = make_spec(aliases=("theirs",))
    assert weights.is_at_hand(spec)
    assert weights.locate(spec) == path
    assert weights.export(spec, tmp_path / "there").name == "mine.onnx"


def test_another_checksum_there_is_said_and_the_file_stays(tmp_path: Path) -> None:
    path = put(tmp_path / "onnx" / "mine", b"exported anew")
    with capture_logs() as logs, pytest.raises(ModelFileError, match="another checksum"):
        WeightsFolder(folder=tmp_path).locate(make_spec())
    assert (logs[0]["event"], logs[0]["file"]) == ("file has another checksum and is not used", str(path))
    assert path.read_bytes() == b"exported anew"


def test_a_folder_mirror_is_used_in_place_and_never_written(tmp_path: Path) -> None:
    mirror = put(tmp_path / "mirror")
    weights = WeightsFolder(folder=tmp_path / "models", mirror=Mirror.parse(str(tmp_path / "mirror")))
    assert weights.locate(make_spec()) == mirror
    assert not (tmp_path / "models").exists()
    assert [path.name for path in mirror.parent.iterdir()] == ["mine.onnx"]


def test_a_file_with_another_checksum_is_put_aside_and_passed_over(tmp_path: Path) -> None:
    damaged = put(tmp_path / "models", b"other")
    aside = damaged.with_name("mine.onnx.damaged")
    mirror = put(tmp_path / "mirror")
    weights = WeightsFolder(folder=tmp_path / "models", mirror=Mirror(folder=tmp_path / "mirror"))
    with capture_logs() as logs:
        assert weights.locate(make_spec()) == mirror
    assert "is damaged" in logs[0]["event"]
    assert logs[0]["put_aside_as"] == aside.name
    assert aside.read_bytes() == b"other"
    mirror.unlink()
    with pytest.raises(ModelFileError, match=r"another checksum and is put aside as mine\.onnx\.damaged"):
        weights.locate(make_spec())


def test_a_damaged_file_is_fetched_again(tmp_path: Path) -> None:
    path = put(tmp_path, WEIGHTS[:-1])
    with file_server({"/mine.onnx": Answer(WEIGHTS)}) as server:
        weights = WeightsFolder(folder=tmp_path, mirror=Mirror.parse(server.url), fetcher=Fetcher())
        assert weights.locate(make_spec()) == path
    assert path.read_bytes() == WEIGHTS
    assert path.with_name("mine.onnx.damaged").read_bytes() == WEIGHTS[:-1]


def test_a_file_of_the_mirror_that_has_another_checksum_stays_where_it_is(tmp_path: Path) -> None:
    mirror = put(tmp_path / "mirror", b"other")
    weights = WeightsFolder(folder=tmp_path / "models", mirror=Mirror(folder=tmp_path / "mirror"))
    with capture_logs() as logs, pytest.raises(ModelFileError, match="another checksum"):
        weights.locate(make_spec())
    assert logs[0]["event"] == "file has another checksum and is not used"
    assert mirror.read_bytes() == b"other"


@pytest.mark.parametrize("name", ["folder", "circle", "pipe"])
def test_what_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "mine.onnx"
    if name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path)
    with file_server({"/mine.onnx": Answer(WEIGHTS)}) as server:
        weights = WeightsFolder(folder=tmp_path, mirror=Mirror.parse(server.url), fetcher=Fetcher())
        assert not weights.is_at_hand(make_spec())
        with pytest.raises(ModelFileError, match=r"mine\.onnx is here and cannot be read"):
            weights.locate(make_spec())
        assert server.requests == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_file_of_somebody_else_is_named_with_its_cure() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        put(folder).chmod(0o600)
        os.seteuid(65534)
        try:
            with pytest.raises(
                ModelFileError, match=r"mine\.onnx is here and cannot be read \(Permission denied\); let user"
            ):
                WeightsFolder(folder=folder).locate(make_spec())
        finally:
            os.seteuid(0)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_folder_of_somebody_else_is_named_with_its_cure() -> None:
    with tempfile.TemporaryDirectory() as name, file_server({"/mine.onnx": Answer(WEIGHTS)}) as server:
        folder = Path(name)
        put(folder)
        folder.chmod(0o700)
        os.seteuid(65534)
        try:
            weights = WeightsFolder(folder=folder, mirror=Mirror.parse(server.url), fetcher=Fetcher())
            assert not weights.is_at_hand(make_spec())
            with pytest.raises(ModelFileError, match=r"Permission denied.*chown"):
                weights.locate(make_spec())
        finally:
            os.seteuid(0)


def test_what_cannot_be_had_is_named_with_its_digest_and_three_ways_to_supply_it(tmp_path: Path) -> None:
    spec = make_spec()
    weights = WeightsFolder(folder=tmp_path / "models", mirror=Mirror(folder=tmp_path / "mirror"))
    with capture_logs() as logs, pytest.raises(ModelFileError) as caught:
        weights.locate(spec)
    message = caught.value.message
    for part in ("mine.onnx", f"sha256 {spec.sha256}", "MODELS_DIR", "MODEL_MIRROR", "MODEL_DOWNLOAD=1"):
        assert part in message
    assert str(tmp_path) not in message
    assert logs[-1]["models_dir"] == str(tmp_path / "models")
    assert logs[-1]["mirror"] == str(tmp_path / "mirror")


def test_nothing_is_downloaded_when_downloads_are_off(tmp_path: Path) -> None:
    with file_server({"/mine.onnx": Answer(WEIGHTS)}) as server:
        weights = WeightsFolder(folder=tmp_path, mirror=Mirror.parse(server.url), fetcher=None)
        with pytest.raises(ModelFileError, match="MODEL_DOWNLOAD=0 keeps the address in MODEL_MIRROR from being asked"):
            weights.locate(make_spec(url=f"{server.url}/mine.onnx"))
        assert server.requests == []


def test_a_url_mirror_is_asked_before_the_official_address(tmp_path: Path) -> None:
    with file_server({"/m/mine.onnx": Answer(WEIGHTS), "/official": Answer(WEIGHTS)}) as server:
        spec = make_spec(url=f"{server.url}/official")
        for mirror, asked in ((f"{server.url}/m/", ["/m/mine.onnx"]), ("", ["/official"])):
            folder = tmp_path / str(len(mirror))
            weights = WeightsFolder(folder=folder, mirror=Mirror.parse(mirror), fetcher=Fetcher())
            assert weights.locate(spec) == folder / "mine.onnx"
            assert server.requests == asked
            server.requests.clear()


def test_a_failed_download_says_why(tmp_path: Path) -> None:
    with file_server({}) as server:
        weights = WeightsFolder(folder=tmp_path, mirror=Mirror.parse(server.url), fetcher=Fetcher())
        with pytest.raises(ModelFileError, match="from the mirror, the server answered 404"):
            weights.locate(make_spec())


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path: Path) -> None:
    path = put(tmp_path)
    verified = VerifiedFiles()
    assert verified.check(path, make_spec())
    stat = path.stat()
    path.write_bytes(WEIGHTS.upper())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert verified.check(path, make_spec())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert not verified.check(path, make_spec())


def test_a_file_that_cannot_be_read_does_not_pass(tmp_path: Path) -> None:
    assert not VerifiedFiles().check(tmp_path / "missing", make_spec())
    (tmp_path / "folder").mkdir()
    assert not VerifiedFiles().check(tmp_path / "folder", make_spec())


def test_an_empty_mirror_is_none() -> None:
    assert Mirror.parse("") == Mirror()
    assert Mirror.parse("https://host/x/").url_of(make_spec(name="a.b")) == "https://host/x/a.b.onnx"


class TestData:
    """Files beside the model's that hold weights of it: sought, fetched and carried along with it."""

    DATA = b"more weights"

    def spec(self, **choices: Any) -> ModelSpec:
        part = DataSpec(file="mine.onnx.data", sha256=hashlib.sha256(self.DATA).hexdigest())
        return make_spec(**choices).model_copy(update={"data": (part,)})

    def test_a_folder_has_a_model_when_it_has_all_of_it(self, tmp_path: Path) -> None:
        """A part that is missing or damaged is as bad as the whole."""
        put(tmp_path / "models")
        mirror = put(tmp_path / "mirror")
        put(tmp_path / "mirror", self.DATA, "mine.onnx.data")
        weights = WeightsFolder(folder=tmp_path / "models", mirror=Mirror(folder=tmp_path / "mirror"))
        assert weights.locate(self.spec()) == mirror
        put(tmp_path / "mirror", b"damaged", "mine.onnx.data")
        with pytest.raises(ModelFileError, match=r"mine\.onnx"):
            WeightsFolder(folder=tmp_path / "models", mirror=weights.mirror).locate(self.spec())

    def test_what_is_missing_is_fetched_from_a_mirror(self, tmp_path: Path) -> None:
        answers = {"/mine.onnx": Answer(WEIGHTS), "/mine.onnx.data": Answer(self.DATA)}
        with file_server(answers) as server:
            weights = WeightsFolder(folder=tmp_path, mirror=Mirror(url=server.url.rstrip("/")), fetcher=Fetcher())
            path = weights.locate(self.spec())
            assert path.with_name("mine.onnx.data").read_bytes() == self.DATA
            path.with_name("mine.onnx.data").unlink()
            assert weights.locate(self.spec()) == path
            assert path.with_name("mine.onnx.data").read_bytes() == self.DATA

    def test_an_export_carries_them(self, tmp_path: Path) -> None:
        put(tmp_path / "models")
        put(tmp_path / "models", self.DATA, "mine.onnx.data")
        path = WeightsFolder(folder=tmp_path / "models").export(self.spec(), tmp_path / "stick")
        assert sorted(file.name for file in path.parent.iterdir()) == ["mine.onnx", "mine.onnx.data"]


def test_a_mirror_that_is_not_mounted_is_named(tmp_path: Path) -> None:
    weights = WeightsFolder(folder=tmp_path, mirror=Mirror(folder=tmp_path / "stick"))
    with pytest.raises(ModelFileError, match="the folder that MODEL_MIRROR names is not"):
        weights.locate(make_spec())
