"""`/predict` and `/ping`: as Immich's machine learning has them, for its task `facial-recognition` alone.

An Immich server asks the URLs of its settings in turn, and one that does not answer 2xx gives way to the next: tasks
that are not served here are refused.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import numpy as np
import structlog
from annotated_types import MaxLen
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, BeforeValidator, Field

from jetface.api.requests import AnswerFormat, PicturesBody, json_text
from jetface.api.services import Services
from jetface.domain import ExtractOptions, Face
from jetface.errors import RequestError
from jetface.server.context import context_of
from jetface.server.encoding import envelope, small_answer, to_json

TASK = "facial-recognition"
_MAX_TOLD = 16
"""Most names of models that are logged: clients make them up."""

_log = structlog.get_logger("jetface.immich")

Name = Annotated[str, MaxLen(64)]


class Options(BaseModel):
    """Options of one step of a task; others than these mean nothing here."""

    minScore: Annotated[float | None, Field(allow_inf_nan=False)] = None  # noqa: N815 - as it is sent


class Step(BaseModel):
    """One step of a task: which model, and how."""

    modelName: Name = ""  # noqa: N815 - as it is sent
    options: Options = Options()


class PredictFields(AnswerFormat):
    """Fields of the form beside `image`."""

    entries: Annotated[dict[Name, dict[Name, Step]], MaxLen(8), BeforeValidator(json_text)]


class PredictBody(PicturesBody, PredictFields):
    """The same with the picture in it; Immich itself sends a form."""


def immich_router(services: Services) -> APIRouter:  # noqa: C901 - refusals of one route
    """Return the routes."""
    # Described by Immich itself.
    router = APIRouter(include_in_schema=False)
    told: set[str] = set()

    def tell(model: str) -> None:
        """Log once that the configured models answer in place of the one that is asked for."""
        if model and model not in told and len(told) < _MAX_TOLD:
            told.add(model)
            names = {facts["task"]: facts["name"] for facts in services.models.models() if facts["is_active"]}
            _log.info(
                "Immich names a model; the configured ones answer", named=model,
                detector=names.get("detection"), recognizer=names.get("recognition"),
            )  # fmt: skip

    @router.get("/ping")
    async def ping(_request: Request) -> Response:
        """Tell that the service is there."""
        return Response("pong", media_type="text/plain")

    @router.post("/predict")
    async def predict(request: Request) -> Response:
        """Find and embed the faces of a picture."""
        context = context_of(request)

        def refuse(error: RequestError) -> Response:
            services.metrics.refusals.labels(error.code).inc()
            return small_answer(context, envelope(error, context.id), status=HTTPStatus.BAD_REQUEST)

        try:
            asked = await services.bodies.read(request, PredictFields, PredictBody)
        except RequestError as error:
            if "missing" in error.details:
                return refuse(error)
            raise
        entries = asked.options.entries
        if entries.keys() != {TASK}:
            raise RequestError(f"entries: {TASK} alone is served here.", served=[TASK])
        steps = entries[TASK]
        if "detection" not in steps or len(asked.pictures) != 1:
            return refuse(RequestError("One picture and the step detection are needed."))
        score = steps["detection"].options.minScore
        tell(steps["detection"].modelName)
        least = services.defaults["det_thresh"] if score is None else min(max(score, 0.0), 2.0)
        options = ExtractOptions(score_threshold=least, with_embedding="recognition" in steps)
        (result,) = await services.extractor.extract(
            asked.pictures, options, deadline=context.deadline, whose=context.whose
        )
        context.add_results([result])
        if result.error is not None or result.image_hw is None:
            raise result.error or RequestError("The picture has no size.")
        height_px, width_px = result.image_hw
        value = {TASK: [_described(face) for face in result.faces], "imageHeight": height_px, "imageWidth": width_px}
        return await services.answers.write(context, value, num_faces=len(result.faces))

    return router


def _described(face: Face) -> dict[str, Any]:
    told: dict[str, Any] = {
        "boundingBox": dict(zip(("x1", "y1", "x2", "y2"), face.box.tolist(), strict=True)),
        "score": np.float32(face.score),
    }
    if face.embedding is not None:
        told["embedding"] = to_json(np.ascontiguousarray(face.embedding.vector)).decode()
    return told
