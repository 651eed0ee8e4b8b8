"""The HTTP application, put together from its routes and what stands around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn

from fastapi import APIRouter, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jetface.api.collections import collections_router
from jetface.api.compreface import compreface_router
from jetface.api.faces import compare_router, detect_router, draw_router, extract_router, recognize_router
from jetface.api.immich import immich_router
from jetface.api.openapi import GuardDocuments, describe, keep_redoc_offline
from jetface.api.page import page_router, read_page
from jetface.api.plates import plates_router
from jetface.api.routes import TIMEOUT_HEADER, ServeWithinLimits
from jetface.api.services import Services
from jetface.api.status import health_router, info_router, metrics_router, models_router
from jetface.server.drain import Drain
from jetface.server.encoding import from_http_exception
from jetface.server.limits import Door, Places, QuickRefusals
from jetface.server.middleware import (
    NO_SNIFFING,
    BelowRootPath,
    DirectRoutes,
    ErrorAnswers,
    HeadAsGet,
    ObserveRequests,
    OwnPath,
)
from jetface.server.protocol import Connections

if TYPE_CHECKING:
    from jetface.server.tracing import Tracing

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[Mapping[str, Any]]]


def create_api(
    services: Services,
    *,
    drain: Drain,
    places: Places,
    lifespan: Lifespan | None = None,
    connections: Connections | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Build the application. Starts nothing; `lifespan` does.

    Args:
        services: What the routes are made of.
        drain: Knows when the process is about to end.
        places: The places in flight; `drain` is given `places.abandon` to call when its grace is over.
        lifespan: Runs before the first and after the last request; what it yields, every connection is handed.
        connections: Told how to refuse at once.
        tracing: Where spans of requests go; None: nowhere.
    """
    metrics, limits, access, root_path = services.metrics, services.limits, services.access, services.root_path
    app = FastAPIOffline(
        title="jetface",
        version=services.info.version,
        description="Pictures in; faces out: boxes, landmarks, embeddings.",
        lifespan=lifespan,
        redirect_slashes=False,
        servers=[{"url": root_path or "/"}],
        # Nothing here collects traces, and whether somebody does is asked in the environment, once a request.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    pictures = (
        extract_router(services),
        detect_router(services),
        recognize_router(services),
        compare_router(services),
        draw_router(services),
        plates_router(services),
    )
    health = health_router(services, drain)
    routers = (
        *pictures,
        info_router(services),
        health,
        models_router(services),
        collections_router(services),
        compreface_router(services, services.compreface_collection, keys=(*access.api_keys, *access.read_api_keys)),
        immich_router(services),
        metrics_router(services),
        page_router(read_page(root_path)),
    )
    # `include_router` builds every route once more, on the event loop, when the first request comes that one serves.
    for route in _routes(routers):
        route.unique_id = route.name  # what generated clients call it
        app.router.routes.append(route)
    describe(app, access.is_open, has_keys=bool(access.api_keys or access.read_api_keys))
    keep_redoc_offline(app)
    app.add_exception_handler(HTTPException, _translate)
    app.add_exception_handler(Exception, _pass_on)
    metrics.watch(metrics.in_flight, lambda: places.num_taken)
    metrics.watch(metrics.aside, lambda: places.num_aside)
    metrics.watch(metrics.received, lambda: places.num_received)
    metrics.watch(metrics.ready, lambda: not drain.is_draining and services.models.readiness().is_ok)
    metrics.watch(metrics.body_bytes, lambda: services.byte_budget.held)
    metrics.body_bytes_limit.set(services.byte_budget.capacity)
    metrics.in_flight_limit.set(places.limit)
    metrics.request_timeout.set(limits.timeout_s)
    errors = ErrorAnswers(metrics)
    # Around all of the framework: what is refused here, or served directly, costs none of it.
    stack: ASGIApp = app.build_middleware_stack()
    if root_path:
        stack = BelowRootPath(stack, root_path=root_path)
    stack = GuardDocuments(stack)
    stack = HeadAsGet(stack)
    stack = DirectRoutes(stack, _routes((*pictures, health)))
    stack = ServeWithinLimits(stack, drain=drain, places=places, limits=limits, errors=errors)
    stack = door = Door(stack, access=access, max_body_bytes=limits.max_body_bytes)
    if connections is not None:
        connections.refuse = QuickRefusals(
            door,
            places=places,
            drain=drain,
            metrics=metrics,
            routes=[route.path for route in _routes(pictures)],
            root_path=root_path,
            has_cors=bool(access.cors_origins),
        ).answer
    paths = [route.path for route in _routes(routers)]
    stack = ObserveRequests(stack, metrics=metrics, errors=errors, drain=drain, paths=paths, tracing=tracing)
    stack = OwnPath(stack, root_path=root_path, paths=paths)
    if access.cors_origins:
        # Outside of all: a browser asks beforehand without a key, and shows a page no error without these headers.
        # No credentials: a key travels in a header that the page sets, and there are no cookies.
        stack = CORSMiddleware(
            stack,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type", "traceparent", "x-api-key", "x-request-id", TIMEOUT_HEADER],
            expose_headers=["retry-after", "server-timing", "x-ignored", "x-request-id"],
        )
        stack = _unsniffed(stack)
    app.middleware_stack = stack
    return app


def _unsniffed(app: ASGIApp) -> ASGIApp:
    """Mark what a middleware answers by itself as all other answers are marked."""

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start" and NO_SNIFFING not in message["headers"]:
                message = {**message, "headers": [*message["headers"], NO_SNIFFING]}
            await send(message)

        await app(scope, receive, send_marked)

    return marked


def _routes(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


async def _translate(request: Request, error: Any) -> NoReturn:
    """Let the framework's own errors take the way of ours."""
    methods = {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL
        for method in route.methods or ()
    }
    raise from_http_exception(error, methods) from None


async def _pass_on(_request: Request, error: Exception) -> NoReturn:
    """Keep the framework from answering what it did not foresee in words of its own: we do, around it."""
    raise error
