"""`/plates`: the licence plates of pictures, found and read. Off until models for it are named."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jetface.api.answers import PlatesAnswer, milliseconds, plates_picture
from jetface.api.openapi import documented
from jetface.api.requests import PlatesBody, PlatesFields
from jetface.api.services import Services
from jetface.domain import PlateOptions
from jetface.errors import NotFoundError
from jetface.pipeline.plates import PLATES_ARE_OFF
from jetface.server.context import context_of


def plates_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["plates"])

    @router.post("/plates", **documented(PlatesBody, PlatesFields, PlatesAnswer, off="Reading plates is off."))
    async def read_plates(request: Request) -> Response:
        """Find licence plates and read them: boxes in source pixels, scores, texts."""
        if services.plates is None:
            raise NotFoundError(PLATES_ARE_OFF)
        context = context_of(request)
        asked = await services.bodies.read(request, PlatesFields, PlatesBody)
        fields = asked.options
        options = PlateOptions(
            score_threshold=fields.threshold, limit=max(fields.limit, 0), min_width_px=max(fields.min_width, 0)
        )
        results = await services.plates.find(asked.pictures, options, deadline=context.deadline, whose=context.whose)
        context.add_results(results)
        value = PlatesAnswer(
            took_ms=milliseconds(context.took_s), pictures=[plates_picture(result) for result in results]
        )
        return await services.answers.write(
            context, value, num_faces=sum(len(result.plates or ()) for result in results)
        )

    return router
