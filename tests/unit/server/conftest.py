"""The HTTP server in front of the API over fakes."""

from __future__ import annotations

from tests.unit.api.conftest import application, client, harness

__all__ = ["application", "client", "harness"]
