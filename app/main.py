"""The composition root: settings become objects, objects become a service, the service becomes an application."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import cv2
import structlog
from fastapi import FastAPI

from app import __version__
from app.api.app import create_api
from app.api.places import Places
from app.api.services import Access, ApiOptions, RequestDefaults, RequestLimits, ServiceInfo
from app.api.store_view import StoreView
from app.backends.cpu import usable_cores
from app.backends.memory import memory_limit_bytes
from app.backends.selection import Selection, select_backend
from app.drain import Drain
from app.errors import ServiceError
from app.imaging.fetch import UrlFetcher
from app.imaging.folder import PictureFolder
from app.imaging.hosts import HostPolicy
from app.imaging.loader import PictureLoader
from app.imaging.remote import RemotePictures
from app.logs import configure_logs
from app.metrics import Metrics
from app.models.defaults import ModelChooser
from app.models.download import Fetcher
from app.models.files import Mirror, WeightsFolder
from app.models.loading import LoadOptions, ModelLoader
from app.models.store import ModelStore
from app.pipeline.attributes import AttributeModels, Attributes
from app.pipeline.describer import CROPS_AT_ONCE, Describer
from app.pipeline.detector import Detector, DetectorOptions
from app.pipeline.extract import Extractor
from app.pipeline.pictures import PICTURES_AT_ONCE
from app.pipeline.pool import WorkPool
from app.pipeline.recognizer import Recognizer
from app.settings import Settings, SettingsError, read_settings
from app.specs import ModelSpec, RegistryError, default_registry_dir, read_registry

_log = structlog.get_logger("jetface")


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The objects of one service. Building them starts threads only when there is work; `open_service` closes them."""

    settings: Settings
    metrics: Metrics
    backend: Selection
    model_loader: ModelLoader
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


def build_service(settings: Settings) -> Service:
    """Build a service; no model is loaded.

    Raises:
        RegistryError: A registry file cannot be read, or a model is named that is not in it or does something else.
        BackendError: The backend that was asked for cannot be had.
    """
    registry, weights = open_weights(settings)
    chooser = ModelChooser(registry, weights.is_at_hand)
    det_model = chooser.require("DET_MODEL", settings.det_model, "detection")
    rec_model = chooser.choose("REC_MODEL", settings.rec_model, "recognition")
    liveness_models = (chooser.choose("LIVENESS_MODEL", name, "liveness") for name in settings.liveness_model)
    attribute_models = AttributeModels(
        gender_age=chooser.choose("GA_MODEL", settings.ga_model, "gender_age"),
        mask=chooser.choose("MASK_MODEL", settings.mask_model, "mask"),
        liveness=tuple(filter(None, liveness_models)),
    )
    # Our threads are as many as the cores already; OpenCV's own would only compete with them.
    cv2.setNumThreads(1)
    backend = select_backend(
        settings.backend, providers=settings.ort_providers, openvino_precision=settings.openvino_precision
    )
    num_cores = settings.cpu_threads or usable_cores()
    metrics = Metrics()
    metrics.memory_limit.set(memory_limit_bytes())
    load_options = LoadOptions(
        num_cores=num_cores,
        det_batch_size=settings.det_batch_size,
        rec_batch_size=settings.rec_batch_size,
        # Every request at the door can have its share of work queued; more cannot come.
        max_waiting=settings.max_in_flight * PICTURES_AT_ONCE * CROPS_AT_ONCE,
    )
    model_loader = ModelLoader(weights, backend, load_options, metrics)
    store = ModelStore(registry, model_loader.load, metrics)
    pool = WorkPool(num_cores)
    loader = PictureLoader(
        pool.executor,
        max_image_pixels=settings.max_image_pixels,
        budget_pixels=settings.decode_budget_pixels,
        metrics=metrics,
        fetcher=_remote_pictures(settings, pool),
    )
    width, height = settings.max_size
    detector_options = DetectorOptions(
        max_hw=(height, width),
        scales=settings.det_scales,
        # A GPU wants few shapes: each costs it a search for algorithms and memory of its own.
        rectangular=backend.is_on_cpu,
    )
    extractor = Extractor(
        loader,
        Detector(store, det_model, detector_options, pool),
        Describer(Recognizer(store, rec_model) if rec_model else None, Attributes(store, attribute_models, pool), pool),
        pool,
        metrics,
        max_faces=settings.max_faces,
    )
    _log.info("service built", detector=det_model, recognizer=rec_model, backend=backend.name, cores=num_cores)
    return Service(
        settings=settings,
        metrics=metrics,
        backend=backend,
        model_loader=model_loader,
        store=store,
        pool=pool,
        loader=loader,
        extractor=extractor,
        active=tuple(name for name in (det_model, rec_model, *attribute_models.names) if name),
    )


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[Service]:
    """Run a service on the current loop: preload if the settings say so, close everything in the end.

    Raises:
        ModelError: A model could not be preloaded.
    """
    try:
        if service.settings.model_preload:
            for name in service.active:
                await service.store.get(name)
        yield service
    finally:
        await service.store.close(grace_s=service.settings.shutdown_grace_s)
        service.model_loader.close()
        await service.loader.aclose()
        service.pool.close()


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Build and run a service without HTTP; errors are those of `build_service` and `running`."""
    async with running(build_service(settings)) as service:
        yield service


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the HTTP application: what uvicorn is given as its factory.

    Args:
        settings: The effective configuration; None reads the environment.

    Raises:
        SystemExit: The settings cannot be served; its message is the one line an operator needs.
    """
    try:
        settings = settings or read_settings()
        configure_logs(settings.log_level, settings.log_format)
        return _application(build_service(settings))
    except (SettingsError, RegistryError, ServiceError) as error:
        raise SystemExit(f"Error: {error}") from error


def _remote_pictures(settings: Settings, pool: WorkPool) -> RemotePictures:
    """Build what gets pictures that lie elsewhere, as far as the settings turn it on."""
    hosts = HostPolicy() if settings.url_fetch == "public" else HostPolicy.listed(settings.url_allow_hosts)
    folder = settings.root_images_dir
    return RemotePictures(
        pool.executor,
        urls=None if settings.url_fetch == "off" else UrlFetcher(hosts),
        folder=None if folder is None else PictureFolder(folder, max_bytes=settings.max_body_bytes),
    )


def _application(service: Service) -> FastAPI:
    settings = service.settings
    places = Places(settings.max_in_flight)
    drain = Drain(settings.shutdown_grace_s, on_expiry=places.abandon)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with drain.listening():
            async with running(service):
                yield

    return create_api(
        extractor=service.extractor,
        models=StoreView(service.store, active=service.active, watchdog_s=settings.watchdog_s),
        loader=service.loader,
        pool=service.pool,
        metrics=service.metrics,
        drain=drain,
        places=places,
        options=_api_options(settings),
        lifespan=lifespan,
    )


def _api_options(settings: Settings) -> ApiOptions:
    return ApiOptions(
        info=ServiceInfo(
            version=__version__,
            log_level=settings.log_level,
            max_size=settings.max_size,
            inference_backend=settings.backend,
        ),
        defaults=RequestDefaults(
            det_thresh=settings.def_det_thresh,
            extract_embedding=settings.def_extract_embedding,
            return_face_data=settings.def_return_face_data,
            return_landmarks=settings.def_return_landmarks,
            extract_ga=settings.def_extract_ga,
            detect_masks=settings.def_detect_masks,
        ),
        limits=RequestLimits(
            max_body_bytes=settings.max_body_bytes,
            max_images=settings.max_images,
            max_faces=settings.max_faces,
            timeout_s=settings.request_timeout_s,
        ),
        access=Access(api_keys=tuple(key.get_secret_value() for key in settings.api_keys)),
    )
