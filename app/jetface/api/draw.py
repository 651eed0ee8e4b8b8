"""`POST /draw_detections`: the picture with its faces drawn on it."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jetface.api.context import context_of
from jetface.api.documents import documented_picture
from jetface.api.routes import Services
from jetface.api.schemas import DrawBody, DrawFields
from jetface.domain import ExtractOptions, Face, Image
from jetface.errors import RequestError
from jetface.imaging.draw import DrawOptions, draw_faces, encode_jpeg


def draw_router(services: Services) -> APIRouter:
    """Return both routes; they differ in name only, for clients of InsightFace-REST."""
    router = APIRouter(tags=["faces"])

    async def draw_detections(request: Request) -> Response:
        """Draw the faces of the first picture onto it and answer with a JPEG."""
        context = context_of(request)
        asked = await services.bodies.read(request, DrawFields, DrawBody)
        if not asked.pictures:
            raise RequestError("images: a picture is needed.")
        source, fields = asked.pictures[0], asked.options
        options = ExtractOptions(
            score_threshold=services.options.defaults.det_thresh if fields.threshold is None else fields.threshold,
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            rotations=fields.rotations,
            with_embedding=False,
        )
        (result,) = await services.extractor.extract([source], options, deadline=context.deadline)
        context.add_results([result])
        if result.error is not None:
            raise result.error
        wanted = DrawOptions(
            with_landmarks=fields.draw_landmarks, with_scores=fields.draw_scores, with_sizes=fields.draw_sizes
        )
        async with services.loader.load(source, deadline=context.deadline) as picture:
            jpeg = await services.pool.run(_draw, picture.pixels, result.faces, wanted)
        return Response(jpeg, media_type="image/jpeg")

    router.post("/draw_detections", **documented_picture(DrawBody, DrawFields))(draw_detections)
    router.post(
        "/multipart/draw_detections",
        **documented_picture(DrawBody, DrawFields),
        name="multipart_draw_detections",
    )(draw_detections)
    return router


def _draw(image: Image, faces: tuple[Face, ...], options: DrawOptions) -> bytes:
    return encode_jpeg(draw_faces(image, faces, options))
