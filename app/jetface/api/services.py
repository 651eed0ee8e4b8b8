"""What the routes are handed: the layers below, as the few calls they use, and the values they need to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from jetface.api.answers import ModelAnswer
from jetface.api.bodies import Bodies
from jetface.api.requests import RequestDefaults, RequestLimits
from jetface.device.telemetry import DeviceStatus
from jetface.domain import ExtractOptions, Image, KnownFaces, PictureResult, PlateOptions
from jetface.gallery.people import People
from jetface.heads.families import FAMILIES
from jetface.imaging.budget import ByteBudget
from jetface.imaging.sources import PictureSource
from jetface.metrics import Metrics
from jetface.pipeline.pictures import WorkPool
from jetface.registry import ModelSpec
from jetface.runtimes.choose import Attempt
from jetface.server.encoding import Answers
from jetface.server.limits import Access


class Extractor(Protocol):
    """Pictures in, faces out. A picture that cannot be read fails its own slot; all else raises `ServiceError`.

    `deadline` is `loop.time()` after which the answer is of no use; `whose` answers may be given again from memory,
    nobody's where it is None. Results come in the order of the sources.
    """

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float, whose: str | None = ...
    ) -> list[PictureResult]:
        """Find the faces of each picture, and tell of them what is asked."""
        ...

    async def embed_crops(
        self,
        sources: Sequence[PictureSource],
        options: ExtractOptions = ...,
        *,
        deadline: float,
        whose: str | None = ...,
    ) -> list[PictureResult]:
        """Embed pictures that are aligned crops already, or tell what is asked of them; each yields one face."""
        ...

    async def recognize(
        self,
        sources: Sequence[PictureSource],
        known: Sequence[KnownFaces],
        *,
        deadline: float,
        whose: str | None = ...,
    ) -> list[PictureResult]:
        """Embed the faces of full pictures at the given places: as many faces per picture, in the same order."""
        ...


class PlateFinder(Protocol):
    """Pictures in, licence plates out; fails as `Extractor` does."""

    async def find(
        self, sources: Sequence[PictureSource], options: PlateOptions, *, deadline: float, whose: str | None = ...
    ) -> list[PictureResult]:
        """Find the plates of each picture and read them."""
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


@dataclass(frozen=True, slots=True)
class Verdict:
    """Yes, or no with one sentence that says why."""

    is_ok: bool
    reason: str | None = None


class ModelsView(Protocol):
    """What the health and information routes see of the models. Calls return at once unless they are awaited."""

    def models(self) -> Sequence[ModelAnswer]:
        """Every registry entry, by name."""
        ...

    def readiness(self) -> Verdict:
        """Whether requests can be served; a model that is lazily unloaded is ready."""
        ...

    def liveness(self) -> Verdict:
        """Whether no run of a model has been stuck for longer than the watchdog allows."""
        ...

    async def load(self, name: str, *, deadline: float) -> ModelAnswer:
        """Load a model.

        Raises:
            NotFoundError: No such entry.
            ModelError: It cannot be loaded.
            DeadlineExceededError: It is still being loaded.
        """
        ...

    async def unload(self, name: str) -> ModelAnswer:
        """Give a model's memory back; raises NotFoundError where there is no such entry."""
        ...

    async def reload(self, name: str, *, deadline: float) -> ModelAnswer:
        """Load a model anew, by its file and the registry as they are now; errors are those of `load`."""
        ...

    async def self_check(self, *, deadline: float) -> Verdict:
        """Try what is loaded for real; loads nothing."""
        ...


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
    commit: str = "unknown"
    """Of git, in full."""
    tensorrt_version: str | None = None
    attempts: tuple[Attempt, ...] = ()
    """What was tried at start to run models."""
    notice: str | None = None
    """What whoever uses the service should know of its models, one sentence or two."""
    device: Callable[[], DeviceStatus] = DeviceStatus
    """Tells what the machine is and how it fares."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What the routes are made of, as `jetface.main` puts it together."""

    extractor: Extractor
    models: ModelsView
    loader: PictureLoader
    """Decodes the picture that `/draw_detections` draws on."""
    pool: WorkPool
    """For parsing, encoding and serialising what is large."""
    metrics: Metrics
    """Where requests are counted."""
    byte_budget: ByteBudget
    """The bytes of bodies and fetched files that are kept."""
    info: ServiceInfo
    defaults: RequestDefaults
    match_threshold: Callable[[], float]
    """Returns the least similarity of one person where a request names none; a model loaded anew may change it."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    access: Access = field(default_factory=Access)
    plates: PlateFinder | None = None
    """Finds and reads licence plates; None where that is off."""
    people: People | None = None
    """The gallery; None where it is off."""
    compreface_collection: str = "compreface"
    """Where the subjects of CompreFace's clients live."""
    root_path: str = ""
    """Path below which a proxy serves the service, without a slash at its end; empty: none."""
    attributes: Mapping[str, Sequence[ModelSpec]] = field(default_factory=dict)
    """The models that tell it, by attribute."""
    exposition: Callable[[], bytes] | None = None
    """Returns what `/metrics` shows; None for `metrics` alone."""
    bodies: Bodies = field(init=False)
    answers: Answers = field(init=False)
    named_attributes: tuple[str, ...] = field(init=False)
    """Those of the attributes that a request asks for, and is answered, by their names."""

    def __post_init__(self) -> None:
        """Make of the parts what all routes share."""
        object.__setattr__(self, "bodies", Bodies(self.limits, self.pool, self.byte_budget))
        object.__setattr__(self, "answers", Answers(self.pool))
        named = (attribute for attribute, specs in self.attributes.items() if FAMILIES[specs[0].family].is_named)
        object.__setattr__(self, "named_attributes", tuple(named))
