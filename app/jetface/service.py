"""The objects of one running service, built from settings and closed in order; HTTP comes on top, in `jetface.main`."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import structlog

from jetface.device.limits import MemoryGuard, free_memory_bytes, memory_limit_bytes, usable_cores
from jetface.device.machine import trim_memory
from jetface.device.telemetry import Telemetry
from jetface.engines.build import FACTORY as TENSORRT_FACTORY
from jetface.engines.job import EngineJob, EngineJobs, EngineSource
from jetface.engines.plan import PlanFolder
from jetface.engines.takeover import EngineLoader
from jetface.errors import BackendUnavailableError, NotFoundError, ServiceError, StorageError
from jetface.gallery.cuda_index import CudaIndex, Scanner
from jetface.gallery.index import ExactIndex, Index
from jetface.gallery.local import LocalGallery
from jetface.gallery.people import People
from jetface.gallery.protocol import Gallery
from jetface.gallery.records import ModelPin
from jetface.geometry.letterbox import scaled_canvas
from jetface.graphs.parts import num_bytes
from jetface.heads.families import FAMILIES, read_known
from jetface.heads.family import ATTRIBUTE_VARIABLE
from jetface.imaging.budget import ByteBudget
from jetface.imaging.decode import Decoder
from jetface.imaging.loader import PictureLoader
from jetface.imaging.remote import HostPolicy, PictureFolder, RemotePictures, UrlFetcher
from jetface.metrics import Metrics
from jetface.models.defaults import ModelChooser, starter_notice
from jetface.models.download import Fetcher
from jetface.models.loading import LoadOptions, ModelLoader
from jetface.models.precision import VARIABLES, Precisions
from jetface.models.store import ModelStore
from jetface.models.weights import Mirror, WeightsFolder
from jetface.pipeline.attributes import Attributes
from jetface.pipeline.describer import CROPS_AT_ONCE, Describer, Recognizer
from jetface.pipeline.detector import Detector, DetectorOptions
from jetface.pipeline.extract import ChosenModels, Extractor
from jetface.pipeline.pictures import PICTURES_AT_ONCE, WorkPool
from jetface.pipeline.plates import PLATES_ARE_OFF, PlateFinder
from jetface.pipeline.recall import ResultCache
from jetface.registry import (
    DEFAULT_MATCH_THRESHOLD,
    DEFAULT_SCORE_THRESHOLD,
    Registry,
    RegistryError,
    default_registry_dir,
)
from jetface.runtimes.choose import Host, Selection, select_backend
from jetface.runtimes.engine_kit import EngineKit
from jetface.runtimes.providers import TensorrtOptions
from jetface.server.workers import share_of
from jetface.settings import Settings
from jetface.threads import short_turns


def choose_models(settings: Settings, chooser: ModelChooser) -> ChosenModels:
    """Return the models of the settings.

    Raises:
        RegistryError: One is named that is not in the registry or does something else; plates are to be found and not
            read, or read and not found; or there is nothing to serve.
    """
    attributes: dict[str, tuple[str, ...]] = {}
    attribute_families = [family for family in FAMILIES.values() if family.answer is not None]
    for family in attribute_families:
        if not family.is_named:
            field = family.variable.lower()
            wanted, variable = getattr(settings, field), settings.variable(field)
            names = (wanted,) if isinstance(wanted, str) else wanted
            known = tuple(filter(None, (chooser.choose(variable, name, family.task) for name in names)))
            if known:
                attributes[family.task] = known
    named_tasks = dict.fromkeys(family.task for family in attribute_families if family.is_named)
    for name in settings.attribute_models:
        if model := chooser.choose(ATTRIBUTE_VARIABLE, name, *named_tasks):
            attributes[model] = (model,)
    finder = chooser.choose("PLATE_DET_MODEL", settings.plate_det_model, "plate_detection")
    reader = chooser.choose("PLATE_OCR_MODEL", settings.plate_ocr_model, "plate_reading")
    if (finder is None) != (reader is None):
        missing = "PLATE_DET_MODEL" if finder is None else "PLATE_OCR_MODEL"
        raise RegistryError(f"{missing}=none is not allowed: PLATE_DET_MODEL and PLATE_OCR_MODEL go together")
    chosen = ChosenModels(
        detector=chooser.choose(settings.variable("det_model"), settings.det_model, "detection"),
        recognizer=chooser.choose(settings.variable("rec_model"), settings.rec_model, "recognition"),
        plates=(finder, reader) if finder and reader else None,
        attributes=attributes,
    )
    if not chosen.names:
        raise RegistryError("nothing to serve: DET_MODEL, REC_MODEL and PLATE_DET_MODEL are none; name one")
    return chosen


_BUILD_BYTES_PER_FILE_BYTE = 10
"""What a build takes at its most, by the size of the weights; on a Jetson that is the memory of everything else.
An estimate: TensorRT keeps the weights several times while it chooses kernels."""


def canvases_hw(settings: Settings) -> tuple[tuple[int, int], ...]:
    """Return the height and width of every canvas: on a GPU pictures are padded to these and no others."""
    width_px, height_px = settings.max_size
    return tuple(scaled_canvas((height_px, width_px), scale) for scale in settings.det_scales)


def plan_folder(settings: Settings) -> PlanFolder:
    """Return where plans are kept."""
    if not settings.trt_engine_cache_enable:
        return PlanFolder(None)
    return PlanFolder(settings.trt_engine_cache_path or settings.models_dir / "engines")


def tensorrt_options(settings: Settings) -> TensorrtOptions:
    """Return the options of ONNX Runtime's own TensorRT provider, for those who name it."""
    cache_dir = settings.trt_engine_cache_path or settings.models_dir / "engines"
    return TensorrtOptions(
        fp16=settings.force_fp16,
        cache_dir=cache_dir if settings.trt_engine_cache_enable else None,
        dla_core=settings.trt_dla_core,
    )


def precisions_of(settings: Settings) -> Precisions:
    """Return what the settings say of precisions."""
    return Precisions(
        detection=settings.det_precision,
        recognition=settings.rec_precision,
        prefers_half=settings.force_fp16,
        least_cosine=settings.int8_least_cosine,
        most_tar_loss=settings.int8_most_tar_loss,
        least_iou=settings.int8_least_iou,
    )


def engine_jobs(
    settings: Settings, weights: WeightsFolder, source: EngineSource, *, has_onnxruntime: bool
) -> EngineJobs:
    """Return what engines are made of.

    Args:
        settings: The effective configuration.
        weights: Where weights are.
        source: What builds engines.
        has_onnxruntime: Whether ONNX Runtime may be imported on this machine, to judge engines by.
    """
    return EngineJobs(
        weights=weights,
        source=source,
        plans=plan_folder(settings),
        precisions=precisions_of(settings),
        det_batch_size=settings.det_batch_size,
        rec_batch_size=settings.rec_batch_size,
        canvases_hw=canvases_hw(settings),
        workspace_bytes=settings.trt_workspace_bytes,
        optimization_level=settings.trt_optimization_level,
        dla_core=settings.trt_dla_core,
        reference="onnxruntime" if has_onnxruntime else "toolkit",
    )


def why_no_dla(settings: Settings, kit: EngineKit | None) -> str | None:
    """Say why `TRT_DLA_CORE` puts nothing, or less than all, on a deep learning accelerator.

    An accelerator takes one input shape alone: least, usual and most of a profile must be equal, so a batch size above
    1 leaves a model to the GPU. Source: NvInfer.h of TensorRT 10.3.

    Args:
        settings: The effective configuration.
        kit: What builds engines; None where nothing does.

    Returns:
        One or two sentences with the cure; None where the setting does what it says, or is not set.
    """
    core = settings.trt_dla_core
    if core < 0 or "tensorrt" in map(str.lower, settings.ort_providers):
        return None
    nothing = f"TRT_DLA_CORE={core} puts nothing on an accelerator"
    if kit is None:
        return f"{nothing}: no engines are built here. Set it to -1."
    num_cores = kit.num_dla_cores
    if core >= num_cores:
        return (
            f"{nothing}: TensorRT {kit.facts().get('version', '')} finds {num_cores} of them here. AGX Orin has two, "
            "Orin NX one or two, Orin Nano and Thor none; TensorRT knows them up to 10.7 and from 11.4.1 on. "
            "Set it to -1."
        )
    sizes = {"DET_BATCH_SIZE": settings.det_batch_size, "REC_BATCH_SIZE": settings.rec_batch_size}
    above = [name for name, size in sizes.items() if size > 1]
    if not above:
        return None
    what = nothing if len(above) == len(sizes) else f"TRT_DLA_CORE={core} puts only a part on the accelerator"
    cure = " and ".join(f"{name}=1" for name in above)
    return f"{what}, which takes one shape alone: {' and '.join(above)} are above 1. Set {cure}."


def engine_loader(
    settings: Settings,
    jobs: EngineJobs,
    plain: ModelLoader | None,
    *,
    max_waiting: int,
    memory: MemoryGuard,
    metrics: Metrics,
) -> EngineLoader:
    """Return what loads models on engines.

    Args:
        settings: The effective configuration.
        jobs: What engines are made of.
        plain: What answers without engines; None where nothing can.
        max_waiting: Most items in the queue of one model.
        memory: Refuses builds that would take too much.
        metrics: Where states are shown.
    """

    def require_memory(job: EngineJob) -> None:
        need_bytes = _BUILD_BYTES_PER_FILE_BYTE * num_bytes(job.weights)
        memory.require(need_bytes, work="build", subject=f"the engine of model {job.spec.name}")

    return EngineLoader(
        jobs, plain, metrics, max_waiting=max_waiting, serves_meanwhile=settings.serve_while_building,
        may_build=require_memory, most_canvases=settings.max_in_flight, load_timeout_s=settings.load_timeout_s,
    )  # fmt: skip


_log = structlog.get_logger("jetface")

_LEAST_SWEEP_S, _MOST_SWEEP_S = 0.1, 30.0
"""Between two looks for idle models: a quarter of `MODEL_TTL_S` within these."""

CLOSE_GRACE_S = 1.0
"""Longest wait for runs under way when a service is closed: by then its callers have their answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The objects of one service. Building them starts threads only when there is work; `running` closes them."""

    settings: Settings
    metrics: Metrics
    backend: Selection
    chosen: ChosenModels
    model_loader: ModelLoader
    engines: EngineLoader | None
    """Loads models on engines; None where none can be built."""
    store: ModelStore
    pool: WorkPool
    loader: PictureLoader
    extractor: Extractor
    plates: PlateFinder | None
    """Finds and reads licence plates; None where the settings name no models for it."""
    telemetry: Telemetry

    @property
    def score_threshold(self) -> float:
        """Least detector score where a request names none: what the settings say, else what suits the detector."""
        if self.settings.def_det_thresh is not None:
            return self.settings.def_det_thresh
        detector = self.chosen.detector
        return self.store.spec(detector).least_score if detector else DEFAULT_SCORE_THRESHOLD

    @property
    def match_threshold(self) -> float:
        """Least similarity of one person where a request names none: what suits the recognizer."""
        recognizer = self.chosen.recognizer
        return self.store.spec(recognizer).least_similarity if recognizer else DEFAULT_MATCH_THRESHOLD

    def require_plates(self) -> PlateFinder:
        """Return what finds and reads licence plates.

        Raises:
            NotFoundError: It is off; the message says how to turn it on.
        """
        if self.plates is None:
            raise NotFoundError(PLATES_ARE_OFF)
        return self.plates

    @property
    def notice(self) -> str | None:
        """What whoever uses this service should know of its models; None when there is nothing."""
        return starter_notice(self.chosen.names)


def open_registry(settings: Settings) -> Registry:
    """Return the registry as it is now, the user's own entries included.

    An entry that cannot be read is logged, and an error for who asks for it.
    """
    registry = read_known((default_registry_dir(), settings.models_dir))
    for error in registry.unreadable.values():
        _log.warning("registry entry cannot be read and is left out", reason=str(error))
    return registry


def open_weights(settings: Settings) -> tuple[Registry, WeightsFolder]:
    """Return the registry and where its weights are, as `open_registry` does."""
    registry = open_registry(settings)
    return registry, WeightsFolder(
        folder=settings.models_dir,
        registry_dir=default_registry_dir(),
        mirror=Mirror.parse(settings.model_mirror),
        fetcher=Fetcher() if settings.model_download else None,
        registry=registry,
    )


def build_service(settings: Settings, *, root: Path = Path("/"), source: EngineSource | None = None) -> Service:
    """Build a service; no model is loaded.

    Args:
        settings: The effective configuration.
        root: Where `/proc` and `/sys` are, which tell of the machine; another folder in tests.
        source: What builds engines in place of the TensorRT that was found; in tests.

    Raises:
        RegistryError: A model is named whose registry entry is missing, cannot be read, or does something else.
        BackendError: The backend or precision that was asked for cannot be had.
        ModelFileError: INT8 was asked for, and there is no quantized graph.
    """
    if settings.cuda_cache_disable:
        # CUDA reads it when its first library is loaded, which is below, and knows no other word for yes.
        os.environ["CUDA_CACHE_DISABLE"] = "1"
    if settings.gpu_device_ids:
        # As above. What builds engines inherits it.
        os.environ["CUDA_VISIBLE_DEVICES"] = settings.gpu_device_ids[0]
        os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # as nvidia-smi numbers them
        _log.info("GPU chosen", device=settings.gpu_device_ids[0])
        if len(settings.gpu_device_ids) > settings.workers:
            _log.warning(
                "GPU_DEVICE_IDS names more GPUs than there are WORKERS: a process uses one",
                unused=settings.gpu_device_ids[settings.workers :],
            )
    # Our threads are as many as the cores already; OpenCV's own would only compete with them.
    cv2.setNumThreads(1)
    registry, weights = open_weights(settings)
    chosen = choose_models(settings, ModelChooser(registry, weights.is_at_hand))
    backend = select_backend(
        settings.backend,
        variable=settings.variable("backend"),
        providers=settings.ort_providers,
        openvino_precision=settings.openvino_precision,
        tensorrt=tensorrt_options(settings),
        gpu_memory_limit_bytes=settings.gpu_memory_limit_bytes,
        host=Host(root=root),
    )
    source = source or (EngineSource(backend.engines, TENSORRT_FACTORY) if backend.engines else None)
    backend = replace(backend, engines=source.kit if source else None)
    if idle := why_no_dla(settings, backend.engines):
        _log.warning(idle)
    precisions = precisions_of(settings)
    _check_precisions(precisions, registry, chosen, settings.models_dir, has_engines=source is not None)
    num_cores = settings.cpu_threads or usable_cores()
    metrics = Metrics()
    metrics.memory_limit.set(memory_limit_bytes(root))
    metrics.backend_fallback.set(backend.is_fallback)
    load_options = LoadOptions(
        num_cores=num_cores,
        det_batch_size=settings.det_batch_size,
        rec_batch_size=settings.rec_batch_size,
        # Every request at the door can have its share of work queued; more cannot come.
        max_waiting=settings.max_in_flight * PICTURES_AT_ONCE * CROPS_AT_ONCE,
        canvases_hw=canvases_hw(settings),
        # Most requests have one picture; what those of several draw beyond this is copied once more.
        most_canvases=settings.max_in_flight,
        load_timeout_s=settings.load_timeout_s,
        precisions=precisions,
    )
    memory = MemoryGuard(
        settings.min_free_memory_bytes,
        read_free_bytes=partial(free_memory_bytes, root),
        on_refusal=lambda work: metrics.memory_refusals.labels(work).inc(),
    )
    model_loader = ModelLoader(weights, backend, load_options, metrics, memory)
    engines = None
    if source:
        plain = model_loader if backend.onnx else None
        jobs = engine_jobs(settings, weights, source, has_onnxruntime=plain is not None)
        engines = engine_loader(
            settings, jobs, plain, max_waiting=load_options.max_waiting, memory=memory, metrics=metrics
        )
    store = ModelStore(registry, (engines or model_loader).load, metrics, release=engines.release if engines else None)
    if engines:
        engines.follow(store)
    pool = WorkPool(num_cores)
    decode_pixels = _decode_pixels(settings.workers, root)
    if decode_pixels < settings.decode_budget_pixels:
        _log.warning(
            "less is decoded at once than DECODE_BUDGET_PIXELS says: a quarter of the memory there is",
            budget_pixels=decode_pixels,
        )
    loader = PictureLoader(
        pool.threads,
        max_image_pixels=settings.max_image_pixels,
        budget_pixels=min(settings.decode_budget_pixels, decode_pixels),
        max_decode_pixels=decode_pixels,
        accept_tiff=settings.accept_tiff,
        metrics=metrics,
        decoder=Decoder.best(settings.jpeg_decoder, use_nvjpeg=settings.use_nvjpeg),
        fetcher=_remote_pictures(settings, pool),
        byte_budget=ByteBudget(_body_budget_bytes(settings, root)),
    )
    cache_bytes = share_of(settings.result_cache_mb * 2**20, settings.workers) if settings.result_cache_mb else 0
    cache = ResultCache(cache_bytes, loader=loader, pool=pool, store=store, metrics=metrics) if cache_bytes else None
    telemetry = Telemetry(settings.telemetry_interval_s, root)
    metrics.device.read = telemetry.readings
    service = Service(
        settings=settings,
        telemetry=telemetry,
        metrics=metrics,
        backend=backend,
        chosen=chosen,
        model_loader=model_loader,
        engines=engines,
        store=store,
        pool=pool,
        loader=loader,
        extractor=_extractor(settings, chosen, backend, store, loader, pool, metrics, cache),
        plates=_plates(settings, chosen, backend, store, loader, pool, metrics, cache),
    )
    _log.info("service built", models=chosen.names, backend=backend.name, cores=num_cores)
    if service.notice:
        _log.warning(service.notice)
    return service


def _check_precisions(
    precisions: Precisions, registry: Registry, chosen: ChosenModels, folder: Path, *, has_engines: bool
) -> None:
    """See that what is named can be had: a quantized graph for INT8, engines for FP16."""
    for name in filter(None, (chosen.detector, chosen.recognizer)):
        spec = registry[name]
        if precisions.wanted(spec) == "fp16" and not has_engines:
            raise BackendUnavailableError(
                f"{VARIABLES[spec.task]}=fp16 cannot be had: only engines of TensorRT compute in halves, and there are "
                "none here. Set it to auto, which takes what there is."
            )
        precisions.require_files(spec, folder)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Run a service on the current loop, and close everything in the end.

    With `MODEL_PRELOAD` its models begin to load at once, in the background: the process is alive meanwhile, and ready
    when they serve. A model that fails to load says so in its state and is tried again.
    """
    preloads = [
        asyncio.create_task(_preload(service.store, name), name=f"preload {name}")
        for name in (service.chosen.names if service.settings.model_preload else ())
    ]
    service.telemetry.start()
    trimming = asyncio.create_task(_trim_memory(service.settings.memory_trim_s), name="trim memory")
    sweeping = asyncio.create_task(_unload_idle(service), name="unload idle models")
    with short_turns(are_wanted=not service.backend.is_on_cpu):
        try:
            yield service
        finally:
            service.telemetry.stop()
            trimming.cancel()
            sweeping.cancel()
            await asyncio.gather(sweeping, return_exceptions=True)
            if service.engines:
                await service.engines.close()
            await service.store.close(grace_s=CLOSE_GRACE_S)
            await asyncio.gather(*preloads)
            service.model_loader.close()
            await service.loader.aclose()
            service.pool.close()


@asynccontextmanager
async def open_service(settings: Settings, *, root: Path = Path("/")) -> AsyncIterator[Service]:
    """Build and run a service without HTTP; arguments and errors are those of `build_service`."""
    async with running(build_service(settings, root=root)) as service:
        yield service


def build_people(service: Service) -> People | None:
    """Build the gallery that the settings name, which `People.gallery.open` opens; None where they name none."""
    settings = service.settings
    gallery = _gallery(settings, service.metrics, service.backend)
    if gallery is None:
        return None

    def model() -> ModelPin | None:
        if service.chosen.recognizer is None:
            return None
        spec = service.store.spec(service.chosen.recognizer)
        # Every recognizer has a length, and a digest of one kind.
        return ModelPin(
            name=spec.name, sha256=spec.sha256 or f"md5:{spec.md5}", embedding_length=spec.embedding_length or 0
        )

    return People(
        gallery,
        model=model,
        match_threshold=lambda: service.match_threshold,
        keeps_crops=settings.gallery_keep_crops,
    )


def _gallery(settings: Settings, metrics: Metrics, backend: Selection) -> Gallery | None:
    """Return the gallery where the settings have it.

    Raises:
        StorageError: A driver, a library or a GPU that it needs is not there.
    """
    if settings.gallery_url is not None:
        try:
            # Here, because its driver is optional.
            from jetface.gallery.postgres import PostgresGallery  # noqa: PLC0415 - as above
        except ImportError as cause:
            raise StorageError("GALLERY_URL needs the driver: pip install 'jetface[postgres]'") from cause
        return PostgresGallery(settings.gallery_url.get_secret_value(), metrics, ttl_days=settings.gallery_ttl_days)
    if settings.gallery_dir is not None:
        make_index = _index_maker(settings, backend)
        return LocalGallery(settings.gallery_dir, metrics, ttl_days=settings.gallery_ttl_days, make_index=make_index)
    return None


def _index_maker(settings: Settings, backend: Selection) -> Callable[[int], Index]:
    if settings.gallery_index == "exact":
        return ExactIndex
    if settings.gallery_index == "cuda":
        if backend.onnx is None or backend.onnx.cuda is None:
            raise StorageError(
                "GALLERY_INDEX=cuda needs models that run on ONNX Runtime's CUDA provider: "
                "pip install 'jetface[cuda]' onnxruntime-gpu"
            )
        return partial(CudaIndex, scanner=Scanner(backend.onnx.cuda))
    try:
        # Here, because its library is optional.
        from jetface.gallery.faiss_index import FaissIndex  # noqa: PLC0415 - as above
    except ImportError as cause:
        raise StorageError("GALLERY_INDEX=faiss needs FAISS: pip install 'jetface[faiss]'") from cause
    return FaissIndex


async def _unload_idle(service: Service) -> None:
    """Unload models that were not needed for `MODEL_TTL_S`, for ever; one whose engine is being built stays."""
    ttl_s = service.settings.model_ttl_s
    while ttl_s > 0:
        await asyncio.sleep(min(max(ttl_s / 4, _LEAST_SWEEP_S), _MOST_SWEEP_S))
        for model in service.store.loaded():
            name = model.spec.name
            is_building = service.engines is not None and service.engines.is_building(name)
            if model.users.idle_s >= ttl_s and not is_building:
                await service.store.unload(name, reason=f"No request needed it for {ttl_s:g} s.")


async def _preload(store: ModelStore, name: str) -> None:
    with contextlib.suppress(ServiceError):  # the store has logged it
        await store.get(name)


async def _trim_memory(interval_s: float) -> None:
    """Give freed memory back every `interval_s` seconds; 0: never."""
    while interval_s:
        await asyncio.sleep(interval_s)
        started_s = time.monotonic()
        if not await asyncio.to_thread(trim_memory):
            return
        _log.debug("memory trimmed", took_ms=round(1000 * (time.monotonic() - started_s), 1))


def _extractor(
    settings: Settings,
    chosen: ChosenModels,
    backend: Selection,
    store: ModelStore,
    loader: PictureLoader,
    pool: WorkPool,
    metrics: Metrics,
    cache: ResultCache | None,
) -> Extractor:
    options = DetectorOptions(
        canvases_hw=canvases_hw(settings),
        max_upscale=settings.max_upscale,
        # A GPU wants few shapes: each costs it a search for algorithms and memory of its own.
        rectangular=backend.is_on_cpu,
    )
    recognizer = Recognizer(store, chosen.recognizer) if chosen.recognizer else None
    return Extractor(
        loader,
        Detector(store, chosen.detector, options, pool),
        Describer(recognizer, Attributes(store, chosen.attributes, pool), pool),
        pool,
        metrics,
        store=store,
        cache=cache,
        max_faces=settings.max_faces,
    )


def _plates(
    settings: Settings,
    chosen: ChosenModels,
    backend: Selection,
    store: ModelStore,
    loader: PictureLoader,
    pool: WorkPool,
    metrics: Metrics,
    cache: ResultCache | None,
) -> PlateFinder | None:
    if chosen.plates is None:
        return None
    finder, reader = chosen.plates
    width, height = settings.max_size
    options = DetectorOptions(
        canvases_hw=((height, width),),
        fill=FAMILIES[store.spec(finder).family].canvas_fill,
        rectangular=backend.is_on_cpu,
    )
    return PlateFinder(
        loader,
        Detector(store, finder, options, pool),
        reader,
        pool,
        metrics,
        store=store,
        cache=cache,
        max_plates=settings.max_faces,
    )


def _decode_pixels(workers: int, root: Path) -> int:
    """Return how many pixels of three bytes fit a quarter of each worker's memory: what decoding may take."""
    memory_bytes = memory_limit_bytes(root)
    return sys.maxsize if math.isinf(memory_bytes) else int(memory_bytes / max(1, workers) / 4 / 3)


def _body_budget_bytes(settings: Settings, root: Path) -> int:
    """Return one worker's part of what bodies may take: a quarter of the memory, unless the settings say it."""
    memory_bytes = memory_limit_bytes(root)
    of_all = settings.body_budget_bytes or int(memory_bytes / 4 if math.isfinite(memory_bytes) else 2**30)
    return share_of(of_all, settings.workers)


def _remote_pictures(settings: Settings, pool: WorkPool) -> RemotePictures:
    """Build what gets pictures that lie elsewhere, as far as the settings turn it on."""
    hosts = HostPolicy() if settings.url_fetch == "public" else HostPolicy.listed(settings.url_allow_hosts)
    folder = settings.root_images_dir
    return RemotePictures(
        pool.threads,
        urls=None if settings.url_fetch == "off" else UrlFetcher(hosts),
        folder=None if folder is None else PictureFolder(folder, max_bytes=settings.max_body_bytes),
    )
