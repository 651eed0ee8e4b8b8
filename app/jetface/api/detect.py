"""`POST /detect`: where the faces are."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import DetectAnswer
from jetface.api.context import context_of
from jetface.api.documents import documented
from jetface.api.routes import Services
from jetface.api.schemas import DetectBody, DetectFields
from jetface.api.shapes import described_picture, milliseconds, num_faces
from jetface.domain import ExtractOptions

_KEYS = frozenset({"box", "score", "landmarks", "landmarks_from", "visible"})


def detect_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/detect", **documented(DetectBody, DetectFields, DetectAnswer))
    async def detect(request: Request) -> Response:
        """Find faces: boxes, scores and five landmarks, in source pixels. The recognizer is not needed."""
        context = context_of(request)
        asked = await services.bodies.read(request, DetectFields, DetectBody)
        fields = asked.options
        options = ExtractOptions(
            score_threshold=services.options.defaults.det_thresh if fields.threshold is None else fields.threshold,
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            rotations=fields.rotations,
            with_embedding=False,
        )
        results = await services.extractor.extract(asked.pictures, options, deadline=context.deadline)
        context.add_results(results)
        keys = _KEYS if fields.fields is None else frozenset[str](fields.fields)
        pictures = [described_picture(result, keys) for result in results]
        value = {"took_ms": milliseconds(context.took_s), "pictures": pictures}
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router
