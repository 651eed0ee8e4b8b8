"""The OpenAPI description: FastAPI writes it from the answers; what it cannot know of requests is added here.

The routes read bodies by themselves, so FastAPI takes their description from `openapi_extra`.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.api import collection_schemas
from jetface.api import requests as schemas
from jetface.api.answers import ErrorAnswer
from jetface.api.bodies import FILE_FIELD, JSON_TYPE, LINES_TYPES, MULTIPART_TYPE, OTHER_FIELD, PICTURE_TYPES
from jetface.api.examples import EXAMPLES, PARAMETERS
from jetface.api.requests import CompareFields
from jetface.server.encoding import MSGPACK_TYPE

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
_BINARY = {"type": "string", "format": "binary"}
_JPEG = {"description": "A JPEG.", "content": {"image/jpeg": {"schema": _BINARY}}}
_LINES = (
    "Lines of JSON, each an object with one key. `collection`: its name, model and metadata. `person`: id, name, "
    "metadata. `face`: id, person, quality, model (checksum), vector (base64 of little-endian float32), crop (base64 "
    "of a JPEG)."
)
_JPEG_ALONE = {"response_class": Response}
"""Else FastAPI tells of JSON beside it."""
READ_ONLY = "The API key may read only."
_ERRORS: dict[int, str] = {
    408: "The body did not arrive in time.",
    413: "The body is too long.",
    415: "The Content-Type is missing or not accepted.",
    422: "The request cannot be understood.",
    429: "No place is free; see Retry-After.",
    500: "The service failed.",
    503: "A model or the gallery cannot be had, or the service is shutting down.",
    504: "The deadline passed.",
}
_GALLERY_ERRORS: dict[int, str] = {
    403: READ_ONLY,
    404: "It is not there, or the gallery is off.",
    409: "What is there differs; or the collection is of another recognizer.",
    507: "The gallery's disk is full.",
}
_OF_BODIES = frozenset({408, 413, 415})
_OF_READING = frozenset({404, 422, 500, 503})
_OF_EXPORT = _OF_READING | {403}
_SECURITY_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "One of `API_KEYS` or `READ_API_KEYS`."},
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "The same."},
}
_NOT_GIVEN: tuple[object, ...] = (None, "", [], {})


def documented(
    body: type[BaseModel],
    options: type[BaseModel],
    answer: type[Any] | None,
    *,
    in_gallery: bool = False,
    off: str | None = None,
) -> dict[str, Any]:
    """Return the arguments of `router.post` that describe a route of pictures.

    Args:
        body: Model of its JSON.
        options: What of that a form or the query can say.
        answer: Shape of its answer; None: a JPEG.
        in_gallery: Whether it is one of the gallery's.
        off: When it answers 404.
    """
    errors = {**(_GALLERY_ERRORS if in_gallery else {}), **({404: off} if off else {}), **_ERRORS}
    fields = {name: _field(schema) for name, schema in options.model_json_schema()["properties"].items()}
    pictures = {"type": "array", "items": _BINARY}
    parts = {FILE_FIELD: pictures, **({OTHER_FIELD: pictures} if issubclass(options, CompareFields) else {})}
    form = {"type": "object", "required": [FILE_FIELD], "properties": {**parts, **fields}}
    packed = {**_BINARY, "description": "The fields of `application/json` as msgpack; pictures are bytes."}
    content = {
        JSON_TYPE: {"schema": {"$ref": _REF.format(model=body.__name__)}},
        "application/msgpack": {"schema": packed},
        **{kind: {"schema": _BINARY} for kind in PICTURE_TYPES},
        MULTIPART_TYPE: {"schema": form},
    }
    return {
        **(_JPEG_ALONE if answer is None else {}),
        "responses": {200: _JPEG if answer is None else {"model": answer}, **_told(errors)},
        "openapi_extra": {
            "requestBody": {"required": True, "content": content},
            "parameters": _query(fields, "With a form or a picture as body. "),
        },
        "response_model": None,
    }


def documented_fields(body: type[BaseModel], answer: type[Any], *, created: bool = False) -> dict[str, Any]:
    """Return the arguments that describe a route of the gallery whose body has no pictures; `created`: or 201."""
    answers: dict[int | str, dict[str, Any]] = {
        status: {"model": answer} for status in ((200, 201) if created else (200,))
    }
    return {
        "responses": {**answers, **_told(_GALLERY_ERRORS | _ERRORS)},
        "openapi_extra": {
            "requestBody": {
                "required": True,
                "description": "Also as msgpack, `application/msgpack`.",
                "content": {JSON_TYPE: {"schema": {"$ref": _REF.format(model=body.__name__)}}},
            }
        },
        "response_model": None,
    }


def documented_change(answer: type[Any], *, errors: dict[int, str] = _GALLERY_ERRORS) -> dict[str, Any]:
    """Return the arguments that describe a route without a body that changes something; `errors`: its own."""
    told = {status: text for status, text in _ERRORS.items() if status not in _OF_BODIES}
    return {"responses": {200: {"model": answer}, **_told(errors | told)}, "response_model": None}


def documented_list(
    answer: type[Any] | None, query: type[BaseModel] | None = None, *, errors: dict[int, str] = _GALLERY_ERRORS
) -> dict[str, Any]:
    """Return the arguments that describe a route that reads, whose query may have options; answer None: a JPEG."""
    told = {status: text for status, text in (errors | _ERRORS).items() if status in _OF_READING}
    properties = {} if query is None else query.model_json_schema()["properties"]
    fields = {name: _field(schema) for name, schema in properties.items()}
    return {
        **(_JPEG_ALONE if answer is None else {}),
        "responses": {200: _JPEG if answer is None else {"model": answer}, **_told(told)},
        "openapi_extra": {"parameters": _query(fields)},
        "response_model": None,
    }


def documented_lines(answer: type[Any] | None) -> dict[str, Any]:
    """Return the arguments that describe a route of a collection's lines, which are sent; answer None: answered."""
    if answer is None:
        lines = {"description": _LINES, "content": {kind: {"schema": _BINARY} for kind in LINES_TYPES}}
        told = {status: text for status, text in (_GALLERY_ERRORS | _ERRORS).items() if status in _OF_EXPORT}
        return {**_JPEG_ALONE, "responses": {200: lines, **_told(told)}, "response_model": None}
    own, plain = LINES_TYPES
    # Generators refuse a body of a type that they do not know, whatever stands beside it.
    body = {"required": True, "description": f"Also as `{own}`. {_LINES}", "content": {plain: {"schema": _BINARY}}}
    return {
        "responses": {200: {"model": answer}, **_told(_GALLERY_ERRORS | _ERRORS)},
        "openapi_extra": {"requestBody": body},
        "response_model": None,
    }


def describe(app: FastAPI, is_open: Callable[[str], bool], *, has_keys: bool) -> None:
    """Let the application's description have what FastAPI cannot know.

    Args:
        app: Has all routes.
        is_open: Tells of a path whether it can be asked for without a key.
        has_keys: Whether the others need one.
    """
    write = app.openapi

    def whole() -> dict[str, Any]:
        is_new = app.openapi_schema is None
        description = write()
        if is_new:
            _, found = models_json_schema([(body, "validation") for body in _BODIES], ref_template=_REF)
            error = TypeAdapter(ErrorAnswer).json_schema(ref_template=_REF)
            described = description["components"]
            described["schemas"] |= {
                **error.pop("$defs"),
                ErrorAnswer.__name__: error,
                **{name: _requested(schema) for name, schema in found["$defs"].items()},
            }
            described["securitySchemes"] = _SECURITY_SCHEMES
            description["security"] = [*([] if has_keys else [{}]), *({name: []} for name in _SECURITY_SCHEMES)]
            for path, operation in _operations(description):
                _complete(operation, is_open=is_open(path))
        return description

    # FastAPI documents this as the way to extend the description.
    app.openapi = whole  # type: ignore[method-assign]


def _operations(description: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in description["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete(operation: dict[str, Any], *, is_open: bool) -> None:
    """Add to a route what all have: a summary, its answers as msgpack, what comes without a key, an example."""
    summary, *rest = re.split(r"\.\s+", operation.pop("description"), maxsplit=1)
    operation["summary"] = " ".join(summary.rstrip(".").split())
    if rest:
        operation["description"] = rest[0]
    answers = operation["responses"]
    if is_open:
        operation["security"] = []
    else:
        answers["401"] = _error("No API key, or a wrong one.")
    for answer in answers.values():
        content = answer.get("content", {})
        if JSON_TYPE in content:
            content[MSGPACK_TYPE] = content[JSON_TYPE]
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["example"] = PARAMETERS[parameter["name"]]
    if (example := EXAMPLES.get(operation["operationId"])) is not None:
        shown = operation.get("requestBody") or answers["200"]
        of_type = JSON_TYPE if JSON_TYPE in shown["content"] else next(iter(shown["content"]))
        shown["content"][of_type] = {**shown["content"][of_type], "example": example}


def _told(errors: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {status: _error(text) for status, text in errors.items()}


def _error(text: str) -> dict[str, Any]:
    """Describe an error by reference: FastAPI would build the same type anew for each of some 300 of them."""
    return {"description": text, "content": {JSON_TYPE: {"schema": {"$ref": _REF.format(model=ErrorAnswer.__name__)}}}}


def _query(fields: dict[str, dict[str, Any]], prefix: str = "") -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": prefix + schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key != "description"},
        }
        for name, schema in fields.items()
    ]


def _requested(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a body, or a part of one, with `_field` done to its fields."""
    return {**schema, "properties": {name: _field(each) for name, each in schema.get("properties", {}).items()}}


def _field(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a request's field as generated clients do best with it.

    A default is told in words: many take a field that has one for a field that has to be sent, or send it themselves.
    Null, which is the same as not to send it, is left out.
    """
    told = {key: value for key, value in schema.items() if key not in {"anyOf", "default", "title"}}
    choices = [each for each in schema.get("anyOf", ()) if each != {"type": "null"}]
    told = {**choices[0], **told} if len(choices) == 1 else {**told, **({"anyOf": choices} if choices else {})}
    if (default := schema.get("default")) not in _NOT_GIVEN:
        said = orjson.dumps(default).decode().strip('"')
        told["description"] = f"{told.get('description', '')} Default: {said}.".strip()
    return told


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
