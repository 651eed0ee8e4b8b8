"""`POST /extract`: as InsightFace-REST has it."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import ExtractAnswer
from jetface.api.context import context_of
from jetface.api.documents import documented
from jetface.api.routes import Services
from jetface.api.schemas import ExtractBody, ExtractFields
from jetface.api.shapes import (
    ExtractWish,
    crop_options,
    extract_crop,
    extract_picture,
    extract_wish,
    milliseconds,
    num_faces,
)
from jetface.domain import PictureResult


def extract_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/extract", **documented(ExtractBody, ExtractFields, ExtractAnswer))
    async def extract(request: Request) -> Response:
        """Find faces, and embed them: boxes, scores, landmarks, embeddings, attributes, as InsightFace-REST answers."""
        context = context_of(request)
        asked = await services.bodies.read(request, ExtractFields, ExtractBody)
        read_s = context.took_s
        wish = extract_wish(asked.options, services.options.defaults)
        started = time.perf_counter()
        if asked.options.embed_only:
            results = await services.extractor.embed_crops(
                asked.pictures, crop_options(wish), deadline=context.deadline
            )
        else:
            results = await services.extractor.extract(asked.pictures, wish.options, deadline=context.deadline)
        context.add_results(results)
        embed_s = time.perf_counter() - started
        if asked.options.embed_only:
            value: dict[str, Any] = {
                "took_ms": milliseconds(context.took_s),
                "status": "ok",
                "data": [extract_crop(result, wish) for result in results],
            }
        else:
            slots = await _slots(services, results, wish)
            took = {"total_ms": milliseconds(context.took_s)}
            if asked.options.verbose_timings:
                took |= {"read_imgs_ms": milliseconds(read_s), "embed_all_ms": milliseconds(embed_s)}
            value = {"took": took, "data": slots}
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router


async def _slots(services: Services, results: list[PictureResult], wish: ExtractWish) -> list[dict[str, Any]]:
    """Shape the answer; crops are encoded in the pool."""
    if wish.options.with_crop:
        return await services.pool.run(lambda: [extract_picture(result, wish) for result in results])
    return [extract_picture(result, wish) for result in results]
