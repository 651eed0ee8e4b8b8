"""What the routes are handed: the layers below, as the few calls they use, and the values they need to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Literal, Protocol

from jetface.device.telemetry import DeviceStatus
from jetface.domain import ExtractOptions, Image, KnownFaces, PictureResult
from jetface.imaging.sources import PictureSource
from jetface.runtimes.choose import Attempt
from jetface.server.limits import Access

ModelState = Literal["unloaded", "loading", "building", "serving", "failed"]
"""Where a model is in its life."""


class Extractor(Protocol):
    """Pictures in, faces out. A picture that cannot be read fails its own slot; all else raises `ServiceError`.

    `deadline` is `loop.time()` after which the answer is of no use. Results come in the order of the sources.
    """

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float
    ) -> list[PictureResult]:
        """Find the faces of each picture, and tell of them what is asked."""
        ...

    async def embed_crops(
        self, sources: Sequence[PictureSource], options: ExtractOptions = ..., *, deadline: float
    ) -> list[PictureResult]:
        """Embed pictures that are aligned crops already, or tell what is asked of them; each yields one face."""
        ...

    async def recognize(
        self, sources: Sequence[PictureSource], known: Sequence[KnownFaces], *, deadline: float
    ) -> list[PictureResult]:
        """Embed the faces of full pictures at the given places: as many faces per picture, in the same order."""
        ...


class LoadedPicture(Protocol):
    """A decoded picture."""

    @property
    def pixels(self) -> Image:
        """The whole picture, upright."""
        ...


class PictureLoader(Protocol):
    """Decodes a picture within the limits; its pixels count against the budget until the block is left."""

    def load(self, source: PictureSource, *, deadline: float) -> AbstractAsyncContextManager[LoadedPicture]:
        """Fetch if need be, and decode.

        Raises:
            RequestError: Not a picture, too large, refused.
        """
        ...


EngineState = Literal["absent", "building", "checking", "serving", "rejected"]
"""Where an engine is in its life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What an operator can know of a model's engine."""

    state: EngineState
    phase: str | None = None
    """What its build is doing; None unless it is built now."""
    elapsed_s: float | None = None
    """Seconds since its build began; None unless it is built now."""
    reason: str | None = None
    """Why it was rejected, one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What an operator can know of one registry entry."""

    name: str
    task: str
    family: str
    license: str
    source: str
    state: ModelState
    is_active: bool
    """Whether the settings chose it for a stage."""
    reason: str | None = None
    """Why its last load failed, or how far the one under way is."""
    backend: str | None = None
    engine: EngineFacts | None = None
    """None where no engines can be built."""
    is_batch_free: bool | None = None
    sha256: str | None = None
    """Of the file that serves; None where it is not loaded."""
    """Whether a run may take several items; False where the graph may mix them; None before it is loaded."""
    cpu_nodes: Sequence[str] = ()
    """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
    input_hw: tuple[int, int] | None = None
    """Height and width of the input; None when it takes any multiple of 32."""
    embedding_length: int | None = None
    match_threshold: float | None = None
    """Least similarity of one person, as the entry has it; None where it names none."""
    false_match_rate: float | None = None
    """Share of the pairs of two people that reach it; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes, or no with one sentence that says why."""

    is_ok: bool
    reason: str | None = None


class ModelsView(Protocol):
    """What the health and information routes see of the models. Calls return at once unless they are awaited."""

    def models(self) -> Sequence[ModelFacts]:
        """Every registry entry, by name."""
        ...

    def readiness(self) -> Verdict:
        """Whether requests can be served; a model that is lazily unloaded is ready."""
        ...

    def liveness(self) -> Verdict:
        """Whether no run of a model has been stuck for longer than the watchdog allows."""
        ...

    async def load(self, name: str, *, deadline: float) -> ModelFacts:
        """Load a model.

        Raises:
            NotFoundError: No such entry.
            ModelError: It cannot be loaded.
            DeadlineExceededError: It is still being loaded.
        """
        ...

    async def unload(self, name: str) -> ModelFacts:
        """Give a model's memory back; raises NotFoundError where there is no such entry."""
        ...

    async def reload(self, name: str, *, deadline: float) -> ModelFacts:
        """Load a model anew, by its file and the registry as they are now; errors are those of `load`."""
        ...

    async def self_check(self, *, deadline: float) -> Verdict:
        """Try what is loaded for real; loads nothing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestDefaults:
    """What a request means that does not say; named as in InsightFace-REST's `/info`."""

    det_thresh: float = 0.6
    extract_embedding: bool = True
    return_face_data: bool = False
    return_landmarks: bool = False
    extract_ga: bool = False
    detect_masks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """How much one request may ask for."""

    max_body_bytes: int = 64 * 2**20
    max_images: int = 128
    max_faces: int = 1024
    timeout_s: float = 30.0
    """Deadline of a request; a client may shorten it."""
    stall_s: float = 10.0
    """Longest silence within a body, and how long nearly nothing may come of it."""
    min_bytes_per_s: float = 1024.0
    """Slowest that a body may come in the long run: half a minute for a small photograph."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInfo:
    """What `/info` tells of the process; nothing secret."""

    version: str
    log_level: str
    max_size: tuple[int, int]
    """Width and height of the largest detector canvas, as the setting `MAX_SIZE` has it."""
    inference_backend: str
    """In InsightFace-REST's words, `trt` or `onnx`, or `openvino`; what each model runs on is in `models`."""
    det_batch_size: int
    rec_batch_size: int
    force_fp16: bool
    tensorrt_version: str | None = None
    attempts: tuple[Attempt, ...] = ()
    """What was tried at start to run models."""
    notice: str | None = None
    """What whoever uses the service should know of its models, one sentence or two."""
    device: Callable[[], DeviceStatus] = DeviceStatus
    """Tells what the machine is and how it fares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """The values the routes need."""

    info: ServiceInfo
    defaults: RequestDefaults = field(default_factory=RequestDefaults)
    limits: RequestLimits = field(default_factory=RequestLimits)
    access: Access = field(default_factory=Access)
    compreface_collection: str = "compreface"
    """Where the subjects of CompreFace's clients live."""
    root_path: str = ""
    """Path below which a proxy serves the service, without a slash at its end; empty: none."""
    match_threshold: Callable[[], float] = lambda: 0.35
    """Returns the least similarity of one person where a request names none; a model loaded anew may change it."""
