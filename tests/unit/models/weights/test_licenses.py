"""Accepted licences: what is asked about, and what a record says."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from jetface.models.download import Fetcher
from jetface.models.weights import RECORD_NAME, LicenseRecord, Mirror, WeightsFolder
from jetface.registry import ModelSpec, default_registry_dir, read_registry
from tests.support.file_server import Answer, file_server
from tests.support.weights import make_spec

BODY = b"the weights"
NOON = datetime(2030, 1, 1, 12, tzinfo=timezone.utc)


def restricted(name: str = "mine", text: str = "Research only") -> ModelSpec:
    return make_spec(BODY, name=name).model_copy(update={"non_commercial": True, "license": text})


def test_only_licences_that_forbid_commercial_use_are_asked_about(tmp_path: Path) -> None:
    record = LicenseRecord(tmp_path)
    assert record.asks(restricted())
    assert not record.asks(make_spec(BODY))


def test_words_are_accepted_not_models(tmp_path: Path) -> None:
    """Another model under the same words is not asked about; one under other words is."""
    record = LicenseRecord(tmp_path / "new")
    record.accept([restricted()], at=NOON)
    assert not record.asks(restricted("other"))
    assert record.asks(restricted("other", "Research only, on Mondays"))


def test_a_line_for_each_licence_says_who_when_and_for_what(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    record = LicenseRecord(tmp_path)
    record.accept([restricted("a"), restricted("b", "Others"), restricted("c")], at=NOON)
    record.accept([restricted("d", "Mine, nur für mich")], at=NOON)
    lines = [json.loads(line) for line in (tmp_path / RECORD_NAME).read_text(encoding="utf-8").splitlines()]
    assert lines[0] == {
        "accepted_at": "2030-01-01T12:00:00+00:00",
        "accepted_by": "ada",
        "license": "Research only",
        "models": ["a", "c"],
        "sources": ["me"],
    }
    assert [line["license"] for line in lines] == ["Research only", "Others", "Mine, nur für mich"]


@pytest.mark.parametrize(
    "text",
    ["{not json", "[1]", '{"license": 1}', "\ud800".encode("utf-8", "surrogatepass"), "[" * 100_000],
    ids=["cut", "list", "number", "surrogate", "deep"],
)
def test_a_line_that_cannot_be_read_accepts_nothing(tmp_path: Path, text: str | bytes) -> None:
    """And does not keep a good one from being read, as far as it is text at all."""
    content = text if isinstance(text, bytes) else f'{text}\n{{"license": "Others"}}\n'.encode()
    (tmp_path / RECORD_NAME).write_bytes(content)
    record = LicenseRecord(tmp_path)
    assert record.asks(restricted())
    assert record.asks(restricted(text="Others")) == isinstance(text, bytes)


@pytest.mark.parametrize("is_accepted", [False, True])
def test_the_service_downloads_and_says_under_which_licence(tmp_path: Path, *, is_accepted: bool) -> None:
    """MODEL_DOWNLOAD is the operator's word; the log tells what came with it, and whether it was accepted before."""
    if is_accepted:
        LicenseRecord(tmp_path).accept([restricted()])
    with file_server({"/mine.onnx": Answer(BODY)}) as server, capture_logs() as logs:
        weights = WeightsFolder(folder=tmp_path, mirror=Mirror(url=server.url), fetcher=Fetcher())
        assert weights.locate(restricted()).read_bytes() == BODY
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "weights are not for commercial use"
    assert (warning["license"], warning["accepted"]) == ("Research only", is_accepted)


def test_every_shipped_licence_that_forbids_commercial_use_is_marked() -> None:
    """So that none slips by."""
    for spec in read_registry([default_registry_dir()]).values():
        assert spec.non_commercial == ("non-commercial" in spec.license.lower()), spec.name
