"""Every error of the client, as one tree.

JetfaceError
├─ UnreachableError          no answer: nothing listens, or the connection broke; attempts are used up
├─ DeadlineError             the caller's timeout, or the service's own deadline, passed
├─ AnswerError               an answer, but none of jetface's: a proxy's page, another service
├─ PictureError              the service could not read this picture; others are not concerned
└─ ServiceError              the service refused; `code` is the envelope's
   ├─ RequestRefusedError    4xx: the request is wrong and stays wrong
   │  └─ UnauthorizedError   401: no API key, or a wrong one
   ├─ BusyError              429, 503, 504 while a model loads: come back later; attempts are used up
   ├─ ModelUnavailableError  503: a model cannot be used; the operator has to act
   └─ ServerFaultError       5xx: the service failed; its log has the cause under `request_id`
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class JetfaceError(Exception):
    """Base of all errors of the client."""


class UnreachableError(JetfaceError):
    """No answer came, on any attempt; the last reason is the `__cause__`."""


class DeadlineError(JetfaceError):
    """Time ran out."""


class AnswerError(JetfaceError):
    """What came back is not what jetface answers."""


class PictureError(JetfaceError):
    """One picture could not be read. Raised by calls for a single picture; others return it in the picture's slot."""

    def __init__(self, message: str, *, code: str | None = None) -> None:
        """Create an error; `code` is None on routes that do not tell it."""
        super().__init__(message)
        self.message = message
        self.code = code


class ServiceError(JetfaceError):
    """The service answered with an error."""

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int,
        details: Mapping[str, Any],
        request_id: str,
        retry_after_s: float | None,
    ) -> None:
        """Create an error from the parts of an envelope and its answer."""
        super().__init__(f"{message} ({code}, HTTP {status}, request {request_id})")
        self.message = message
        self.code = code
        self.status = status
        self.details = details
        self.request_id = request_id
        self.retry_after_s = retry_after_s


class RequestRefusedError(ServiceError):
    """The request is wrong and stays wrong: a field, a size, a route."""


class UnauthorizedError(RequestRefusedError):
    """No API key, or a wrong one."""


class BusyError(ServiceError):
    """The service cannot answer now: no place is free, it shuts down, an engine is being built."""


class ModelUnavailableError(ServiceError):
    """A model's weights are missing or wrong: the operator has to act."""


class ServerFaultError(ServiceError):
    """The service failed."""
