"""`GET /health`, `/health/live`, `/health/ready`: for people, and for what restarts and routes."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from http import HTTPStatus

from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import HealthAnswer, ReadyAnswer
from jetface.api.answers import small_answer
from jetface.api.context import context_of
from jetface.api.routes import Services
from jetface.api.services import Verdict
from jetface.drain import Drain

SELF_CHECK_S = 5.0
"""Longest a self-check may take: under the timeouts that probes usually have."""

_DRAINING = Verdict(is_ok=False, reason="The service is shutting down.")


def health_router(services: Services, drain: Drain) -> APIRouter:
    """Return the routes. None takes a place in flight or waits for a queue of requests."""
    router = APIRouter(prefix="/health", tags=["service"])

    def write(request: Request, good: str, verdict: Verdict, **more: object) -> Response:
        value: dict[str, object] = {"status": good if verdict.is_ok else "failed"}
        if verdict.reason is not None:
            value["reason"] = verdict.reason
        status = HTTPStatus.OK if verdict.is_ok else HTTPStatus.SERVICE_UNAVAILABLE
        return small_answer(context_of(request), {**value, **more}, status=int(status))

    @router.get("", responses={200: {"model": HealthAnswer}, 503: {"model": HealthAnswer}}, response_model=None)
    async def health(request: Request) -> Response:
        """Tell whether requests can be served, after trying what is loaded for real."""
        verdict = services.models.liveness()
        if verdict.is_ok:
            verdict = services.models.readiness()
        if verdict.is_ok:
            deadline = asyncio.get_running_loop().time() + SELF_CHECK_S
            verdict = await services.models.self_check(deadline=deadline)
        return write(request, "ok", verdict)

    @router.get("/live", responses={200: {"model": HealthAnswer}, 503: {"model": HealthAnswer}}, response_model=None)
    async def live(request: Request) -> Response:
        """Tell whether the process should go on: its loop answers, and no run of a model is stuck."""
        return write(request, "alive", services.models.liveness())

    @router.get("/ready", responses={200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}}, response_model=None)
    async def ready(request: Request) -> Response:
        """Tell whether requests can be served now; a model that loads on its first request is ready."""
        verdict = _DRAINING if drain.is_draining else services.models.readiness()
        models = {
            facts.name: {
                "state": facts.state,
                "backend": facts.backend,
                "reason": facts.reason,
                "engine": None if facts.engine is None else asdict(facts.engine),
            }
            for facts in services.models.models()
            if facts.is_active
        }
        return write(request, "ready", verdict, models=models)

    return router
