"""The registry: what a TOML may say, and what the shipped ones say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jetface.models.defaults import PREFERENCE, STARTERS
from jetface.registry import ModelSpec, RegistryError, default_registry_dir, read_registry, read_spec

ENTRY = """
name = "mine"
task = "recognition"
family = "arcface"
license = "mine"
source = "me"
sha256 = "{digest}"
embedding_length = 256

[input]
height_px = 112
width_px = 112
mean = 127.5
std = 127.5
""".format(digest="0" * 64)


def write(folder: Path, text: str = ENTRY, name: str = "mine.toml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shipped() -> dict[str, ModelSpec]:
    return dict(read_registry([default_registry_dir()]))


def test_the_shipped_registry_holds_every_model_we_know(shipped: dict[str, ModelSpec]) -> None:
    detectors = {"scrfd_10g_bnkps", "det_10g", "det_2.5g", "det_500m", "scrfd_2.5g_bnkps"}
    group_norm = {"scrfd_10g_gnkps", "scrfd_2.5g_gnkps", "scrfd_500m_gnkps"}
    recognizers = {"glintr100", "w600k_r50", "w600k_mbf", "w600k_mbf_dequantized", "mobilefacenet128"}
    attributes = {"genderage_v1", "mask_detector_seeta", "fasnet_2.7", "fasnet_4.0"}
    assert detectors | group_norm | recognizers | attributes <= shipped.keys()


def test_every_shipped_file_is_named_after_its_model(shipped: dict[str, ModelSpec]) -> None:
    assert {path.stem for path in default_registry_dir().glob("*.toml")} == shipped.keys()


def test_the_models_chosen_by_default_are_in_the_registry(shipped: dict[str, ModelSpec]) -> None:
    for task, names in PREFERENCE.items():
        for name in (*names, STARTERS[task]):
            assert shipped[name].task == task


def test_equal_detectors_share_a_digest(shipped: dict[str, ModelSpec]) -> None:
    assert shipped["det_10g"].sha256 == shipped["scrfd_10g_bnkps"].sha256


def test_models_of_official_packages_can_be_downloaded_and_verified(shipped: dict[str, ModelSpec]) -> None:
    for name in ("scrfd_10g_bnkps", "glintr100", "det_10g", "w600k_r50", "det_2.5g", "det_500m", "w600k_mbf"):
        download = shipped[name].download
        assert download is not None
        assert download.archive_member == f"{name}.onnx"
        assert download.archive_sha256 is not None
        assert "Non-commercial" in shipped[name].license


def test_entries_are_frozen(shipped: dict[str, ModelSpec]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        shipped["det_500m"].name = "other"  # type: ignore[misc]  # the very thing under test


def test_a_file_name_defaults_to_the_model_name(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path)).file_name == "mine.onnx"
    assert read_spec(write(tmp_path, 'file = "other.onnx"\n' + ENTRY)).file_name == "other.onnx"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('family = "arcface"', 'family = "Arc Face"', "family"),
        (
            "embedding_length = 256",
            "embedding_length = 256\nfalse_match_rate = 1e-4",
            "match_threshold, which is missing",
        ),
        ("embedding_length = 256", "embedding_length = 256\nmatch_threshold = 1.5", "match_threshold"),
        (f'sha256 = "{"0" * 64}"', "", "sha256"),
        ('name = "mine"', 'name = "auto"', "word of the settings"),
        ('name = "mine"', 'name = "../mine"', "name"),
        ("mean = 127.5", "mean = 127.5\nmaen = 1", "input.maen"),
        ("std = 127.5", "std = 0.0", "input.std"),
        ('name = "mine"', "name = ", "mine.toml"),
    ],
)
def test_a_bad_entry_is_refused_by_file_and_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = write(tmp_path, ENTRY.replace(old, new))
    with pytest.raises(RegistryError, match=re.escape(said)) as caught:
        read_spec(path)
    assert str(tmp_path) not in str(caught.value)
    assert str(caught.value).startswith("mine.toml")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(RegistryError, match=r"mine\.toml"):
        read_spec(path)


def test_a_users_folder_adds_and_overrides(tmp_path: Path) -> None:
    write(tmp_path / "shipped")
    write(tmp_path / "user", ENTRY.replace("length = 256", "length = 128"))
    write(tmp_path / "user", ENTRY.replace('"mine"', '"another"', 1), "another.toml")
    registry = read_registry([tmp_path / "shipped", tmp_path / "user", tmp_path / "missing"])
    assert registry["mine"].embedding_length == 128
    assert set(registry) == {"mine", "another"}


def test_two_files_of_one_folder_may_not_share_a_name(tmp_path: Path) -> None:
    write(tmp_path)
    write(tmp_path, name="twin.toml")
    registry = read_registry([tmp_path])
    assert "mine" not in registry
    with pytest.raises(RegistryError, match=r"twin\.toml: .* named mine too"):
        registry["mine"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (ENTRY.replace("std = 127.5", "std = 0.0"), "mine"),
        ("name = ", "other"),
        ("[tool.ruff]", "other"),
        ("name = 5", "other"),
    ],
)
def test_an_entry_that_cannot_be_read_is_an_error_for_who_asks_for_it(tmp_path: Path, text: str, name: str) -> None:
    """By the name it would have; the others are served, and nothing is told but that it is there."""
    write(tmp_path / "shipped", ENTRY.replace('"mine"', f'"{name}"'), "shipped.toml")
    write(tmp_path / "shipped", ENTRY.replace('"mine"', '"another"'), "another.toml")
    write(tmp_path / "user", text, "other.toml")
    registry = read_registry([tmp_path / "shipped", tmp_path / "user"])
    assert list(registry) == ["another"]
    assert len(registry) == 1
    assert "other.toml" in str(registry.unreadable[name])
    with pytest.raises(RegistryError, match=r"other\.toml"):
        registry.get(name)
    write(tmp_path / "best", ENTRY.replace('"mine"', f'"{name}"'), "best.toml")
    assert name in read_registry([tmp_path / "shipped", tmp_path / "user", tmp_path / "best"])


def test_an_entry_of_a_name_goes_before_an_alias(tmp_path: Path) -> None:
    write(tmp_path, 'aliases = ["theirs"]' + ENTRY, "mine.toml")
    assert read_registry([tmp_path])["theirs"].name == "mine"
    write(tmp_path, ENTRY.replace('"mine"', '"theirs"', 1), "theirs.toml")
    assert read_registry([tmp_path])["theirs"].name == "theirs"


def test_a_name_of_others_leads_to_one_model(shipped: dict[str, ModelSpec]) -> None:
    names = [name for spec in shipped.values() for name in (*spec.aliases, *spec.nearest_to)]
    assert len(names) == len({*names, *shipped}) - len(shipped)
