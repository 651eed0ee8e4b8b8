"""Who may come in: decided from the headers alone, before a byte of the body is read."""

from __future__ import annotations

import hashlib
import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.context import RequestContext, context_in
from app.api.services import Access
from app.errors import BodyTooLargeError, RequestError, UnauthorizedError

_BEARER = "bearer "


class Door:
    """Checks the API key, then the declared length of the body."""

    def __init__(self, app: ASGIApp, *, access: Access, max_body_bytes: int) -> None:
        self._app = app
        self._access = access
        self._max_body_bytes = max_body_bytes
        self._digests = [_digest(key) for key in access.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or raise.

        Raises:
            UnauthorizedError: No key, or a wrong one.
            BodyTooLargeError: The declared body is too long.
        """
        if scope["type"] == "http":
            context = context_in(scope)
            declared = context.header(b"content-length")
            context.is_body_read = declared in (None, "0") and b"transfer-encoding" not in context.headers
            if self._digests and not self._is_open(scope["path"]):
                self._check_key(context)
            context.body_bytes = self._declared_bytes(declared)
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._access.open_paths or path.startswith(self._access.open_prefixes)

    def _check_key(self, context: RequestContext) -> None:
        authorization = context.header(b"authorization") or ""
        bearer = authorization[len(_BEARER) :] if authorization[: len(_BEARER)].lower() == _BEARER else ""
        given = _digest(context.header(b"x-api-key") or bearer)
        # Every key is compared, so that the time taken does not tell which one nearly fitted.
        if not any([hmac.compare_digest(given, digest) for digest in self._digests]):  # noqa: C419 - no short cut
            raise UnauthorizedError("An API key is needed: `Authorization: Bearer KEY` or `x-api-key: KEY`.")

    def _declared_bytes(self, declared: str | None) -> int | None:
        """Return the length of the body; None when it is not declared."""
        if declared is None:
            return None
        if not (declared.isascii() and declared.isdigit()):
            raise RequestError("The Content-Length header is not a number.")
        if len(declared) > 18 or int(declared) > self._max_body_bytes:
            raise BodyTooLargeError("The body is too long.", max_body_bytes=self._max_body_bytes)
        return int(declared)


def _digest(key: str) -> bytes:
    """Hash a key without the blanks around it: what is kept cannot be used, and all compared have one length."""
    return hashlib.sha256(key.strip().encode("utf-8", "surrogateescape")).digest()
