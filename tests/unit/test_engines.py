"""What the settings say of engines."""

from __future__ import annotations

from typing import Any

import pytest

from jetface.service import why_no_dla
from jetface.settings import Settings
from tests.support.stand_in_kit import StandInKit

ONE_SHAPE = {"DET_BATCH_SIZE": "1", "REC_BATCH_SIZE": "1"}


def said(monkeypatch: pytest.MonkeyPatch, *, num_cores: int | None, **environ: Any) -> str | None:
    """Return what is said with these settings, on a machine with so many accelerators; None: without engines."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("STAND_IN_DLA_CORES", str(num_cores or 0))
    return why_no_dla(Settings(), None if num_cores is None else StandInKit())


class TestAccelerator:
    """`TRT_DLA_CORE`, where it puts nothing on one."""

    def test_nothing_is_said_where_it_is_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert said(monkeypatch, num_cores=None) is None

    @pytest.mark.parametrize("core", ["0", "1"])
    def test_nothing_is_said_where_it_does_what_it_says(self, monkeypatch: pytest.MonkeyPatch, core: str) -> None:
        assert said(monkeypatch, num_cores=2, TRT_DLA_CORE=core, **ONE_SHAPE) is None

    @pytest.mark.parametrize("num_cores", [0, 1])
    def test_a_core_that_is_not_there(self, monkeypatch: pytest.MonkeyPatch, num_cores: int) -> None:
        text = said(monkeypatch, num_cores=num_cores, TRT_DLA_CORE="1", **ONE_SHAPE) or ""
        assert text.startswith(f"TRT_DLA_CORE=1 puts nothing on an accelerator: TensorRT 1.0 finds {num_cores} of them")
        assert "Orin Nano and Thor none" in text
        assert text.endswith("Set it to -1.")

    def test_without_engines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert "no engines are built here" in (said(monkeypatch, num_cores=None, TRT_DLA_CORE="0") or "")

    def test_onnx_runtime_s_own_provider_has_it_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert said(monkeypatch, num_cores=None, TRT_DLA_CORE="0", ORT_PROVIDERS="tensorrt,cuda") is None

    @pytest.mark.parametrize(
        ("det", "rec", "starts", "ends"),
        [
            ("4", "16", "TRT_DLA_CORE=0 puts nothing on", "Set DET_BATCH_SIZE=1 and REC_BATCH_SIZE=1."),
            ("1", "16", "TRT_DLA_CORE=0 puts only a part on", "Set REC_BATCH_SIZE=1."),
            ("4", "1", "TRT_DLA_CORE=0 puts only a part on", "Set DET_BATCH_SIZE=1."),
        ],
    )
    def test_a_batch_above_one_item(
        self, monkeypatch: pytest.MonkeyPatch, det: str, rec: str, starts: str, ends: str
    ) -> None:
        text = said(monkeypatch, num_cores=2, TRT_DLA_CORE="0", DET_BATCH_SIZE=det, REC_BATCH_SIZE=rec) or ""
        assert text.startswith(starts)
        assert text.endswith(ends)
