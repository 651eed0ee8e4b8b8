"""`GET /info`: what runs here; the keys of InsightFace-REST."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from jetface.api.answers import small_answer
from jetface.api.context import context_of
from jetface.api.info_schemas import InfoAnswer
from jetface.api.routes import Services
from jetface.api.services import ModelFacts


def info_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["service"])

    @router.get("/info", responses={200: {"model": InfoAnswer}}, response_model=None)
    async def info(request: Request) -> Response:
        """Tell the version, the models in use and the defaults of requests."""
        about = services.options.info
        active = [facts for facts in services.models.models() if facts.is_active]
        recognizer = next((facts for facts in active if facts.task == "recognition"), None)
        value = {
            "version": about.version,
            "tensorrt_version": about.tensorrt_version,
            "log_level": about.log_level,
            "models": {
                "inference_backend": about.inference_backend,
                "det_name": _name_of(active, "detection"),
                "rec_name": recognizer.name if recognizer else None,
                "match_threshold": services.options.match_threshold() if recognizer else None,
                "false_match_rate": recognizer.false_match_rate if recognizer else None,
                "ga_name": _name_of(active, "gender_age"),
                "mask_detector": _name_of(active, "mask"),
                "liveness": [facts.name for facts in active if facts.task == "liveness"],
                "max_size": about.max_size,
                "tried": [
                    {"backend": tried.name, "outcome": tried.outcome, "cure": tried.cure} for tried in about.attempts
                ],
                "backends": {facts.name: facts.backend for facts in active},
            },
            "defaults": asdict(services.options.defaults),
            "notice": about.notice,
            "device": asdict(about.device()),
        }
        return small_answer(context_of(request), value)

    return router


def _name_of(active: Sequence[ModelFacts], task: str) -> str | None:
    return next((facts.name for facts in active if facts.task == task), None)
