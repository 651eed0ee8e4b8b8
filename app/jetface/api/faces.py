"""The routes that look at pictures: detect, extract, recognize, compare, draw."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response

from jetface.api.answers import (
    CompareAnswer,
    DetectAnswer,
    ExtractAnswer,
    RecognizeAnswer,
    Took,
    detect_picture,
    extract_crop,
    extract_picture,
    milliseconds,
    num_faces,
    recognize_picture,
)
from jetface.api.openapi import documented
from jetface.api.requests import (
    CompareBody,
    CompareFields,
    DetectBody,
    DetectFields,
    DrawBody,
    DrawFields,
    ExtractBody,
    ExtractFields,
    RecognizeBody,
    RecognizeFields,
    extract_wish,
    to_array,
)
from jetface.api.services import Services
from jetface.domain import ExtractOptions, Face, Image, KnownFaces
from jetface.errors import RequestError
from jetface.imaging.draw import DrawOptions, draw_faces, encode_jpeg
from jetface.pipeline.describer import leading_vector, similarities
from jetface.server.context import context_of

_DETECT_KEYS = frozenset({"box", "score", "landmarks", "landmarks_from", "visible"})


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
            score_threshold=services.defaults["det_thresh"] if fields.threshold is None else fields.threshold,
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            rotations=fields.rotations,
            with_embedding=False,
        )
        results = await services.extractor.extract(
            asked.pictures, options, deadline=context.deadline, whose=context.whose
        )
        context.add_results(results)
        keys = _DETECT_KEYS if fields.fields is None else frozenset[str](fields.fields)
        pictures = [detect_picture(result, keys) for result in results]
        value = DetectAnswer(took_ms=milliseconds(context.took_s), pictures=pictures)
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router


def extract_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/extract", **documented(ExtractBody, ExtractFields, ExtractAnswer))
    async def extract(request: Request) -> Response:
        """Find faces, and embed them: boxes, scores, landmarks, embeddings, attributes, as InsightFace-REST answers."""
        context = context_of(request)
        asked = await services.bodies.read(request, ExtractFields, ExtractBody)
        read_s = context.took_s
        wish = extract_wish(asked.options, services.defaults, services.named_attributes)
        started = time.perf_counter()
        if asked.options.embed_only:
            results = await services.extractor.embed_crops(
                asked.pictures, wish.options, deadline=context.deadline, whose=context.whose
            )
        else:
            results = await services.extractor.extract(
                asked.pictures, wish.options, deadline=context.deadline, whose=context.whose
            )
        context.add_results(results)
        embed_s = time.perf_counter() - started
        if asked.options.embed_only:
            slots = [extract_crop(result, wish) for result in results]
            value = ExtractAnswer(took_ms=milliseconds(context.took_s), status="ok", data=slots)
        else:
            if wish.options.with_crop:  # they are encoded
                slots = await services.pool.run(lambda: [extract_picture(result, wish) for result in results])
            else:
                slots = [extract_picture(result, wish) for result in results]
            took = Took(total_ms=milliseconds(context.took_s))
            if asked.options.verbose_timings:
                took["read_imgs_ms"], took["embed_all_ms"] = milliseconds(read_s), milliseconds(embed_s)
            value = ExtractAnswer(took=took, data=slots)
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router


_RECOGNIZE_KEYS = frozenset({"embedding", "norm", "score", "landmarks_from", "visible"})


def recognize_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["faces"])

    @router.post("/recognize", **documented(RecognizeBody, RecognizeFields, RecognizeAnswer))
    async def recognize(request: Request) -> Response:
        """Embed aligned crops; or faces of full pictures, given their `landmarks` or `boxes`, in that order."""
        context = context_of(request)
        asked = await services.bodies.read(request, RecognizeFields, RecognizeBody)
        fields = asked.options
        known = known_faces(fields, len(asked.pictures), max_faces=services.limits.max_faces)
        if known is None:
            results = await services.extractor.embed_crops(
                asked.pictures, deadline=context.deadline, whose=context.whose
            )
        else:
            results = await services.extractor.recognize(
                asked.pictures, known, deadline=context.deadline, whose=context.whose
            )
        context.add_results(results)
        keys = _RECOGNIZE_KEYS if fields.fields is None else frozenset[str](fields.fields)
        is_base64 = fields.embedding_format == "base64"
        pictures = [recognize_picture(result, keys, is_base64=is_base64) for result in results]
        value = RecognizeAnswer(took_ms=milliseconds(context.took_s), pictures=pictures)
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


_COMPARE_KEYS = frozenset({"box", "score", "landmarks", "landmarks_from", "visible", "norm"})


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
        threshold = services.match_threshold() if fields.threshold is None else fields.threshold
        score = fields.detection_threshold
        options = ExtractOptions(
            score_threshold=services.defaults["det_thresh"] if score is None else score,
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
        pictures = [detect_picture(result, _COMPARE_KEYS) for result in results]
        value = CompareAnswer(took_ms=milliseconds(context.took_s), threshold=np.float32(threshold), pictures=pictures)
        if asked.others is None:
            known = not np.isnan(matrix[0, 0])
            value["similarity"] = matrix[0, 0] if known else None
            value["is_match"] = bool(matrix[0, 0] >= threshold) if known else None
        else:
            value["similarities"] = _null_for_nan(matrix)
            value["matches"] = (matrix >= threshold).tolist()
            value["pictures"], value["others"] = pictures[:num_first], pictures[num_first:]
        return await services.answers.write(context, value, num_faces=len(results))

    return router


def _null_for_nan(matrix: np.ndarray[Any, np.dtype[np.float32]]) -> list[list[np.float32 | None]]:
    """NaN has no place in JSON, and msgpack would carry it on."""
    return [[None if np.isnan(value) else value for value in row] for row in matrix]


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
            score_threshold=services.defaults["det_thresh"] if fields.threshold is None else fields.threshold,
            limit_faces=fields.limit_faces,
            min_face_width_px=fields.min_face_size,
            rotations=fields.rotations,
            with_embedding=False,
        )
        (result,) = await services.extractor.extract([source], options, deadline=context.deadline, whose=context.whose)
        context.add_results([result])
        if result.error is not None:
            raise result.error
        wanted = DrawOptions(
            with_landmarks=fields.draw_landmarks, with_scores=fields.draw_scores, with_sizes=fields.draw_sizes
        )
        async with services.loader.load(source, deadline=context.deadline) as picture:
            jpeg = await services.pool.run(_draw, picture.pixels, result.faces, wanted)
        return Response(jpeg, media_type="image/jpeg")

    router.post("/draw_detections", **documented(DrawBody, DrawFields, None))(draw_detections)
    router.post(
        "/multipart/draw_detections",
        **documented(DrawBody, DrawFields, None),
        name="multipart_draw_detections",
    )(draw_detections)
    return router


def _draw(image: Image, faces: tuple[Face, ...], options: DrawOptions) -> bytes:
    return encode_jpeg(draw_faces(image, faces, options))
