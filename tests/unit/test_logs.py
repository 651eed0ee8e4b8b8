"""One line per event, whichever logger wrote it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import secrets
from pathlib import Path
from typing import Literal

import pytest
import structlog

from jetface.logs import configure_logs, masked, request_context


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    """The JSON lines on stderr."""
    captured = capsys.readouterr()
    assert captured.out == ""
    return [json.loads(line) for line in captured.err.splitlines()]


class TestConfigureLogs:
    """Levels, formats, and the loggers of others."""

    def test_json_is_one_object_a_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Event, level, logger, time in UTC and the facts."""
        configure_logs("INFO", "json")
        structlog.get_logger("jetface.models").info("model serving", model="det_500m", load_s=0.5)
        (line,) = lines(capsys)
        assert str(line.pop("timestamp")).endswith("Z")
        assert line == {
            "event": "model serving", "level": "info", "logger": "jetface.models", "model": "det_500m", "load_s": 0.5
        }  # fmt: skip

    @pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
    @pytest.mark.parametrize(
        "facts",
        [
            {}, {"a": 1, "b": 0.5, "c": None, "d": True, "e": "plain", "f": ""},
            {"a": "two words", "b": "a=b", "c": "'"},
            {"a": 'say "x"', "b": "line\nend", "c": "tab\t", "d": "\u00fc", "e": "back\\slash"},
            {"a": ["x", 1], "b": {"k": (1, 2)}, "c": b"bytes", "d": Path("/x y"), "e": 10**30},
        ],
    )  # fmt: skip
    def test_text_is_what_structlog_writes_without_colours(
        self, capsys: pytest.CaptureFixture[str], level: str, facts: dict[str, object]
    ) -> None:
        configure_logs("DEBUG", "text")
        getattr(structlog.get_logger("jetface.x"), level)("an event", **facts)
        line = capsys.readouterr().err.removesuffix("\n")
        console = structlog.dev.ConsoleRenderer(colors=False, pad_event_to=0, sort_keys=False)
        written = {"timestamp": line.split(" ")[0], "level": level, "event": "an event", "logger": "jetface.x", **facts}
        assert line == console(None, level, written)

    def test_text_names_the_facts(self, capsys: pytest.CaptureFixture[str]) -> None:
        """People read `key=value`, without colour codes where stderr is no terminal."""
        configure_logs("INFO", "text")
        structlog.get_logger("jetface").warning("queue full", model="det_500m")
        text = capsys.readouterr().err
        assert "queue full" in text
        assert "model=det_500m" in text
        assert "\x1b" not in text

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_a_traceback_shows_no_values(
        self, capsys: pytest.CaptureFixture[str], log_format: Literal["text", "json"]
    ) -> None:
        """Local variables of a failure may be pictures and keys."""
        configure_logs("INFO", log_format)
        key = secrets.token_hex()
        empty: dict[int, str] = {}
        try:
            empty[len(key)]
        except KeyError:
            structlog.get_logger("jetface").exception("request failed")
        text = capsys.readouterr().err
        assert "KeyError: 64" in text
        assert key not in text

    def test_the_level_is_a_floor(self, capsys: pytest.CaptureFixture[str]) -> None:
        """For our own loggers and for the standard library's alike."""
        configure_logs("WARNING", "json")
        structlog.get_logger("jetface").info("hidden")
        logging.getLogger("elsewhere").info("hidden")
        logging.getLogger("elsewhere").warning("shown %d", 1)
        assert [line["event"] for line in lines(capsys)] == ["shown 1"]

    def test_uvicorn_is_routed_through_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Uvicorn's own handlers go, and the coloured copy it attaches to each record is not a fact."""
        noisy = logging.getLogger("uvicorn")
        noisy.addHandler(logging.StreamHandler())
        noisy.propagate = False
        configure_logs("INFO", "json")
        logging.getLogger("uvicorn.error").info("Started %s", "it", extra={"color_message": "x"})
        (line,) = lines(capsys)
        assert line["event"] == "Started it"
        assert "color_message" not in line

    def test_uvicorn_s_own_access_line_is_off(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A request is told once, by us; uvicorn itself asks whether anybody listens."""
        configure_logs("DEBUG", "json")
        assert not logging.getLogger("uvicorn.access").hasHandlers()
        logging.getLogger("uvicorn.access").info("GET / 200")
        assert lines(capsys) == []

    @pytest.mark.parametrize(("level", "shown"), [("INFO", 0), ("DEBUG", 1)])
    def test_chatty_libraries_speak_up_at_debug(
        self, capsys: pytest.CaptureFixture[str], level: str, shown: int
    ) -> None:
        """A line per outgoing request is for debugging."""
        configure_logs(level, "json")
        logging.getLogger("httpx").info("HTTP Request: GET ...")
        assert len(lines(capsys)) == shown

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_an_exception_is_told_in_full(self, capsys: pytest.CaptureFixture[str], log_format: str) -> None:
        """The traceback that callers never see is in the operator's log."""
        configure_logs("INFO", "json" if log_format == "json" else "text")
        empty: dict[str, str] = {}
        try:
            empty["the cause"]
        except KeyError:
            structlog.get_logger("jetface").exception("run failed")
        text = capsys.readouterr().err
        assert "run failed" in text
        assert "KeyError: 'the cause'" in text

    def test_a_fact_that_no_encoder_likes_is_told_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Half a character, as in the name of a file; a number past 64 bits; what is no JSON at all."""
        configure_logs("INFO", "json")
        structlog.get_logger("jetface").info("odd", name="\ud800", number=2**70, of=object)
        (line,) = lines(capsys)
        assert (line["name"], line["number"]) == ("\ud800", 2**70)

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_nothing_fails_where_the_log_cannot_be_written(
        self, monkeypatch: pytest.MonkeyPatch, log_format: Literal["text", "json"]
    ) -> None:
        """A full disk, a closed pipe."""
        full = Path("/dev/full").open("w", encoding="utf-8")  # noqa: SIM115 - closed below, where it fails once more
        monkeypatch.setattr("sys.stderr", full)
        configure_logs("INFO", log_format)
        structlog.get_logger("jetface").info("lost")
        with contextlib.suppress(OSError):
            full.close()
        structlog.get_logger("jetface").info("lost too")
        monkeypatch.setattr("sys.stderr", room := io.StringIO())
        configure_logs("INFO", log_format)
        structlog.get_logger("jetface").info("kept")
        assert "kept" in room.getvalue()
        assert "lost" not in room.getvalue()

    def test_twice_is_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A second call replaces the first: no line is doubled."""
        configure_logs("INFO", "json")
        configure_logs("INFO", "json")
        structlog.get_logger("jetface").info("once")
        assert len(lines(capsys)) == 1


class TestRequestContext:
    """Which request a line belongs to."""

    async def test_travels_into_tasks_and_threads(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Everything a request starts carries its id; what another does at the same time carries its own."""
        configure_logs("INFO", "json")
        log = structlog.get_logger("jetface")

        async def serve(request_id: str) -> None:
            with request_context(request_id, None):
                await asyncio.sleep(0)
                await asyncio.to_thread(log.info, "in a thread", of=request_id)
                await asyncio.create_task(asyncio.to_thread(log.info, "in a task", of=request_id))

        await asyncio.gather(serve("a"), serve("b"))
        found = lines(capsys)
        assert len(found) == 4
        assert all(line["request_id"] == line["of"] for line in found)

    def test_ends_with_the_request(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A line after it has no id."""
        configure_logs("INFO", "json")
        with request_context("a", "5" * 32):
            pass
        structlog.get_logger("jetface").info("later")
        assert "request_id" not in lines(capsys)[0]


class TestMasked:
    """Passwords and tokens in addresses."""

    @pytest.mark.parametrize(
        "text",
        [
            "http://me:hunter2@models.example/faces",
            "mirror=https://me:hunter2@models.example:8080/faces reason=x",
            "http://me:hun/ter2@models.example",
            "http://me:p@ss-hunter2@models.example",
            "http://me:hunter?2#@models.example",
            "socks5h://hunter2@proxy.example:1080",
            "HTTP_PROXY=me:hunter2@proxy.example:3128",
            "('me:hunter2@proxy.example')",
            "https://files.example/m.onnx?X-Amz-Signature=hunter2&x=1",
            "https://files.example/m.onnx?a=1&access_token=hunter2",
        ],
    )
    def test_they_are_gone(self, text: str) -> None:
        """Also where they were not percent-encoded, or the scheme was left out."""
        assert "hunter" not in masked(text)
        assert "example" in masked(text)

    @pytest.mark.parametrize(
        "text",
        [
            "http://models.example/faces",
            "took_ms=1.5 route=/extract",
            "write to a@b.example",
            "12:30:45 me@example",
            "",
        ],
    )
    def test_all_else_stays(self, text: str) -> None:
        """What is no secret is what one looks for in a log."""
        assert masked(text) == text

    @pytest.mark.parametrize("log_format", ["text", "json"])
    def test_no_logger_writes_them(
        self, capsys: pytest.CaptureFixture[str], log_format: Literal["text", "json"]
    ) -> None:
        """Facts, events, tracebacks, and the lines of libraries."""
        configure_logs("DEBUG", log_format)
        url = "http://me:hunter2@models.example/faces"
        structlog.get_logger("jetface").warning(f"no {url}", url=url, urls=[url])
        logging.getLogger("httpx").info("HTTP Request: GET %s", url)
        try:
            int(url)
        except ValueError:
            structlog.get_logger("jetface").exception("failed")
            logging.getLogger("uvicorn.error").exception("failed")
        text = capsys.readouterr().err
        assert "hunter" not in text
        assert text.count("models.example") >= 6


def test_connections_without_a_descriptor_are_told_of_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Asyncio tells of each, in the words that are used here."""
    configure_logs("INFO", "text")
    logger = logging.getLogger("asyncio")
    for _ in range(1000):
        logger.error("socket.accept() out of system resource\nsocket: ...")
    logger.error("another")
    err = capsys.readouterr().err
    assert (err.count("socket.accept()"), err.count("another")) == (1, 1)
