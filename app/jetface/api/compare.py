"""`POST /compare`: is it the same person."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import CompareAnswer
from jetface.api.context import context_of
from jetface.api.documents import documented
from jetface.api.routes import Services
from jetface.api.schemas import CompareBody, CompareFields
from jetface.api.shapes import described_picture, milliseconds
from jetface.domain import ExtractOptions
from jetface.errors import RequestError
from jetface.pipeline.comparison import leading_vector, similarities

_KEYS = frozenset({"box", "score", "landmarks", "landmarks_from", "visible", "norm"})


def compare_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/compare", **documented(CompareBody, CompareFields, CompareAnswer))
    async def compare(request: Request) -> Response:
        """Compare the largest face of two pictures; or of each picture of `images` with each of `others`.

        In a multipart body the pictures of `others` are parts named `other`. Where a picture has no face the
        similarity is null.
        """
        context = context_of(request)
        asked = await services.bodies.read(request, CompareFields, CompareBody)
        fields = asked.options
        if asked.others is None and len(asked.pictures) != 2:
            raise RequestError("images: two pictures are compared, or those of images with those of others.")
        threshold = services.options.match_threshold() if fields.threshold is None else fields.threshold
        score = fields.detection_threshold
        options = ExtractOptions(
            score_threshold=services.options.defaults.det_thresh if score is None else score,
            limit_faces=1,
            rotations=fields.rotations,
        )
        results = await services.extractor.extract(
            [*asked.pictures, *(asked.others or ())], options, deadline=context.deadline
        )
        context.add_results(results)
        num_first = 1 if asked.others is None else len(asked.pictures)
        vectors = [leading_vector(result) for result in results]
        matrix = similarities(vectors[:num_first], vectors[num_first:])
        pictures = [described_picture(result, _KEYS) for result in results]
        if asked.others is None:
            known = not np.isnan(matrix[0, 0])
            verdict: dict[str, Any] = {
                "similarity": matrix[0, 0] if known else None,
                "is_match": bool(matrix[0, 0] >= threshold) if known else None,
            }
            described = {"pictures": pictures}
        else:
            verdict = {"similarities": _null_for_nan(matrix), "matches": (matrix >= threshold).tolist()}
            described = {"pictures": pictures[:num_first], "others": pictures[num_first:]}
        value = {
            "took_ms": milliseconds(context.took_s),
            "threshold": np.float32(threshold),
            **verdict,
            **described,
        }
        return await services.answers.write(context, value, num_faces=len(results))

    return router


def _null_for_nan(matrix: np.ndarray[Any, np.dtype[np.float32]]) -> list[list[np.float32 | None]]:
    """NaN has no place in JSON, and msgpack would carry it on."""
    return [[None if np.isnan(value) else value for value in row] for row in matrix]
