"""The short way to a route: what the framework does between the path and the function is most of a small request."""

from __future__ import annotations

from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class DirectRoutes:
    """Calls functions that take a request and return a response by themselves; everything else is the framework's.

    The framework has the same routes, for its description of them; for them it would match every route, solve
    dependencies and keep stacks of files to close, of which these functions have none.
    """

    def __init__(self, app: ASGIApp, routes: Iterable[APIRoute]) -> None:
        """Take what is served directly, and what all else is left to.

        Args:
            app: The framework's application.
            routes: Each of a path without parameters, whose function takes the request alone and is a coroutine.
        """
        self._app = app
        self._routes = {(method, route.path): route for route in routes for method in route.methods or ()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        route = self._routes.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        response = await route.endpoint(Request(scope, receive, send))
        await response(scope, receive, send)
