"""Every program of the recipe runs on a CPU for a few steps."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training/requirements.txt is not installed")
pytest.importorskip("PIL", reason="training/requirements.txt is not installed")

ROOT = Path(__file__).parents[2]

RUN = """
[run]
seed = 1
steps = 2
warmup_steps = 1
batch = 4
learning_rate = 1e-3
weight_decay = 0.02
average_decay = 0.9
"""
RECOGNIZER = (
    RUN
    + """
[shape]
widths = [8, 16, 16]
depths = [1, 1, 1, 1]
expansion = 2
last_width = 32

[loss]
mixed_share = 0.5
relation_weight = 20.0
"""
)
DETECTOR = (
    RUN
    + """
[shape]
stem_widths = [8, 8]
widths = [16, 16, 16]
depths = [1, 1, 1, 1]
neck_width = 16
head_width = 16
head_depth = 1

[loss]
canvas_px = 128
second_teacher_weight = 0.25
large_from_px = 64.0
score_weight = 1.0
box_weight = 2.0
landmark_weight = 2.0
balance_levels = true

[export]
score_offsets = [0.0, 0.0, 0.0]
smooth_rank = 0
"""
)
PLATES = (
    RUN
    + """
[shape]
stem_widths = [8, 8]
widths = [16, 16, 16]
depths = [0, 1, 1, 1]
neck_width = 16
head_width = 16
head_depth = 1

[loss]
canvas_px = 128
real_share = 0.5
num_plates = 8
num_signs = 4
num_vehicles = 2
cells_a_plate = 3
box_weight = 5.0
"""
)


def run_program(name: str, *arguments: str | Path) -> str:
    """Run one program of the recipe as a user does; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", f"training.{name}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    """Labels of the first forty portraits."""
    path = tmp_path_factory.mktemp("labels") / "portraits.npz"
    run_program("label_portraits", "--shared", shared, "--out", path, "--limit", "40")
    return path


def test_label_portraits(labels: Path) -> None:
    """Each portrait gets five landmarks inside the picture, in template order."""
    landmarks = np.load(labels)["landmarks"]
    assert landmarks.shape == (40, 5, 2)
    assert (landmarks[:, 0, 0] < landmarks[:, 1, 0]).mean() > 0.9  # image-left eye left of image-right eye
    assert 0 < landmarks.min() < landmarks.max() < 250


@pytest.mark.parametrize(("kind", "config"), [("recognizer", RECOGNIZER), ("detector", DETECTOR)], ids=["rec", "det"])
def test_train_resume_and_export(kind: str, config: str, labels: Path, shared: Path, tmp_path: Path) -> None:
    """Two steps, a resumed run that has nothing left to do, and an ONNX file with a free batch."""
    toml, checkpoint, out = tmp_path / "tiny.toml", tmp_path / "tiny.pt", tmp_path / "tiny.onnx"
    toml.write_text(config)
    material: list[str | Path] = [
        "--portraits",
        shared / "training" / "portraits.tar",
        "--labels",
        labels,
        "--limit",
        "40",
    ]
    if kind == "recognizer":
        material += ["--teacher", shared / "models" / "w600k_mbf_dequantized.onnx"]
    else:
        material += ["--backgrounds", shared / "training" / "backgrounds.tar", "--teachers", shared / "models"]
    assert "step 2 " in run_program(f"train_{kind}", "--config", toml, "--out", checkpoint, *material)
    assert run_program(f"train_{kind}", "--config", toml, "--out", checkpoint, *material) == ""
    printed = run_program("export", kind, "--config", toml, "--checkpoint", checkpoint, "--out", out)
    assert "sha256" in printed
    assert out.stat().st_size > 0


def test_train_and_export_the_plate_detector(shared: Path, tmp_path: Path) -> None:
    """As above, with drawn plates on real and natural pictures."""
    toml, checkpoint, out = tmp_path / "tiny.toml", tmp_path / "tiny.pt", tmp_path / "tiny.onnx"
    toml.write_text(PLATES)
    material: list[str | Path] = ["--plates", shared / "plates" / "plates_romania_mit.tar", "--limit", "6"]
    material += ["--backgrounds", shared / "training" / "backgrounds.tar"]
    assert "step 2 " in run_program("train_plates", "--config", toml, "--out", checkpoint, *material)
    assert run_program("train_plates", "--config", toml, "--out", checkpoint, *material) == ""
    assert "sha256" in run_program("export", "plates", "--config", toml, "--checkpoint", checkpoint, "--out", out)


def test_teachers_answer_as_their_graphs_do(shared: Path) -> None:
    """The torch reading of a graph equals ONNX Runtime's within rounding."""
    import torch  # noqa: PLC0415 - the module is skipped without it

    from training.graphs import open_session  # noqa: PLC0415
    from training.teacher import load_recognizer  # noqa: PLC0415

    path = shared / "models" / "w600k_mbf_dequantized.onnx"
    blob = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    session = open_session(path)
    expected = session.run(None, {session.get_inputs()[0].name: blob.numpy()})[0]
    np.testing.assert_allclose(load_recognizer(path)(blob)[0].numpy(), expected, atol=1e-4)
