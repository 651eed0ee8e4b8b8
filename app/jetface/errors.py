"""Every error a caller can meet, as one tree.

    ServiceError                     HTTP   code
    ├─ RequestError                  422    invalid_request
    │  ├─ ImageDecodeError           422    image_decode
    │  ├─ ImageTooLargeError         413    image_too_large
    │  ├─ BodyTooLargeError          413    body_too_large
    │  ├─ HeadTooLongError           431    head_too_long
    │  ├─ MalformedRequestError      400    malformed_request
    │  ├─ UnsupportedMediaError      415    unsupported_media
    │  ├─ UrlRefusedError            422    url_refused
    │  ├─ NotFoundError              404    not_found
    │  ├─ MethodNotAllowedError      405    method_not_allowed
    │  ├─ RequestTimeoutError        408    request_timeout
    │  ├─ UnauthorizedError          401    unauthorized
    │  ├─ ForbiddenError             403    forbidden
    │  ├─ ConflictError              409    conflict
    │  │  └─ ModelMismatchError      409    model_mismatch
    │  └─ FaceRefusedError           422    face_refused
    │     ├─ NoFaceError             422    no_face
    │     ├─ SeveralFacesError       422    several_faces
    │     └─ PoorFaceError           422    poor_face
    ├─ CapacityError                 429    overloaded
    │  ├─ QueueFullError             429    queue_full         (+ Retry-After)
    │  ├─ DeadlineExceededError      504    deadline_exceeded  (+ Retry-After while a model loads)
    │  └─ ShuttingDownError          503    shutting_down      (+ Retry-After)
    ├─ ModelError                    503    model_unavailable
    │  ├─ ModelFileError             503    model_file
    │  ├─ ModelContractError         503    model_contract
    │  ├─ ModelBuildingError         503    model_building     (+ Retry-After)
    │  ├─ ModelLoadingError          503    model_loading      (+ Retry-After)
    │  ├─ ModelStuckError            503    model_stuck
    │  └─ MemoryPressureError        503    memory_pressure    (+ Retry-After)
    ├─ StorageError                  503    storage_failed
    │  └─ StorageFullError           507    storage_full
    └─ BackendError                  500    backend_error
       ├─ BackendUnavailableError    500    backend_unavailable
       ├─ EngineBuildError           500    engine_build
       ├─ EngineLoadError            500    engine_load
       └─ InferenceError             500    inference_failed
          ├─ DeviceMemoryError       503    device_memory      (+ Retry-After)
          └─ NotFiniteError          422    not_finite

`message` is written for the caller: one sentence, no path, no traceback, no echo of the input. What an operator needs
beyond it goes to the log, as the error's `__cause__`. The HTTP statuses live in `app/jetface/server/encoding.py`.
No face found is an empty list, not an error.
"""

from __future__ import annotations

from typing import ClassVar


class ServiceError(Exception):
    """Base of all errors; itself only where something happened that nobody foresaw."""

    code: ClassVar[str] = "internal_error"
    """What programs tell errors by."""
    remedy: ClassVar[str] = (
        "Tell the operator the `request_id`: the log has the cause under it. One more try does no harm."
    )
    """What whoever called can do; docs/errors.md is made from these."""

    def __init__(self, message: str, *, retry_after_s: float | None = None, **details: object) -> None:
        """Create an error.

        Args:
            message: One sentence for the caller.
            retry_after_s: Seconds after which a second try makes sense; None when it does not.
            details: Facts a program can act on, JSON-serialisable.
        """
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.details = details

    def copy(self) -> ServiceError:
        """Return an equal error of the same class: two callers must not share one exception object's traceback."""
        return type(self)(self.message, retry_after_s=self.retry_after_s, **self.details)


_IN_LOG = "; the log says why"


def told(error: ServiceError) -> str:
    """Return an error's message for who sees no log: with the cause where it speaks of one."""
    cause = " ".join(f"{error.__cause__ or ''}".split())
    return error.message.replace(_IN_LOG, f": {cause}") if cause else error.message


class RequestError(ServiceError):
    """The request cannot be understood or names what is not allowed. Raised while it is read, before any work."""

    code = "invalid_request"
    remedy = (
        "Mend the request: the message names the field, `details.fields` all of them. The same request fails again."
    )


class ImageDecodeError(RequestError):
    """A picture is empty, truncated, of no accepted format, or broken. Fails that picture's slot only."""

    code = "image_decode"
    remedy = "Send another picture, or this one saved anew; its neighbors in the request are answered."


class ImageTooLargeError(RequestError):
    """A picture's header claims more pixels than allowed. Raised before a pixel is decoded."""

    code = "image_too_large"
    remedy = "Shrink the picture: its header claims more than `MAX_IMAGE_PIXELS`."


class BodyTooLargeError(RequestError):
    """The body is longer than `MAX_BODY_BYTES`. Raised from the declared length, or while it streams in."""

    code = "body_too_large"
    remedy = "Send fewer or smaller pictures; `details.max_body_bytes` is the limit."


class HeadTooLongError(RequestError):
    """URL and headers are longer than 64 KiB. Raised before there is a request; the connection is closed."""

    code = "head_too_long"
    remedy = "Move options from the URL into the body; `details.max_head_bytes` is the limit."


class MalformedRequestError(RequestError):
    """What came is not HTTP/1.1, or contradicts itself. Raised by the parser; the connection is closed."""

    code = "malformed_request"
    remedy = "Use an HTTP library, or mend the proxy between; pipeline less."


class UnsupportedMediaError(RequestError):
    """The body's Content-Type is not one of those a route takes; the message lists them."""

    code = "unsupported_media"
    remedy = "Set one of the types in `details.accepted` as `Content-Type`; do not compress the body."


class UrlRefusedError(RequestError):
    """A picture's URL may not be fetched, or fetching it failed. Fails that picture's slot only."""

    code = "url_refused"
    remedy = "Send the picture itself, or ask the operator whether `URL_FETCH` or `ROOT_IMAGES_DIR` should allow it."


class NotFoundError(RequestError):
    """No such route or model."""

    code = "not_found"
    remedy = "Check the path, or the name against `GET /models`."


class MethodNotAllowedError(RequestError):
    """The route exists, but not for this method."""

    code = "method_not_allowed"
    remedy = "Use a method that the `Allow` header names."


class RequestTimeoutError(RequestError):
    """The headers or the body did not arrive in time."""

    code = "request_timeout"
    remedy = "Send again, over a better connection or in smaller pieces."


class UnauthorizedError(RequestError):
    """No API key, or a wrong one."""

    code = "unauthorized"
    remedy = "Send a key: `Authorization: Bearer KEY` or `x-api-key: KEY`. Do not try again with the same one."


class ForbiddenError(RequestError):
    """The API key may read only, and the request would change something."""

    code = "forbidden"
    remedy = "Use a key of `API_KEYS`; one of `READ_API_KEYS` changes nothing."


class ConflictError(RequestError):
    """What is to be made is there already, and differs."""

    code = "conflict"
    remedy = "Change what is there with `PATCH`, delete it first, or choose another id."


class ModelMismatchError(ConflictError):
    """The collection holds embeddings of another recognizer than the one that serves: they cannot be compared."""

    code = "model_mismatch"
    remedy = (
        "The operator serves the recognizer in `details.pinned`, or moves the collection to the new one: `jetface "
        "gallery reembed NAME` where crops are kept, else its people are enrolled anew from their pictures."
    )


class FaceRefusedError(RequestError):
    """A picture cannot be enrolled. Fails that picture's slot only."""

    code = "face_refused"
    remedy = "Send another picture of the person; its neighbors in the request are enrolled."


class NoFaceError(FaceRefusedError):
    """No face was found in a picture that has to show one."""

    code = "no_face"
    remedy = "Send a picture that shows the person's face, upright and not too small; or lower `threshold`."


class SeveralFacesError(FaceRefusedError):
    """Several faces were found in a picture that has to show one person; `details.faces` is their number."""

    code = "several_faces"
    remedy = "Cut the person out of the picture, or say `largest=true`."


class PoorFaceError(FaceRefusedError):
    """The face's quality is less than `min_quality`; `details.quality` is what it has."""

    code = "poor_face"
    remedy = "Send a sharper, larger, better lit picture that is taken from the front; or lower `min_quality`."


class CapacityError(ServiceError):
    """The service could answer, but not now. Raised at the door or by a queue."""

    code = "overloaded"
    remedy = "Try again after `Retry-After` seconds, with growing pauses and some chance in them."


class QueueFullError(CapacityError):
    """Too many requests are in flight or waiting; `retry_after_s` says when a place is likely."""

    code = "queue_full"
    remedy = "Try again after `Retry-After` seconds; keep fewer requests in flight."


class DeadlineExceededError(CapacityError):
    """The request's deadline passed before its answer was ready.

    While a model loads, `details` has `model`, `phase` and `progress` (0 to 1, null where it is not known).
    """

    code = "deadline_exceeded"
    remedy = (
        "With `Retry-After` a model is being loaded: try again then. Else send fewer pictures a request, or allow more "
        "time if you shortened it by `x-request-timeout-ms`."
    )


class ShuttingDownError(CapacityError):
    """The process drains: requests in flight are answered, new ones are not taken."""

    code = "shutting_down"
    remedy = "Send the request again at once: another process of the service answers it, or this one's successor."


class ModelError(ServiceError):
    """A model the request needs cannot be used."""

    code = "model_unavailable"
    remedy = "Tell the operator; `GET /models` has the state and the reason."


class ModelFileError(ModelError):
    """A model's file is missing or fails its checksum."""

    code = "model_file"
    remedy = "The operator supplies the file that `GET /models` names; a later request tries again."


class ModelContractError(ModelError):
    """A graph is not what its registry entry says; the message tells what was found."""

    code = "model_contract"
    remedy = "The operator mends the model's registry entry or its file; `GET /models` has what was found."


class ModelBuildingError(ModelError):
    """The model's engine is being built and nothing else can answer meanwhile."""

    code = "model_building"
    remedy = "Try again after `Retry-After` seconds; `GET /health/ready` shows the progress."


class ModelLoadingError(ModelError):
    """The model is being loaded, and as many requests wait for loads as may.

    `details` has `model`, `phase` and `progress` (0 to 1, null where it is not known).
    """

    code = "model_loading"
    remedy = "Try again after `Retry-After` seconds; `details` has how far the load is."


class ModelStuckError(ModelError):
    """Opening the model hangs, in a library or a driver. Other models serve on; `/health/live` says no."""

    code = "model_stuck"
    remedy = "Tell the operator: the process has to be restarted; `GET /models` has the reason."


class MemoryPressureError(ModelError):
    """Loading a model or building its engine would take the memory that must stay free. What is loaded still serves."""

    code = "memory_pressure"
    remedy = (
        "Try again after `Retry-After` seconds, or another instance; the operator frees memory, names a smaller model "
        "or lowers `MIN_FREE_MEMORY_BYTES`."
    )


class StorageError(ServiceError):
    """The gallery's storage failed; nothing of the request was stored. What is in memory is still searched."""

    code = "storage_failed"
    remedy = "Tell the operator: the log has the cause; `jetface gallery check` looks at the storage."


class StorageFullError(StorageError):
    """The gallery's disk is full; nothing of the request was stored. Searches go on."""

    code = "storage_full"
    remedy = "The operator makes room on the disk of `GALLERY_DIR`; then the same request is stored."


class BackendError(ServiceError):
    """The inference backend failed."""

    code = "backend_error"
    remedy = "As `internal_error`."


class BackendUnavailableError(BackendError):
    """The backend asked for by name cannot be had here. Raised at start."""

    code = "backend_unavailable"
    remedy = "None: the service does not start. The operator follows the message, or sets `BACKEND=auto`."


class EngineBuildError(BackendError):
    """An engine could not be built; the message says why. Another backend serves meanwhile, where there is one."""

    code = "engine_build"
    remedy = "None: the operator follows the message, in the log and at `/models`."


class EngineLoadError(BackendError):
    """A plan is damaged, or was built for another device or version; it is built anew."""

    code = "engine_load"
    remedy = "None: the service builds the engine anew."


class InferenceError(BackendError):
    """A run of a model failed; the cause is in the log."""

    code = "inference_failed"
    remedy = "Try again once; then tell the operator the `request_id`."


class DeviceMemoryError(InferenceError):
    """The GPU's memory did not suffice for a run, nor for its halves. What the model held there is given back."""

    code = "device_memory"
    remedy = (
        "Try again after `Retry-After` seconds; the operator frees memory of the GPU, or lowers `DET_BATCH_SIZE` and "
        "`REC_BATCH_SIZE`."
    )


class NotFiniteError(InferenceError):
    """A model answered with numbers that are not finite, or with zeros. Fails the slot of the picture it was about."""

    code = "not_finite"
    remedy = (
        "Send another picture, or this one saved anew; its neighbors in the request are answered. Where many fail so, "
        "tell the operator: the model's file or its half precision is at fault."
    )
