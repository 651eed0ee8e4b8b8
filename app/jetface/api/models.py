"""`/models`: the registry, what has become of each entry, and loading and unloading them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import ErrorAnswer, ModelAnswer, ModelsAnswer
from jetface.api.answers import small_answer
from jetface.api.context import context_of
from jetface.api.routes import Services
from jetface.api.services import ModelFacts
from jetface.errors import NotFoundError


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

    def change(action: str, act: Callable[[str, float], Awaitable[ModelFacts]], meaning: str) -> None:
        @router.post(
            f"/{{name}}/{action}",
            responses={200: {"model": ModelAnswer}, **_FAILURES},
            response_model=None,
            name=f"{action}_model",
            description=meaning,
        )
        async def changed(request: Request, name: str) -> Response:
            facts = await act(name, context_of(request).deadline)
            return small_answer(context_of(request), asdict(facts))

    change(
        "load", lambda name, deadline: services.models.load(name, deadline=deadline),
        "Load a model now rather than with the first request that needs it. Answers when it serves.",
    )  # fmt: skip
    change(
        "unload", lambda name, _: services.models.unload(name),
        "Give a model's memory back. Requests that use it are answered first; the next that needs it loads it again.",
    )  # fmt: skip
    change(
        "reload", lambda name, deadline: services.models.reload(name, deadline=deadline),
        "Load a model anew: the registry is read and the file is hashed again. The former serves until then, and on "
        "where the new one cannot be loaded.",
    )  # fmt: skip
    return router


_FAILURES: dict[int | str, dict[str, Any]] = {status: {"model": ErrorAnswer} for status in (404, 503, 504)}
