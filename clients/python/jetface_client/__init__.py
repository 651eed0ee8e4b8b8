"""Typed client of jetface: pictures in, faces and licence plates out.

`Client` and `AsyncClient` are thin: what a request looks like, what an answer means and when to try again is said once,
in pure functions that neither sleep nor send (`calls`, `exchange`). Knows the wire, nothing of the service's code.
"""

from jetface_client.async_client import AsyncClient, AsyncCollection, AsyncCollections
from jetface_client.client import Client, Collection, Collections
from jetface_client.errors import (
    AnswerError,
    BusyError,
    DeadlineError,
    JetfaceError,
    ModelUnavailableError,
    PictureError,
    RequestRefusedError,
    ServerFaultError,
    ServiceError,
    UnauthorizedError,
    UnreachableError,
)
from jetface_client.gallery import (
    CollectionInfo,
    Enrolled,
    EnrolOptions,
    FoundFace,
    Imported,
    Match,
    Nearest,
    Person,
    SearchedPicture,
    SearchOptions,
    StoredFace,
)
from jetface_client.options import ExtractOptions
from jetface_client.results import (
    Comparison,
    ComparisonMatrix,
    Face,
    Info,
    Model,
    Picture,
    PictureFailure,
    Plate,
    PlatesPicture,
    Quality,
    Readiness,
)
from jetface_client.retries import RetryPolicy
from jetface_client.sources import PictureSource, Url, find_pictures

__version__ = "0.1.0"

__all__ = [
    "AnswerError",
    "AsyncClient",
    "AsyncCollection",
    "AsyncCollections",
    "BusyError",
    "Client",
    "Collection",
    "CollectionInfo",
    "Collections",
    "Comparison",
    "ComparisonMatrix",
    "DeadlineError",
    "EnrolOptions",
    "Enrolled",
    "ExtractOptions",
    "Face",
    "FoundFace",
    "Imported",
    "Info",
    "JetfaceError",
    "Match",
    "Model",
    "ModelUnavailableError",
    "Nearest",
    "Person",
    "Picture",
    "PictureError",
    "PictureFailure",
    "PictureSource",
    "Plate",
    "PlatesPicture",
    "Quality",
    "Readiness",
    "RequestRefusedError",
    "RetryPolicy",
    "SearchOptions",
    "SearchedPicture",
    "ServerFaultError",
    "ServiceError",
    "StoredFace",
    "UnauthorizedError",
    "UnreachableError",
    "Url",
    "find_pictures",
]
