"""Spans of requests, sent to a collector of the test's own; and what a service does without one that answers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.server import free_port, running_server

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector:
    """Takes OTLP over HTTP; `spans` is what has come."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                    named = {pair.key: pair.value.string_value for pair in each.resource.attributes}
                    collector.services.add(named["service.name"])
                    for scope in each.scope_spans:
                        collector.spans.extend(scope.spans)
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def collector() -> Iterator[Collector]:
    started = Collector()
    thread = threading.Thread(target=started.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield started
    started.server.shutdown()
    started.server.server_close()
    thread.join()


def test_a_request_and_its_stages_are_part_of_the_caller_s_trace(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any], collector: Collector
) -> None:
    """Sent at the latest when the service stops; its log lines say the trace, and probes have no spans."""
    variables = {**weights, "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "LOG_FORMAT": "json"}
    with running_server(tmp_path, variables) as server:
        headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
        body = body_of("ifrest_Stallone.jpg")
        with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
            for _ in range(2):
                client.post("/extract", json=body, headers=headers).raise_for_status()
            assert client.post("/extract", json={}).status_code == 422
            deadline = time.monotonic() + 30  # it sends each five seconds
            while 'jetface_spans_total{outcome="sent"}' not in (text := client.get("/metrics").text) or (
                'jetface_spans_total{outcome="sent"} 0.0' in text
            ):
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert server.stop() == 0
        log = server.read_log()
    assert collector.services == {"jetface"}
    requests = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert [span.name for span in requests] == ["POST /extract"] * 3
    *traced, refused = requests
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in traced} == {(TRACE, PARENT)}
    assert refused.trace_id.hex() != TRACE
    assert not refused.parent_span_id
    warm = traced[1]
    told = {pair.key: pair.value.string_value or pair.value.int_value for pair in warm.attributes}
    assert (told["http.route"], told["http.response.status_code"]) == ("/extract", 200)
    assert told["jetface.request_id"] == "mine"
    stages = [span for span in collector.spans if span.parent_span_id == warm.span_id]
    assert [span.name for span in stages if span.name != "queue"] == ["decode", "detect", "align", "recognize"]
    assert any(span.name == "queue" for span in stages)
    ends = [span.end_time_unix_nano for span in stages if span.name != "queue"]
    assert ends == sorted(ends)
    slack_ns = 2_000_000  # two clocks, read one after the other
    assert min(span.start_time_unix_nano for span in stages) >= warm.start_time_unix_nano - slack_ns
    assert max(ends) <= warm.end_time_unix_nano + slack_ns
    assert abs(warm.end_time_unix_nano - time.time_ns()) < 300e9
    assert log.count(f'"trace_id":"{TRACE}"') >= 2
    assert refused.trace_id.hex() in log


def test_a_collector_that_is_not_there_holds_up_nobody(
    tmp_path: Path, weights: dict[str, str], body_of: Callable[..., Any]
) -> None:
    """Neither an answer nor the end of the service."""
    variables = {**weights, "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}"}
    with running_server(tmp_path, variables) as server:
        for _ in range(3):
            httpx.post(f"{server.url}/detect", json=body_of("ifrest_Stallone.jpg"), timeout=60).raise_for_status()
        started = time.monotonic()
        assert server.stop() == 0
    assert time.monotonic() - started < 15
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" not in os.environ
