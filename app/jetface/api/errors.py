"""Errors to answers: one table of statuses, one envelope."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from math import ceil
from types import MappingProxyType

from starlette.exceptions import HTTPException

from jetface import errors
from jetface.errors import ServiceError

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
    }
)
"""The status of a class is that of its nearest ancestor here."""


def status_of(kind: type[ServiceError]) -> HTTPStatus:
    """Return the HTTP status an error of class `kind` is answered with."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def envelope(error: ServiceError, request_id: str) -> dict[str, object]:
    """Return the body every error is answered with."""
    return {
        "error": {"code": error.code, "message": error.message, "details": error.details},
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


def from_http_exception(error: HTTPException) -> ServiceError:
    """Translate what the framework raises for an unknown route or method; its own words may echo the input."""
    if error.status_code == HTTPStatus.NOT_FOUND:
        return errors.NotFoundError("No such route.")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        methods = {method.strip() for method in (error.headers or {}).get("Allow", "").split(",")}
        allowed = sorted(methods | {"HEAD"} if "GET" in methods else methods)
        return errors.MethodNotAllowedError("The route exists, but not for this method.", allow=", ".join(allowed))
    if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return errors.RequestError("The request cannot be understood.")
    return ServiceError("The service failed; the log says why.")
