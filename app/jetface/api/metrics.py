"""`GET /metrics`: for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST

from jetface.api.routes import Services


def metrics_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["service"])

    @router.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Return every metric in Prometheus's text format."""
        return Response(services.exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    return router
