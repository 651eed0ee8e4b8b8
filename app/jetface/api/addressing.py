"""Requests that mean a route without naming it exactly: below a proxy's path, with a slash too many, or by `HEAD`."""

from __future__ import annotations

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class OwnPath:
    """Serves `/extract/` as `/extract`; and where a proxy serves the service as `/faces`, `/faces/extract` too.

    The framework would answer the first with a redirect to whatever host the client's `Host` header names. Outermost,
    so that whoever decides by the path, decides by the one that is served: a probe needs no key below a path either.
    """

    def __init__(self, app: ASGIApp, *, root_path: str, paths: Collection[str]) -> None:
        """Take what is passed on to.

        Args:
            app: What serves the service's own paths.
            root_path: Where a proxy serves them, such as `/faces`; empty: as they are.
            paths: The service's own, which come as they are where the proxy takes `root_path` off.
        """
        self._app = app
        self._root_path = root_path
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on by its own path."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.endswith("/"):
                path = path[:-1] or "/"
            if self._root_path and path not in self._paths and (path + "/").startswith(self._root_path + "/"):
                path = path[len(self._root_path) :] or "/"
            scope["path"] = path
        await self._app(scope, receive, send)


class BelowRootPath:
    """Tells the framework of `root_path`, and the path as it then expects it: with that before it."""

    def __init__(self, app: ASGIApp, *, root_path: str) -> None:
        self._app = app
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        own_path = scope["path"]
        scope["path"], scope["root_path"] = self._root_path + own_path, self._root_path
        try:
            await self._app(scope, receive, send)
        finally:
            scope["path"] = own_path


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
