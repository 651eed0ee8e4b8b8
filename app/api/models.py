"""`GET /models`: the registry, and what has become of each entry."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from app.api.answer_schemas import ErrorAnswer, ModelAnswer, ModelsAnswer
from app.api.answers import small_answer
from app.api.context import context_of
from app.api.routes import Services
from app.errors import NotFoundError


def models_router(services: Services) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/models", tags=["service"])

    @router.get("", responses={200: {"model": ModelsAnswer}}, response_model=None)
    async def models(request: Request) -> Response:
        """List every model of the registry: licence, source, state, backend."""
        return small_answer(context_of(request), {"models": [asdict(facts) for facts in services.models.models()]})

    @router.get("/{name}", responses={200: {"model": ModelAnswer}, 404: {"model": ErrorAnswer}}, response_model=None)
    async def model(request: Request, name: str) -> Response:
        """Tell of one model of the registry."""
        for facts in services.models.models():
            if facts.name == name:
                return small_answer(context_of(request), asdict(facts))
        raise NotFoundError("No model of that name is in the registry.")

    return router
