"""The steps of `deploy/jetson/verify.sh`, each against a real service on starter models."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click import ClickException
from click.testing import CliRunner, Result

from jetface.runtimes.choose import Host
from jetface.settings import Settings
from tests.support.machines import ORIN_30W, plant
from tests.support.server import Server, free_port, running_server
from verifying import commands
from verifying.answers import GOLDEN_FILE, compare_answers
from verifying.caller import Target
from verifying.draining import load_until_stopped
from verifying.drawing import Named, crowd, pictures_of, portrait
from verifying.engine_check import check_engines
from verifying.soak import soak
from verifying.speed import measure_speed
from verifying.starting import wait_until_serving

KEY = "a-key"
SETTINGS = {"DET_MODEL": "starter_det", "REC_MODEL": "starter_rec", "MODEL_MIRROR": "", "API_KEYS": KEY}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server"), SETTINGS) as started:
        yield started


@pytest.fixture
def target(server: Server) -> Target:
    return Target(server.url, KEY)


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the service, as the commands read them beside it."""
    for name, value in {**SETTINGS, "MODELS_DIR": str(tmp_path / "models"), "MODEL_DOWNLOAD": "0"}.items():
        monkeypatch.setenv(name, value)


def verify(server: Server, *arguments: str) -> Result:
    return CliRunner().invoke(commands.verify, ["--url", server.url, *arguments])


def found(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout)
    return facts


class TestStart:
    def test_it_waits_for_an_answer_and_says_what_it_came_from(self, server: Server) -> None:
        facts = found(verify(server, "start", "--timeout", "100"))
        assert 0 < facts["seconds_to_live"] <= facts["seconds_to_answer"]
        assert facts["backends"] == {"starter_det": "onnxruntime-cpu", "starter_rec": "onnxruntime-cpu"}
        assert (facts["engines"], facts["engines_serve"], facts["build_seconds"]) == ({}, None, None)
        assert facts["device"]["cores_present"]

    def test_a_service_that_is_not_there_is_one_line(self) -> None:
        with pytest.raises(ClickException, match="/health/live did not answer 200 in time"):
            wait_until_serving(Target(f"http://127.0.0.1:{free_port()}"), 0.2)

    def test_an_answer_that_is_an_error_is_told(self, server: Server) -> None:
        with pytest.raises(ClickException, match=r"/extract is answered by 401: .*An API key is needed"):
            wait_until_serving(Target(server.url, "another key"), 30)


class Script(BaseHTTPRequestHandler):
    """A service whose models have engines: refuses the first picture, is done after some questions."""

    questions: int = 0
    last: str = "serving"

    def do_GET(self) -> None:
        """Answer as jetface does."""
        if self.path == "/metrics":
            self.answer(b'# TYPE x gauge\njetface_engine_build_seconds{model="rec"} 42.0\n', "text/plain")
        elif self.path == "/models":
            type(self).questions += 1
            state = "building" if self.questions < 3 else self.last
            model = {"name": "rec", "is_active": True, "state": "serving", "backend": "tensorrt", "reason": None}
            unused = {"name": "ga", "is_active": True, "state": "unloaded", "engine": None}
            engine = {"state": state, "reason": "it disagrees" if state == "rejected" else None}
            self.answer(json.dumps({"models": [{**model, "engine": engine}, unused]}).encode())
        else:
            self.answer(json.dumps({"version": "1", "device": {"readings": {}}}).encode())

    def do_POST(self) -> None:
        """Refuse the first picture."""
        self.rfile.read(int(self.headers["content-length"]))
        type(self).questions += 1
        self.answer(b"{}", status=503 if self.questions == 1 else 200)

    def answer(self, body: bytes, kind: str = "application/json", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(handler: type[Script]) -> Iterator[Target]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Target(f"http://127.0.0.1:{listener.server_address[1]}")
        listener.shutdown()
        thread.join()


@pytest.fixture
def script() -> Iterator[tuple[type[Script], Target]]:
    handler = type("OneScript", (Script,), {})
    with listening(handler) as target:
        yield handler, target


class TestEngines:
    def test_a_start_is_over_when_engines_serve(self, script: tuple[type[Script], Target]) -> None:
        facts = wait_until_serving(script[1], 30)
        assert (facts["engines"], facts["engines_serve"], facts["build_seconds"]) == ({"rec": "serving"}, True, 42.0)
        assert facts["seconds_to_answer"] < facts["seconds_to_engines"]

    def test_or_when_they_are_rejected(self, script: tuple[type[Script], Target]) -> None:
        script[0].last = "rejected"
        facts = wait_until_serving(script[1], 30)
        assert (facts["engines_serve"], facts["rejected"]) == (False, {"rec": "it disagrees"})

    def test_or_when_it_takes_too_long(self, script: tuple[type[Script], Target]) -> None:
        script[0].last = "building"
        with pytest.raises(ClickException, match="not done in time: rec serving"):
            wait_until_serving(script[1], 2)

    def test_pictures_that_are_refused_too_long_say_why(self, script: tuple[type[Script], Target]) -> None:
        script[0].questions = 0
        with pytest.raises(ClickException, match="no picture was answered in time"):
            wait_until_serving(script[1], 1e-9)

    @pytest.mark.parametrize("code", [0, 1])
    def test_what_was_compared_is_told_whether_it_agrees_or_not(self, code: int) -> None:
        program = f"import sys; print('rec  fp16  cosine 0.9'); print('too little', file=sys.stderr); sys.exit({code})"
        facts = check_engines([sys.executable, "-c", program])
        assert facts == {"passed": not code, "verdicts": ["rec  fp16  cosine 0.9"], "faults": ["too little"]}

    def test_a_comparison_that_does_not_end_is_ended(self) -> None:
        with pytest.raises(ClickException, match="was not done within 0 s"):
            check_engines([sys.executable, "-c", "import time; time.sleep(60)"], limit_s=0.3)

    def test_one_that_says_nothing_tells_its_exit_code(self) -> None:
        with pytest.raises(ClickException, match="exit code 3"):
            check_engines([sys.executable, "-c", "raise SystemExit(3)"])

    def test_without_tensorrt_nothing_is_compared(self, server: Server) -> None:
        result = verify(server, "engines")
        assert result.exit_code == 1
        assert "Engines need TensorRT" in result.stderr


class TestAnswers:
    def test_drawn_faces_are_answered_as_by_onnx_runtime(self, server: Server) -> None:
        facts = found(verify(server, "answers"))
        assert facts["faces"] == 12
        assert facts["faces_only_one_found"] == 0
        assert facts["worst_iou"] > 0.999
        assert facts["worst_cosine"] > 0.999
        assert "golden" not in facts

    @pytest.mark.parametrize(
        ("boxes", "fault"),
        [
            ([[119, 136, 271, 356]], None),
            ([[0, 0, 50, 50]], "one.jpg: a face that is expected was not found"),
            ([], "one.jpg: 1 faces, not 0"),
        ],
        ids=["as expected", "elsewhere", "one too many"],
    )
    def test_an_owners_pictures_have_the_faces_he_expects(
        self, server: Server, tmp_path: Path, boxes: list[list[int]], fault: str | None
    ) -> None:
        (tmp_path / "one.jpg").write_bytes(portrait())
        golden = {"images": {"one.jpg": {"faces": [{"bbox": box} for box in boxes]}}}
        (tmp_path / GOLDEN_FILE).write_text(json.dumps(golden))
        facts = found(verify(server, "answers", "--golden", str(tmp_path)))
        assert facts["num_pictures"] == 1
        assert facts["golden"] == {"num_pictures": 1, "is_met": not fault, "faults": [fault] if fault else []}

    @pytest.mark.parametrize("text", ["{", '{"images": {"other.jpg": {"faces": []}}}', '{"images": {"a": {}}}'])
    def test_a_golden_file_that_says_nothing_is_one_line(self, server: Server, tmp_path: Path, text: str) -> None:
        (tmp_path / "one.jpg").write_bytes(portrait())
        (tmp_path / GOLDEN_FILE).write_text(text)
        result = verify(server, "answers", "--golden", str(tmp_path))
        assert result.exit_code == 1
        assert GOLDEN_FILE in result.stderr

    def test_models_that_cannot_be_had_here_are_one_line(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DET_MODEL", "det_10g")
        result = verify(server, "answers")
        assert result.exit_code == 1
        assert "det_10g" in result.stderr

    def test_where_onnx_runtime_may_crash_it_is_not_asked(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("jetface.runtimes.choose.runtime_version", lambda: (1, 23, 0))
        host = Host(root=plant(tmp_path, ORIN_30W), machine="aarch64")
        with pytest.raises(ClickException, match="ONNX Runtime may crash"):
            compare_answers(target, Settings(), None, host=host)

    def test_without_onnx_runtime_golden_boxes_judge_alone(
        self, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So on JetPack 7, whose image has engines alone."""
        folder = tmp_path / "golden"
        folder.mkdir()
        (folder / "one.jpg").write_bytes(portrait())
        with target.caller() as caller:
            boxes = [{"bbox": face["box"]} for face in caller.detect(portrait())["faces"]]
        (folder / GOLDEN_FILE).write_text(json.dumps({"images": {"one.jpg": {"faces": boxes}}}))
        monkeypatch.setattr("jetface.runtimes.choose.runtime_version", lambda: (1, 23, 0))
        host = Host(root=plant(tmp_path / "root", ORIN_30W), machine="aarch64")
        facts = compare_answers(target, Settings(), folder, host=host)
        assert facts["golden"]["is_met"]
        assert "worst_iou" not in facts

    def test_a_folder_without_pictures_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ClickException, match="no pictures in"):
            pictures_of(tmp_path)


class TestSpeed:
    def test_one_face_and_a_crowd_are_told_apart(self, server: Server) -> None:
        facts = found(verify(server, "speed", "--requests", "2"))
        assert facts["crowd_faces"] == 32
        assert 0 < facts["detect_ms"] < facts["one_face_ms"] < facts["crowd_ms"]
        assert facts["crowd_ms_per_face"] == pytest.approx(facts["crowd_ms"] / 32)
        assert 0 < facts["recognize_ms_per_face"] < facts["crowd_ms_per_face"]

    def test_a_service_that_finds_nobody_is_told(self) -> None:
        class Blind(Script):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.answer(b'{"data": [{"faces": []}]}')

        with listening(Blind) as target, pytest.raises(ClickException, match="no face was found"):
            measure_speed(target, 1)


class TestSoak:
    def test_a_key_that_is_wrong_is_told(self, server: Server) -> None:
        with pytest.raises(ClickException, match="/metrics is answered by 401"):
            soak(Target(server.url, "another key"), [Named("a", portrait())], seconds=5, num_callers=1)

    def test_memory_is_followed_while_callers_are_answered(self, server: Server) -> None:
        facts = found(verify(server, "soak", "--minutes", "0.03", "--callers", "2"))
        assert facts["requests"] > 0
        assert (facts["failed"], facts["reason"]) == (0, None)
        assert facts["p50_ms"] <= facts["p99_ms"]
        assert len(facts["points"]) > 2
        assert facts["rss_max_bytes"] > 50e6
        assert facts["rss_growth_percent"] is None, "too short to tell a leak"

    def test_what_fails_is_counted_apart_from_what_is_refused(self) -> None:
        """Three answers in turn: an error, none at all, a refusal."""

        class Bad(Script):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                Bad.questions += 1
                if Bad.questions % 3 == 2:
                    self.close_connection = True
                else:
                    self.answer(b"{}", status=500 if Bad.questions % 3 else 429)

        with listening(Bad) as target:
            facts = soak(target, [Named("a", portrait())], seconds=0.6, num_callers=1)
        assert facts["requests"] == 0
        assert facts["refused"] >= 1
        assert facts["failed"] >= 2
        assert facts["reason"]
        assert facts["p50_ms"] is None

    def test_a_service_that_is_gone_ends_it(self) -> None:
        with pytest.raises(ClickException, match="/metrics is not answered"):
            soak(Target(f"http://127.0.0.1:{free_port()}"), [Named("a", portrait())], seconds=5, num_callers=2)


class TestDrain:
    def test_whoever_is_served_at_sigterm_gets_an_answer(self, tmp_path: Path) -> None:
        with running_server(tmp_path, SETTINGS) as server:
            codes: list[int] = []
            stopper = threading.Thread(target=lambda: codes.append(server.stop()))
            facts = load_until_stopped(
                Target(server.url, KEY), seconds=60, num_callers=3, on_first_answer=stopper.start
            )
            stopper.join()
        assert codes == [0]
        assert facts["answered"] >= 1
        assert facts["lost"] == facts["failed"] == 0
        assert facts["refused"] + facts["closed"] == 3

    def test_a_request_that_was_served_and_not_answered_is_lost(self) -> None:
        class Silent(Script):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                time.sleep(0.1)

        with listening(Silent) as target:
            facts = load_until_stopped(target, seconds=5, num_callers=1, on_first_answer=lambda: None)
        assert facts == {"answered": 0, "refused": 0, "closed": 0, "lost": 1, "failed": 0}

    def test_the_command_says_when_the_service_may_be_stopped(self, server: Server) -> None:
        result = verify(server, "drain", "--seconds", "1", "--callers", "1")
        assert found(result)["answered"] > 0
        assert "under load" in result.stderr


def test_a_crowd_is_one_picture_of_32_people() -> None:
    assert crowd().startswith(b"\xff\xd8")
