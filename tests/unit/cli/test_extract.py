"""`jetface extract`: the pipeline on files and folders."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path

import cv2
import pytest
from click.testing import CliRunner, Result

from jetface.cli.main import main
from jetface.cli.pictures import find_pictures
from tests.support.pictures import read_image


def run(*arguments: str | Path) -> Result:
    """Run `jetface extract`."""
    return CliRunner().invoke(main, ["extract", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weights folder that keeps what one test prepared for the next."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def weights(monkeypatch: pytest.MonkeyPatch, shared_models: Path, prepared: Path) -> None:
    """An environment in which small real weights are found."""
    monkeypatch.setenv("MODELS_DIR", str(prepared))
    monkeypatch.setenv("MODEL_MIRROR", str(shared_models))
    monkeypatch.setenv("MODEL_DOWNLOAD", "0")
    monkeypatch.setenv("DET_MODEL", "det_500m")
    monkeypatch.setenv("REC_MODEL", "mobilefacenet128")


@pytest.fixture
def photos(tmp_path: Path, shared_images: Path) -> Path:
    """A folder with pictures, below it more, and what is none."""
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    (folder / ".thumbnails").mkdir()
    shutil.copy(shared_images / "t1.jpg", folder / "b.JPG")
    shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / "deeper" / "a.jpeg")
    shutil.copy(shared_images / "newton.png", folder / "c.png")
    shutil.copy(shared_images / "t1.jpg", folder / ".thumbnails" / "t1.jpg")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture
def odd_files(tmp_path: Path, shared_images: Path, shared_dir: Path) -> Path:
    """What lies in folders of phones and cameras beside pictures of the usual names."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in ("a.jfif", "b.jpe", "c.MPO", "d", os.fsdecode(b"ren\xe9.jpg")):
        shutil.copy(shared_images / "ifrest_Stallone.jpg", folder / name)
    shutil.copy(shared_dir / "cases" / "formats" / "photo.heic", folder / "e.HEIC")
    for name in ("notes.txt", "more.TXT", "film.mov", "without"):
        (folder / name).write_text("no picture")
    (folder / "broken.jpg").symlink_to(folder / "nowhere")
    return folder


def test_files_are_taken_by_suffix_or_else_by_their_bytes(odd_files: Path) -> None:
    skipped: Counter[str] = Counter()
    found = find_pictures([odd_files], skipped=skipped)
    names = ["a.jfif", "b.jpe", "c.MPO", "d", "e.HEIC", os.fsdecode(b"ren\xe9.jpg")]
    assert [picture.relative.name for picture in found] == names
    assert skipped == {".txt": 2, ".mov": 1, "without suffix": 1, "unreadable": 1}


def test_tiff_is_taken_where_it_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "scan.tif").write_bytes(b"II*\0")
    skipped: Counter[str] = Counter()
    assert find_pictures([tmp_path], skipped=skipped) == []
    assert skipped == {".tif": 1}
    assert len(find_pictures([tmp_path], accept_tiff=True)) == 1


@pytest.mark.usefixtures("weights")
class TestOddFiles:
    """Nothing is dropped in silence, and no name ends a run."""

    def test_skipped_files_are_counted_and_all_pictures_answered(self, odd_files: Path) -> None:
        result = run(odd_files, "--json", "--detect-only")
        assert result.exit_code == 0
        assert "skipped 5 files: 2 .txt" in result.stderr
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        names = ["a.jfif", "b.jpe", "c.MPO", "d", "e.HEIC", r"ren\xe9.jpg"]
        assert [Path(line["path"]).name for line in lines] == names
        assert all(line["faces"] for line in lines)

    def test_the_table_and_the_drawings_bear_such_names_too(self, odd_files: Path, tmp_path: Path) -> None:
        result = run(odd_files / os.fsdecode(b"ren\xe9.jpg"), "--detect-only", "--draw", tmp_path / "drawn")
        assert result.exit_code == 0
        assert r"ren\xe9.jpg: 1 face" in result.stdout
        assert [os.fsencode(path.name) for path in (tmp_path / "drawn").iterdir()] == [b"ren\xe9.jpg"]

    def test_strict_fails_when_something_was_skipped(self, odd_files: Path) -> None:
        result = run(odd_files, "--detect-only", "--strict")
        assert result.exit_code == 1
        assert "skipped 5 files" in result.stderr
        for path in ("notes.txt", "more.TXT", "film.mov", "without", "broken.jpg"):
            (odd_files / path).unlink()
        assert run(odd_files, "--detect-only", "--strict").exit_code == 0


@pytest.mark.usefixtures("weights")
class TestExtract:
    """With real weights."""

    def test_turned_pictures_are_found_where_that_is_asked(self, tmp_path: Path, shared_images: Path) -> None:
        """And said to be turned, for people and for programs."""
        turned = tmp_path / "turned.png"
        cv2.imwrite(str(turned), cv2.rotate(read_image(shared_images / "t1.jpg"), cv2.ROTATE_90_CLOCKWISE))
        line = json.loads(run(turned, "--json", "--detect-only", "--rotations", "auto").stdout)
        assert (line["rotation"], len(line["faces"]), line["image_hw"]) == (270, 6, [1280, 886])
        assert "6 faces" in (said := run(turned, "--detect-only", "--rotations", "auto").stdout)
        assert "turned by 270 degrees" in said

    def test_json_is_a_line_a_picture_in_order(self, photos: Path) -> None:
        """Everything known of each: path, size, faces with box, score, landmarks, norm and embedding."""
        result = run(photos, "--json")
        assert result.exit_code == 0
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [Path(line["path"]) for line in lines] == [
            photos / "b.JPG", photos / "c.png", photos / "deeper" / "a.jpeg"
        ]  # fmt: skip
        t1, _, stallone = lines
        assert t1["image_hw"] == [886, 1280]
        assert len(t1["faces"]) == 6
        (face,) = stallone["faces"]
        assert len(face["embedding"]) == 128
        assert len(face["landmarks"]) == 5
        assert len(face["box"]) == 4
        assert face["norm"] > 0
        assert 0.5 < face["score"] <= 1

    def test_people_read_a_table(self, photos: Path) -> None:
        """A line a picture, a line a face."""
        lines = run(photos / "b.JPG").stdout.splitlines()
        assert lines[0].startswith(f"{photos / 'b.JPG'}: 6 faces, ")
        assert len(lines) == 7
        assert "score 0." in lines[1]
        assert "norm" in lines[1]

    def test_what_is_asked_is_what_is_done(self, photos: Path) -> None:
        """Limits and thresholds reach the pipeline; without embeddings there is no norm."""
        lines = run(photos / "b.JPG", "--detect-only", "--limit-faces", "2").stdout.splitlines()
        assert len(lines) == 3
        assert "norm" not in lines[1]
        described = json.loads(run(photos / "b.JPG", "--json", "--detect-only").stdout)
        assert "embedding" not in described["faces"][0]
        assert "0 faces" in run(photos / "b.JPG", "--threshold", "1").stdout
        assert "0 faces" in run(photos / "b.JPG", "--min-face-size", "5000").stdout

    def test_draw_writes_annotated_copies(self, photos: Path, tmp_path: Path) -> None:
        """Same names below the folder, as JPEG, of the same size and changed where a face is."""
        drawn = tmp_path / "drawn"
        assert run(photos, "--detect-only", "--draw", drawn).exit_code == 0
        written = sorted(path.relative_to(drawn) for path in drawn.rglob("*") if path.is_file())
        assert written == [Path("b.JPG"), Path("c.png.jpg"), Path("deeper/a.jpeg")]
        before = read_image(photos / "deeper" / "a.jpeg")
        after = read_image(drawn / "deeper" / "a.jpeg")
        assert before is not None
        assert after is not None
        assert after.shape == before.shape
        assert cv2.absdiff(before, after).max() > 100

    def test_a_folder_that_cannot_be_written_is_one_line(self, photos: Path) -> None:
        """Where the copy should go is told."""
        result = run(photos / "b.JPG", "--detect-only", "--draw", photos / "c.png" / "drawn")
        assert result.exit_code == 1
        assert result.stderr == f"Error: {photos / 'c.png' / 'drawn' / 'b.JPG'} cannot be written: Not a directory\n"

    def test_a_bad_picture_fails_alone(self, photos: Path) -> None:
        """The others are answered, the failure is told, and the exit code is 1."""
        result = run(photos / "notes.txt", photos / "deeper")
        assert result.exit_code == 1
        first, second, *_ = result.stdout.splitlines()
        assert first.startswith(f"{photos / 'notes.txt'}: failed: ")
        assert second.startswith(f"{photos / 'deeper' / 'a.jpeg'}: 1 face, ")
        assert result.stderr.endswith("Error: 1 of 2 pictures failed\n")

    def test_an_unreadable_file_of_a_folder_is_skipped_and_counted(self, photos: Path) -> None:
        """A link to nowhere costs the others nothing, and is told; `--strict` makes an error of it."""
        (photos / "gone.jpg").symlink_to(photos / "nowhere")
        result = run(photos, "--detect-only")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()) >= 3
        assert "1 unreadable" in result.stderr
        strict = run(photos, "--detect-only", "--strict")
        assert strict.exit_code == 1
        assert len(strict.stdout.splitlines()) == len(result.stdout.splitlines())

    def test_no_recognizer_is_one_line(self, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is wrong with the service ends the command, with what to do."""
        monkeypatch.setenv("REC_MODEL", "none")
        result = run(photos / "b.JPG")
        assert result.exit_code == 1
        assert result.stderr == "Error: No recognizer is configured; ask for detection only.\n"
        assert run(photos / "b.JPG", "--detect-only").exit_code == 0


class TestUsage:
    """Without a model."""

    def test_an_empty_folder_is_an_error(self, tmp_path: Path) -> None:
        """Silence would look like success."""
        result = run(tmp_path)
        assert result.exit_code == 1
        assert result.stderr == "Error: no pictures found\n"

    def test_a_missing_path_is_a_usage_error(self, tmp_path: Path) -> None:
        """Before anything is loaded."""
        assert run(tmp_path / "nowhere").exit_code == 2

    def test_missing_weights_are_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_images: Path
    ) -> None:
        """Which file is wanted and how to supply it; no traceback."""
        monkeypatch.setenv("MODELS_DIR", str(tmp_path))
        monkeypatch.setenv("MODEL_DOWNLOAD", "0")
        monkeypatch.setenv("DET_MODEL", "det_500m")
        result = run(shared_images / "t1.jpg", "--detect-only")
        assert result.exit_code == 1
        assert "det_500m.onnx" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_bad_setting_is_one_line(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """As with every command."""
        monkeypatch.setenv("MAX_FACES", "many")
        result = run(tmp_path)
        assert result.exit_code == 2
        assert result.stderr == "Error: MAX_FACES='many' is not allowed: integer from 1 to 16384\n"
