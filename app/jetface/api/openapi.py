"""The OpenAPI description: FastAPI writes it for the answers; bodies are read by hand, so they are described here."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, TypeAdapter
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.api import collection_schemas
from jetface.api import requests as schemas
from jetface.api.answers import ErrorAnswer
from jetface.api.bodies import FILE_FIELD, JSON_TYPE, MULTIPART_TYPE, OTHER_FIELD, PICTURE_TYPES
from jetface.api.requests import CompareFields

_PAGES = frozenset({"/docs", "/redoc", "/docs/oauth2-redirect"})
_INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_DOCUMENT_POLICY = (
    b"default-src 'none'; script-src %b; connect-src 'self'; img-src 'self' data:; font-src 'self' data:; "
    # Both write their styles into the page, and Redoc searches in a worker of its own making.
    b"style-src 'self' 'unsafe-inline'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REF = "#/components/schemas/{model}"
_REDOC = "redoc.standalone.js"
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
"""Built into Redoc; all that its page asks of another host."""
_NO_LOGO = b"data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg'/%3E"
_BODIES: tuple[type[BaseModel], ...] = (
    schemas.ExtractBody,
    schemas.DetectBody,
    schemas.RecognizeBody,
    schemas.CompareBody,
    schemas.DrawBody,
    schemas.PlatesBody,
    collection_schemas.EnrolBody,
    collection_schemas.SearchBody,
    collection_schemas.IdentifyBody,
    collection_schemas.CollectionBody,
    collection_schemas.PersonBody,
    collection_schemas.PersonChanges,
    collection_schemas.DeleteFacesBody,
)


def _error(description: str) -> dict[str, Any]:
    """Describe an error by reference: FastAPI would build the same type anew for each of some 300 of them."""
    return {"description": description, "content": {JSON_TYPE: {"schema": {"$ref": _REF.format(model="ErrorAnswer")}}}}


_ERRORS: dict[int | str, dict[str, Any]] = {
    401: _error("No API key, or a wrong one."),
    408: _error("The body did not arrive in time."),
    413: _error("The body is too long."),
    415: _error("The Content-Type is missing or not accepted."),
    422: _error("The request cannot be understood."),
    429: _error("No place is free; see Retry-After."),
    500: _error("The service failed."),
    503: _error("A model cannot be had, or the service is shutting down."),
    504: _error("The deadline passed."),
}

_CHANGE_ERRORS: dict[int | str, dict[str, Any]] = {
    403: _error("The API key may read only."),
    404: _error("It is not there, or the gallery is off."),
    409: _error("What is there differs; or the collection is of another recognizer."),
    507: _error("The gallery's disk is full."),
}


def documented(
    body: type[BaseModel],
    options: type[BaseModel],
    answer: type[Any],
    *,
    in_gallery: bool = False,
    off: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of `router.post` that describe a route of pictures; `off`: when it answers 404."""
    errors = {**_CHANGE_ERRORS, **_ERRORS} if in_gallery else _ERRORS
    if off is not None:
        errors = {404: _error(off), **errors}
    return {
        "responses": {200: {"model": answer, "content": {"application/x-msgpack": {}}}, **errors},
        "openapi_extra": _extra(body, options),
        "response_model": None,
    }


def documented_picture(body: type[BaseModel], options: type[BaseModel]) -> dict[str, Any]:
    """Return the arguments of `router.post` that describe a route that answers with a JPEG."""
    answer = {"description": "A JPEG.", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
    return {
        "responses": {200: answer, **_ERRORS},
        "openapi_extra": _extra(body, options),
        "response_model": None,
    }


def documented_fields(body: type[BaseModel], answer: type[BaseModel], *, created: bool = False) -> dict[str, Any]:
    """Return the arguments that describe a route whose body has no pictures; `created`: it may answer 201."""
    schema = {"schema": {"$ref": _REF.format(model=body.__name__)}}
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": answer} for status in ((200, 201) if created else (200,))
    }
    return {
        "responses": {**answers, **_CHANGE_ERRORS, **_ERRORS},
        "openapi_extra": {
            "requestBody": {"required": True, "content": {JSON_TYPE: schema, "application/msgpack": schema}}
        },
        "response_model": None,
    }


def documented_list(answer: type[BaseModel], query: type[BaseModel] | None = None) -> dict[str, Any]:
    """Return the arguments that describe a route without a body, whose query may have options."""
    fields = {} if query is None else query.model_json_schema()["properties"]
    return {
        "responses": {200: {"model": answer}, **_CHANGE_ERRORS, **_ERRORS},
        "openapi_extra": {
            "parameters": [
                {
                    "name": name,
                    "in": "query",
                    "required": False,
                    "description": schema.get("description", ""),
                    "schema": {key: value for key, value in schema.items() if key != "description"},
                }
                for name, schema in fields.items()
            ]
        },
        "response_model": None,
    }


def documented_image() -> dict[str, Any]:
    """Return the arguments that describe a route without a body that answers with a JPEG."""
    answer = {"description": "A JPEG.", "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
    return {"responses": {200: answer, 404: _CHANGE_ERRORS[404], **_ERRORS}, "response_model": None}


def describe_bodies(app: FastAPI) -> None:
    """Let the application's description carry the schemas its request bodies refer to."""
    write = app.openapi

    def with_bodies() -> dict[str, Any]:
        if app.openapi_schema is None:
            described: list[tuple[type, Literal["validation"], TypeAdapter[Any]]] = [
                (each, "validation", TypeAdapter(each)) for each in (*_BODIES, ErrorAnswer)
            ]
            _, found = TypeAdapter.json_schemas(described, ref_template=_REF)
            components = write()["components"]["schemas"]
            components.update(found["$defs"])
        return write()

    # FastAPI documents this as the way to extend the description.
    app.openapi = with_bodies  # type: ignore[method-assign]


def keep_redoc_offline(app: FastAPI) -> None:
    """Let the application serve Redoc without its maker's logo: a page that is read tells nobody."""

    def redoc(_request: Request) -> Response:
        script = (resources.files("fastapi_offline") / "static" / _REDOC).read_bytes()
        return Response(script.replace(_REDOC_LOGO, _NO_LOGO), media_type="text/javascript")

    # Before the mount that has the file as its maker ships it.
    app.router.routes.insert(0, Route(f"/static-offline-docs/{_REDOC}", redoc))


class GuardDocuments:
    """Lets the pages that describe the API run their own scripts and talk to this service, and nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        """Guard what `jetface` answers as HTML under the paths of these pages."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; the answer is held back until it is known what its page has inside."""
        if scope["type"] != "http" or scope["path"] not in _PAGES:
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def send_guarded(message: Message) -> None:
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                policy = _policy(b"".join(each.get("body", b"") for each in held))
                held[0]["headers"] = [*held[0]["headers"], (b"content-security-policy", policy)]
                for each in held:
                    await send(each)

        await self._app(scope, receive, send_guarded)


def _policy(page: bytes) -> bytes:
    """Return a Content-Security-Policy that names the scripts inside a page by what they hash to."""
    digests = [base64.b64encode(hashlib.sha256(script).digest()) for script in _INLINE_SCRIPT.findall(page)]
    scripts = b" ".join([b"'self'", *(b"'sha256-%b'" % digest for digest in digests)])
    return _DOCUMENT_POLICY % scripts


def _extra(body: type[BaseModel], options: type[BaseModel]) -> dict[str, Any]:
    flat = options.model_json_schema()
    fields = dict(flat["properties"])
    pictures: dict[str, Any] = {"type": "array", "items": {"type": "string", "format": "binary"}}
    parts = {FILE_FIELD: pictures, **({OTHER_FIELD: pictures} if issubclass(options, CompareFields) else {})}
    reference = {"$ref": _REF.format(model=body.__name__)}
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": [FILE_FIELD], "properties": {**parts, **fields}}
    return {
        "requestBody": {
            "required": True,
            "content": {
                JSON_TYPE: {"schema": reference},
                "application/msgpack": {"schema": reference},
                MULTIPART_TYPE: {"schema": form},
                **dict.fromkeys(PICTURE_TYPES, binary),
            },
        },
        "parameters": [
            {
                "name": name,
                "in": "query",
                "required": False,
                "description": "With a multipart or picture body. " + schema.get("description", ""),
                "schema": {key: value for key, value in schema.items() if key != "description"},
            }
            for name, schema in fields.items()
        ],
    }
