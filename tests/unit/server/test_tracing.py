"""Spans that no collector takes: lost, and counted."""

from __future__ import annotations

import pytest

from jetface.metrics import Metrics
from jetface.server.context import RequestContext
from jetface.server.tracing import Tracing
from tests.support.server import free_port


@pytest.mark.slow
def test_what_nobody_takes_is_counted_as_lost() -> None:
    metrics = Metrics()
    tracing = Tracing(f"http://127.0.0.1:{free_port()}", version="1", metrics=metrics)
    context = RequestContext(id="a", wants_msgpack=False)
    tracing.begin(context, "/extract")
    assert context.end_span is not None
    context.end_span("POST", "/extract", 200)
    tracing.close()
    assert metrics.registry.get_sample_value("jetface_spans_total", {"outcome": "lost"}) == 1
    assert metrics.registry.get_sample_value("jetface_spans_total", {"outcome": "sent"}) == 0
