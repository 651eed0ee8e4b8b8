"""docs/migrate.md is complete: every variable and field of InsightFace-REST 0.9.5 stands in it."""

from __future__ import annotations

from typing import get_type_hints

import pytest

from jetface.api.answers import ExtractFace, ExtractPicture, Took
from jetface.api.requests import ExtractBody, Images
from jetface.models.defaults import ModelChooser
from jetface.registry import RegistryError, default_registry_dir, read_registry
from jetface.service import choose_models
from jetface.settings import Settings, read_settings, variable_names
from tests.contract.insightface_rest_shapes import FIXTURE
from tests.support.shared import REPOSITORY

PAGE = (REPOSITORY / "docs" / "migrate.md").read_text(encoding="utf-8")
OURS = {variable for field in Settings.model_fields for variable in variable_names(field)}
VARIABLE_ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("## Variables")[1].split("\n## ")[0].splitlines()
    if line.startswith("| `")
]

# As its settings.py, its compose files and its entrypoint have them.
THEIR_VARIABLES = [
    "DET_NAME", "REC_NAME", "GA_NAME", "GA_MODEL", "MASK_DETECTOR", "MAX_SIZE", "INFERENCE_BACKEND", "DET_BATCH_SIZE",
    "REC_BATCH_SIZE", "FORCE_FP16", "TRITON_URI", "DEF_RETURN_FACE_DATA", "DEF_RETURN_LANDMARKS",
    "DEF_EXTRACT_EMBEDDING", "DEF_EXTRACT_GA", "DEF_DETECT_MASKS", "DEF_DET_THRESH", "DEF_IMG_REQ_HEADERS",
    "DEF_SSLV3_HACK", "LOG_LEVEL", "ROOT_IMAGES_DIR", "PORT", "NUM_WORKERS", "USE_NVJPEG", "FACE_MODEL_CLASS",
    "IFR_VERSION",
]  # fmt: skip


@pytest.mark.parametrize("variable", THEIR_VARIABLES)
def test_every_variable_has_a_row_that_is_right(variable: str) -> None:
    """A variable said to be understood is one of ours; one said to have no counterpart is not."""
    (row,) = (row for row in VARIABLE_ROWS if f"`{variable}`" in row[0])
    assert (row[1] != "none") == (variable in OURS)


def test_an_env_file_needs_one_line_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs names a detector that is not served: the start says which is nearest, and by their variable."""
    registry = read_registry([default_registry_dir()])
    chooser = ModelChooser(registry, lambda _: False)
    for name, value in FIXTURE["env"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        RegistryError, match=r"^DET_NAME='yolov5l-face' .* nearest that serves: DET_NAME=(\w+)$"
    ) as caught:
        choose_models(read_settings(), chooser)
    monkeypatch.setenv("DET_NAME", str(caught.value).rpartition("=")[2])
    settings = read_settings()
    chosen = choose_models(settings, chooser)
    assert (chosen.detector, chosen.recognizer, dict(chosen.attributes)) == ("scrfd_10g_bnkps", "w600k_r50", {})
    assert (settings.workers, settings.rec_batch_size, settings.backend) == (6, 64, "onnxruntime")


@pytest.mark.parametrize(
    "field",
    [
        *(name for name in ExtractBody.model_fields if name not in {"images", "others"}),
        *(f"images.{name}" for name in Images.model_fields),
        *(name for name in get_type_hints(ExtractFace) if name not in {"live", "is_live", "quality", "attributes"}),
        *(f"data[].{name}" for name in get_type_hints(ExtractPicture)),
        *(f"took.{name}" for name in get_type_hints(Took)),
    ],
)
def test_every_field_is_told_of(field: str) -> None:
    assert f"`{field}`" in PAGE
