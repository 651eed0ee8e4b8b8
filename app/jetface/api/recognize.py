"""`POST /recognize`: embeddings of faces whose place is known."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from jetface.api.answer_schemas import RecognizeAnswer
from jetface.api.context import context_of
from jetface.api.documents import documented
from jetface.api.routes import Services
from jetface.api.schemas import RecognizeBody, RecognizeFields, to_array
from jetface.api.shapes import described_picture, milliseconds, num_faces
from jetface.domain import KnownFaces
from jetface.errors import RequestError

_KEYS = frozenset({"embedding", "norm", "landmarks_from", "visible"})


def recognize_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/recognize", **documented(RecognizeBody, RecognizeFields, RecognizeAnswer))
    async def recognize(request: Request) -> Response:
        """Embed aligned crops; or faces of full pictures, given their `landmarks` or `boxes`, in that order."""
        context = context_of(request)
        asked = await services.bodies.read(request, RecognizeFields, RecognizeBody)
        fields = asked.options
        known = known_faces(fields, len(asked.pictures), max_faces=services.options.limits.max_faces)
        if known is None:
            results = await services.extractor.embed_crops(asked.pictures, deadline=context.deadline)
        else:
            results = await services.extractor.recognize(asked.pictures, known, deadline=context.deadline)
        context.add_results(results)
        keys = _KEYS if fields.fields is None else frozenset[str](fields.fields)
        is_base64 = fields.embedding_format == "base64"
        pictures = [described_picture(result, keys, is_base64=is_base64) for result in results]
        value = {"took_ms": milliseconds(context.took_s), "pictures": pictures}
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router


def known_faces(fields: RecognizeFields, num_pictures: int, *, max_faces: int) -> list[KnownFaces] | None:
    """Return the faces a request names per picture; None when its pictures are crops.

    Raises:
        RequestError: Not one list per picture, or too many faces in one.
    """
    if fields.landmarks is not None:
        name, given = "landmarks", len(fields.landmarks)
        known = [KnownFaces(landmarks=to_array(faces, (-1, 5, 2))) for faces in fields.landmarks]
        most = max(map(len, fields.landmarks), default=0)
    elif fields.boxes is not None:
        name, given = "boxes", len(fields.boxes)
        known = [KnownFaces(boxes=to_array(faces, (-1, 4)), rotations=fields.rotations) for faces in fields.boxes]
        most = max(map(len, fields.boxes), default=0)
    else:
        return None
    if given != num_pictures:
        raise RequestError(f"{name}: one list per picture is needed.", pictures=num_pictures, lists=given)
    if most > max_faces:
        raise RequestError(f"{name}: too many faces in one picture.", max_faces=max_faces)
    return known
