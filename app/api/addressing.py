"""Requests that mean a route without naming it exactly: `HEAD`, and a slash too many."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class IgnoreTrailingSlash:
    """Serves `/extract/` as `/extract`.

    The framework would answer with a redirect to whatever host the client's `Host` header names. Outermost, so that
    whoever decides by the path, decides by the one that is served.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, one slash shorter."""
        if scope["type"] == "http" and scope["path"].endswith("/"):
            scope["path"] = scope["path"][:-1] or "/"
        await self._app(scope, receive, send)


class HeadAsGet:
    """Answers `HEAD` as `GET`, without the body: what probes and link checkers send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; status and headers come back, `Content-Length` among them."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A copy: the server goes by its own method when it counts what is sent.
        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, send_head)
        finally:
            if "route" in asked:
                scope["route"] = asked["route"]
