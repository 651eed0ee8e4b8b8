"""Values and errors to bytes: JSON or MessagePack, whichever the client asked for; one envelope for errors."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from http import HTTPStatus
from math import ceil
from types import MappingProxyType

import orjson
import ormsgpack
from starlette.exceptions import HTTPException
from starlette.responses import Response

from jetface import errors
from jetface.errors import ServiceError
from jetface.pipeline.pictures import WorkPool
from jetface.server.context import RequestContext

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/x-msgpack"

_LARGE_NUM_FACES = 64
"""About half a megabyte of embeddings as JSON, 5 ms: longer than the loop should be held."""


def to_json(value: object) -> bytes:
    """Write JSON. Arrays are C-contiguous; float32 is written with the fewest digits that read back the same."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_msgpack(value: object) -> bytes:
    """Write msgpack. `np.float32`, alone or in arrays, takes five bytes; a Python float would take nine."""
    return ormsgpack.packb(value, option=ormsgpack.OPT_SERIALIZE_NUMPY)


class Answers:
    """Writes answers; a large one in the pool."""

    def __init__(self, pool: WorkPool) -> None:
        self._pool = pool

    async def write(
        self, context: RequestContext, value: Mapping[str, object], *, num_faces: int = 0, status: int = 200
    ) -> Response:
        """Return the response that carries `value`.

        Args:
            context: Whose `wants_msgpack` decides the format.
            value: Plain values, numpy arrays and numpy scalars.
            num_faces: How many faces it holds: decides where it is written.
            status: HTTP status.
        """
        started = time.perf_counter()
        if num_faces >= _LARGE_NUM_FACES:
            body = await self._pool.run(to_msgpack if context.wants_msgpack else to_json, value)
        else:
            body = to_msgpack(value) if context.wants_msgpack else to_json(value)
        context.stage_s["serialise"] += time.perf_counter() - started
        return answer(body, context, status=status)


def answer(body: bytes, context: RequestContext, *, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Wrap written bytes, labelled as the format the client asked for."""
    return Response(body, status, dict(headers or {}), media_type=MSGPACK_TYPE if context.wants_msgpack else JSON_TYPE)


def small_answer(
    context: RequestContext, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Write a short answer at once: errors, health, information."""
    body = to_msgpack(value) if context.wants_msgpack else to_json(value)
    return answer(body, context, status=status, headers=headers)


STATUS: Mapping[type[ServiceError], HTTPStatus] = MappingProxyType(
    {
        ServiceError: HTTPStatus.INTERNAL_SERVER_ERROR,
        errors.RequestError: HTTPStatus.UNPROCESSABLE_ENTITY,
        errors.ImageTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        errors.BodyTooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        errors.HeadTooLongError: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        errors.MalformedRequestError: HTTPStatus.BAD_REQUEST,
        errors.UnsupportedMediaError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        errors.NotFoundError: HTTPStatus.NOT_FOUND,
        errors.MethodNotAllowedError: HTTPStatus.METHOD_NOT_ALLOWED,
        errors.RequestTimeoutError: HTTPStatus.REQUEST_TIMEOUT,
        errors.UnauthorizedError: HTTPStatus.UNAUTHORIZED,
        errors.ForbiddenError: HTTPStatus.FORBIDDEN,
        errors.ConflictError: HTTPStatus.CONFLICT,
        errors.CapacityError: HTTPStatus.TOO_MANY_REQUESTS,
        errors.DeadlineExceededError: HTTPStatus.GATEWAY_TIMEOUT,
        errors.ShuttingDownError: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.ModelError: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.StorageError: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.StorageFullError: HTTPStatus.INSUFFICIENT_STORAGE,
        errors.BackendError: HTTPStatus.INTERNAL_SERVER_ERROR,
        errors.DeviceMemoryError: HTTPStatus.SERVICE_UNAVAILABLE,
        errors.NotFiniteError: HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""The status of a class is that of its nearest ancestor here."""


def status_of(kind: type[ServiceError]) -> HTTPStatus:
    """Return the HTTP status an error of class `kind` is answered with."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def envelope(error: ServiceError, request_id: str) -> dict[str, object]:
    """Return the body every error is answered with; `detail` is where clients of InsightFace-REST look."""
    return {
        "error": {"code": error.code, "message": error.message, "details": error.details},
        "detail": error.message,
        "request_id": request_id,
    }


def headers_of(error: ServiceError) -> dict[str, str]:
    """Return the headers an error's answer needs: when to come back, how to authenticate, which methods there are."""
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, ceil(error.retry_after_s)))
    if isinstance(error, errors.UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, errors.MethodNotAllowedError):
        headers["allow"] = str(error.details.get("allow", ""))
    return headers


def from_http_exception(error: HTTPException, methods: Collection[str] = ()) -> ServiceError:
    """Translate what the framework raises for an unknown route or method; its own words may echo the input.

    Args:
        error: What it raised.
        methods: Those of all routes of the path; the framework knows the first one's.
    """
    if error.status_code == HTTPStatus.NOT_FOUND:
        return errors.NotFoundError("No such route.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = sorted({*methods, "HEAD"} if "GET" in methods else {*methods})
        return errors.MethodNotAllowedError("The route exists, but not for this method.", allow=", ".join(allowed))
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.RequestError("The request cannot be understood.")
    return ServiceError("The service failed; the log says why.")
