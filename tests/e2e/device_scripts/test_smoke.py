"""The programs of `tests/device` start, measure something and print it, where there is no GPU."""

from __future__ import annotations

import importlib
import json
import time
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from tests.device import backends, cuda_module, gallery, graphs, memory, nhwc_fp16, nvjpeg
from tests.device.gpu import open_setup
from tests.device.lock_held import LockSampler
from tests.device.nhwc_fp16 import first_that
from tests.device.raw import RAW_OPTIONS, noise, open_raw
from tests.device.report import Report
from tests.device.timing import take_turns
from tests.support.shared import REPOSITORY
from tests.support.tiny_onnx import EMBEDDING_LENGTH, arcface_model, scrfd_model

PROGRAMS = ("cuda_module", "backends", "graphs", "service", "memory", "lock_held", "gallery", "nhwc_fp16", "nvjpeg")


@pytest.fixture
def recognizer(tmp_path: Path) -> Path:
    path = tmp_path / "rec.onnx"
    path.write_bytes(arcface_model())
    return path


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    path = tmp_path / "det.onnx"
    path.write_bytes(scrfd_model(perm=(0, 2, 3, 1), rows=(0, -1), batch="N"))
    return path


def rows_of(result: Result) -> dict[str, float]:
    """Return what a program measured, from its last line."""
    assert "| what | value |" in result.output
    facts = json.loads(result.output.strip().splitlines()[-1])
    return {row["what"]: row["value"] for row in facts["rows"]}


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_says_how_it_is_used_and_the_page_names_it(name: str) -> None:
    program = importlib.import_module(f"tests.device.{name}")
    result = CliRunner().invoke(program.main, ["--help"])
    assert result.exit_code == 0
    assert "--device [cuda|cpu]" in result.output
    assert f"tests.device.{name}" in (REPOSITORY / "tests/device/README.md").read_text(encoding="utf-8")


def test_the_cuda_module_is_checked() -> None:
    result = CliRunner().invoke(cuda_module.main, ["--device", "cpu", "--rounds", "2"])
    rows = rows_of(result)
    assert rows["wrong numbers after a graph of copies was launched"] == 0
    assert rows["errors that were not told"] == 0


def test_decoders_are_compared(shared_images: Path) -> None:
    arguments = ["--device", "cpu", "--images", str(shared_images), "--seconds", "0.1"]
    rows = rows_of(CliRunner().invoke(nvjpeg.main, arguments, catch_exceptions=False))
    assert rows["mean difference of a value, of 255"] < 1
    assert rows["nvImageCodec, 1 threads"] > 0


def test_backends_are_compared(recognizer: Path, detector: Path) -> None:
    options = ["--device", "cpu", "--recognizer", str(recognizer), "--detector", str(detector), "--seconds", "0"]
    options += ["--length", str(EMBEDDING_LENGTH), "--batch", "2", "--det-batch", "2", "--canvas", "64"]
    result = CliRunner().invoke(backends.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = rows_of(result)
    assert rows["recognizer, batch 2: ours"] > 0
    assert rows["detector, pictures in and boxes out: over the best raw session"] > 0


def test_rewrites_are_compared_and_each_row_is_told_at_once(recognizer: Path, detector: Path) -> None:
    options = ["--device", "cpu", "--recognizer", str(recognizer), "--detector", str(detector), "--seconds", "0"]
    options += ["--length", str(EMBEDDING_LENGTH), "--batch", "2", "--canvas", "64"]
    result = CliRunner().invoke(graphs.main, options, catch_exceptions=False)
    assert result.exit_code == 0
    rows = rows_of(result)
    assert rows["detector 64x64, batch 2: none, NCHW"] > 0
    assert rows["detector 64x64, batch 2: fix_sizes + merge_siblings, NHWC in a CUDA graph"] > 0
    assert rows["recognizer 112x112, batch 2: split_prelu, NHWC"] > 0
    assert "detector 64x64, batch 2: none, NCHW: " in result.stderr


def test_a_session_that_cannot_be_opened_is_told_and_no_end(tmp_path: Path) -> None:
    path = tmp_path / "junk.onnx"
    path.write_bytes(b"junk")
    report = Report("Title", "device")
    assert open_raw(report, "junk", path, noise(1, 3, 8, 8), open_setup("cpu")) == {}
    assert [row.what for row in report.rows] == [f"junk, {name}" for name in RAW_OPTIONS]
    assert {row.words.split(": ")[0] for row in report.rows} == {"refused"}
    assert not any("\n" in row.words for row in report.rows)
    assert report.is_met


def test_the_memory_of_a_real_service_is_measured(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.jpg"), np.full((120, 100, 3), 127, np.uint8))
    options = ["--device", "cpu", "--weights", str(REPOSITORY / "models"), "--images", str(tmp_path)]
    options += ["--det-model", "starter_det", "--rec-model", "starter_rec", "--first", "4", "--requests", "12"]
    result = CliRunner().invoke(memory.main, options, catch_exceptions=False)
    assert rows_of(result)["requests answered"] == 12


def test_indexes_of_the_gallery_give_the_same_answers() -> None:
    options = ["--device", "cpu", "--faces", "2000", "--seconds", "0"]
    rows = rows_of(CliRunner().invoke(gallery.main, options, catch_exceptions=False))
    assert rows["2,000 faces: answers that are the same"] == 1
    assert rows["2,000 faces, cuda: of 16"] > 0


def test_a_graph_that_does_not_kill_is_told(recognizer: Path) -> None:
    result = CliRunner().invoke(nhwc_fp16.main, ["--device", "cpu", "--graph", str(recognizer)], catch_exceptions=False)
    assert "| dies | no |" in result.output


def test_graphs_are_cut_after_a_node_and_to_one_node() -> None:
    model = onnx.load_model_from_string(arcface_model())
    cut = nhwc_fp16.cut_after(onnx.shape_inference.infer_shapes(model), "bent")
    assert [node.op_type for node in cut.graph.node] == ["Conv", "PRelu"]
    lone = nhwc_fp16.alone(onnx.shape_inference.infer_shapes(model), model.graph.node[1])
    assert [node.op_type for node in lone.graph.node] == ["PRelu"]


@given(most=st.integers(1, 300), data=st.data())
def test_the_search_finds_the_first_that_dies(most: int, data: st.DataObject) -> None:
    first = data.draw(st.none() | st.integers(1, most))
    asked: list[int] = []

    def dies(count: int) -> bool:
        asked.append(count)
        return first is not None and count >= first

    assert first_that(dies, most) == first
    assert len(asked) <= 1 + most.bit_length()


def test_runs_take_turns() -> None:
    order: list[str] = []
    times_ms = take_turns({name: partial(order.append, name) for name in "ab"}, seconds=0)
    assert "".join(order).endswith("ababab")
    assert set(times_ms) == {"a", "b"}


def test_a_report_tells_what_was_missed(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report("Title", "device")
    report.add("fast", 1.0, "ms", most=2)
    assert report.is_met
    report.add("slow", 1.0, least=2)
    assert not report.is_met
    report.tell("best", "this | that")
    assert capsys.readouterr().err == "fast: 1 ms\nslow: 1 \nbest: this / that\n"
    report.show()
    shown = capsys.readouterr().out
    assert "| fast | 1 ms | <= 2 | yes |" in shown
    assert "| slow | 1  | >= 2 | **no** |" in shown
    assert "| best | this / that |  |  |" in shown
    assert json.loads(shown.splitlines()[-1])["rows"][2]["words"] == "this / that"


def test_the_sampler_notes_how_late_it_gets_the_lock() -> None:
    sampler = LockSampler()
    sampler.start()
    while len(sampler.late_s) < 3:
        time.sleep(0.001)
    late_s = sampler.stop()
    assert min(late_s) >= 0
