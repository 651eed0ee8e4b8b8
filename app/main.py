"""The composition root: settings become objects, objects become a service, the service becomes an application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from app.backends.cpu import usable_cores
from app.backends.selection import Opener, select_backend
from app.imaging.loader import PictureLoader
from app.metrics import Metrics
from app.models.defaults import choose_model
from app.models.download import Fetcher
from app.models.files import Mirror, WeightsFolder
from app.models.loading import LoadOptions, ModelLoader
from app.models.store import ModelStore
from app.pipeline.detector import Detector, DetectorOptions
from app.pipeline.extract import CROPS_AT_ONCE, PICTURES_AT_ONCE, Extractor
from app.pipeline.pool import WorkPool
from app.pipeline.recognizer import Recognizer
from app.settings import Settings, SettingsError
from app.specs import ModelSpec, Task, default_registry_dir, read_registry

_log = structlog.get_logger("jetface")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The objects of one running service. Those that need closing are closed by `open_service`."""

    settings: Settings
    metrics: Metrics
    opener: Opener
    store: ModelStore
    pool: WorkPool
    loader: PictureLoader
    extractor: Extractor
    active: tuple[str, ...]
    """Names of the models the settings chose, detector first."""


def open_weights(settings: Settings) -> tuple[Mapping[str, ModelSpec], WeightsFolder]:
    """Return the registry, the user's own entries included, and where its weights are.

    Raises:
        RegistryError: A registry file cannot be read.
    """
    registry_dir = default_registry_dir()
    registry = read_registry((registry_dir, settings.models_dir))
    return registry, WeightsFolder(
        folder=settings.models_dir,
        registry_dir=registry_dir,
        mirror=Mirror.parse(settings.model_mirror),
        fetcher=Fetcher() if settings.model_download else None,
        registry=registry,
    )


@asynccontextmanager
async def open_service(settings: Settings, *, grace_s: float | None = None) -> AsyncIterator[Service]:
    """Build a service on the running loop; no model is loaded unless `MODEL_PRELOAD` says so.

    Args:
        settings: The effective configuration.
        grace_s: Longest wait for work in flight when the block is left, seconds; default `SHUTDOWN_GRACE_S`.

    Raises:
        SettingsError: A model is named that the registry does not know, or that does something else.
        RegistryError: A registry file cannot be read.
        BackendError: The backend that was asked for cannot be had.
        ModelError: A model could not be preloaded.
    """
    registry, weights = open_weights(settings)
    det_model = _model_name("DET_MODEL", settings.det_model, "detection", registry, weights)
    rec_model = (
        None
        if settings.rec_model == "none"
        else _model_name("REC_MODEL", settings.rec_model, "recognition", registry, weights)
    )
    active = tuple(name for name in (det_model, rec_model) if name)
    num_cores = settings.cpu_threads or usable_cores()
    metrics = Metrics()
    opener = select_backend(settings.backend, providers=settings.ort_providers)
    options = LoadOptions(
        num_cores=num_cores,
        det_batch_size=settings.det_batch_size,
        rec_batch_size=settings.rec_batch_size,
        # Every request at the door can have its share of work queued; more cannot come.
        max_waiting=settings.max_in_flight * PICTURES_AT_ONCE * CROPS_AT_ONCE,
    )
    model_loader = ModelLoader(weights, opener, options, metrics)
    store = ModelStore(registry, model_loader.load, metrics)
    pool = WorkPool(num_cores)
    loader = PictureLoader(
        pool.executor,
        max_image_pixels=settings.max_image_pixels,
        budget_pixels=settings.decode_budget_pixels,
        metrics=metrics,
    )
    width, height = settings.max_size
    detector_options = DetectorOptions(
        max_hw=(height, width),
        scales=settings.det_scales,
        # A GPU wants few shapes: each costs it a search for algorithms and memory of its own.
        rectangular=opener.is_on_cpu,
    )
    extractor = Extractor(
        loader,
        Detector(store, det_model, detector_options, pool),
        Recognizer(store, rec_model) if rec_model else None,
        pool,
        metrics,
        max_faces=settings.max_faces,
    )
    _log.info("service opened", detector=det_model, recognizer=rec_model, backend=opener.name, cores=num_cores)
    try:
        if settings.model_preload:
            for name in active:
                await store.get(name)
        yield Service(
            settings=settings,
            metrics=metrics,
            opener=opener,
            store=store,
            pool=pool,
            loader=loader,
            extractor=extractor,
            active=active,
        )
    finally:
        await store.close(grace_s=settings.shutdown_grace_s if grace_s is None else grace_s)
        model_loader.close()
        pool.close()


def _model_name(variable: str, name: str, task: Task, registry: Mapping[str, ModelSpec], weights: WeightsFolder) -> str:
    """Return the registry name a setting means.

    Raises:
        SettingsError: No entry of that name does this task; the line lists those that do.
    """
    if name == "auto":
        return choose_model(task, registry, weights.is_at_hand)
    if name not in registry or registry[name].task != task:
        able = ", ".join(sorted(known for known, spec in registry.items() if spec.task == task))
        raise SettingsError(f"{variable}={name!r} is not allowed: auto or one of {able}")
    return name
