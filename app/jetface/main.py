"""The composition root of the HTTP service: settings become a service, the service becomes an application."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI

from jetface import __commit__, __version__
from jetface.api.app import create_api
from jetface.api.requests import RequestDefaults, RequestLimits
from jetface.api.services import ServiceInfo, Services
from jetface.api.status import StoreView
from jetface.device.checks import STARTUP_FAILURE
from jetface.device.limits import usable_cores
from jetface.engines.job import EngineSource
from jetface.errors import ServiceError
from jetface.gallery.people import People
from jetface.logs import configure_logs, count_dropped_lines, masked
from jetface.metrics import Metrics
from jetface.registry import RegistryError
from jetface.runtimes.choose import Selection
from jetface.server.drain import Drain
from jetface.server.limits import Access, Places
from jetface.server.protocol import CONNECTIONS_KEY, Connections
from jetface.server.workers import Worker, share_of
from jetface.service import Service, build_people, build_service, open_registry, running
from jetface.settings import Settings, SettingsError, read_settings, remarks

if TYPE_CHECKING:
    from jetface.server.tracing import Tracing

RESERVED_DESCRIPTORS = 256
"""What is left to all but connections: the files of models, pictures that are fetched, and the connections that are
accepted before the first of them is counted."""

_log = structlog.get_logger(__name__)


def create_app(
    settings: Settings | None = None,
    *,
    worker: Worker | None = None,
    root: Path = Path("/"),
    source: EngineSource | None = None,
) -> FastAPI:
    """Build the HTTP application: what uvicorn is given as its factory.

    Args:
        settings: The effective configuration; None reads the environment.
        worker: This process, where it is one of several that serve together; `WORKERS` counts for nothing without.
        root: Where `/proc` and `/sys` are, which tell of the machine; another folder in tests.
        source: What builds engines in place of the TensorRT that was found; in tests.

    Raises:
        SystemExit: The settings cannot be served; the one line an operator needs is on stderr.
    """
    try:
        found = []
        if settings is None:
            settings = read_settings()
            found = remarks(settings, os.environ)
        if worker is not None:
            settings = _of_one_worker(settings, worker.slot)
        configure_logs(settings.log_level, settings.log_format)
        for remark in found:
            _log.warning(remark)
        return _application(build_service(settings, root=root, source=source), worker)
    except (SettingsError, RegistryError, ServiceError) as error:
        sys.stderr.write(masked(f"Error: {error}\n"))
        raise SystemExit(STARTUP_FAILURE) from error


def _most_connections(wanted: int) -> int:
    """Return how many connections there are descriptors for, `wanted` at most. Raises the soft limit first."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    num_descriptors = wanted + RESERVED_DESCRIPTORS
    may_have = num_descriptors if hard == unlimited else min(hard, num_descriptors)
    if soft != unlimited and soft < may_have:
        resource.setrlimit(resource.RLIMIT_NOFILE, (may_have, hard))
        soft = may_have
    if soft == unlimited or soft >= num_descriptors:
        return wanted
    fewer = soft - min(RESERVED_DESCRIPTORS, soft // 2)
    _log.warning("few descriptors: fewer connections", connections=fewer, wanted=wanted, cure="raise `ulimit -Hn`")
    return fewer


def _of_one_worker(settings: Settings, slot: int) -> Settings:
    """Return the settings with what one worker gets of the service's cores and limits."""
    pixels = max(share_of(settings.decode_budget_pixels, settings.workers), settings.max_image_pixels)
    return settings.model_copy(
        update={
            # One GPU a worker; of more workers than GPUs several share one.
            "gpu_device_ids": settings.gpu_device_ids[slot % len(settings.gpu_device_ids) :][:1]
            if settings.gpu_device_ids
            else (),
            "max_in_flight": share_of(settings.max_in_flight, settings.workers),
            "max_connections": share_of(settings.max_connections, settings.workers),
            "decode_budget_pixels": pixels,
            "cpu_threads": share_of(settings.cpu_threads or usable_cores(), settings.workers),
        }
    )


def tracing_class() -> type[Tracing]:
    """Return what sends spans.

    Raises:
        SettingsError: OpenTelemetry is not installed.
    """
    try:
        from jetface.server.tracing import Tracing  # noqa: PLC0415 - an extra
    except ImportError as missing:
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT needs OpenTelemetry ({missing}): pip install 'jetface[otel]'"
        ) from missing
    return Tracing


def _open_tracing(settings: Settings, metrics: Metrics) -> Tracing | None:
    endpoint = settings.otel_exporter_otlp_endpoint
    if not endpoint:
        return None
    make = tracing_class()
    _log.info("spans are sent", endpoint=masked(endpoint))
    return make(endpoint, version=__version__, metrics=metrics)


def _application(service: Service, worker: Worker | None) -> FastAPI:
    settings = service.settings
    connections = Connections(_most_connections(settings.max_connections), service.metrics)
    places = Places(
        settings.max_in_flight,
        most_received=max(connections.most // 2, 1),
        most_aside_bytes=service.loader.byte_budget.capacity // 2,
    )
    drain = Drain(settings.shutdown_grace_s, on_expiry=places.abandon)
    registry = service.metrics.registry
    count_dropped_lines(service.metrics.log_lines_dropped.inc)

    people = build_people(service)
    tracing = _open_tracing(settings, service.metrics)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        with drain.listening():
            serving = worker.serving(registry, drain) if worker else nullcontext()
            async with running(service), _opened(people), _closed(tracing), serving:
                yield {CONNECTIONS_KEY: connections}

    models = StoreView(
        service.store,
        active=service.chosen.names,
        watchdog_s=settings.watchdog_s,
        must_be_loaded=settings.model_preload,
        engine_status=service.engines.status if service.engines else None,
        read_registry=partial(open_registry, settings),
        order=worker.order if worker else None,
    )
    if worker is not None:
        worker.on_order = models.follow
    return create_api(
        Services(
            extractor=service.extractor,
            plates=service.plates,
            models=models,
            loader=service.loader,
            pool=service.pool,
            metrics=service.metrics,
            byte_budget=service.loader.byte_budget,
            info=ServiceInfo(
                version=__version__,
                commit=__commit__,
                log_level=settings.log_level,
                max_size=settings.max_size,
                inference_backend=_backend_word(service.backend),
                det_batch_size=settings.det_batch_size,
                rec_batch_size=settings.rec_batch_size,
                force_fp16=settings.force_fp16,
                tensorrt_version=_tensorrt_version(service),
                attempts=service.backend.attempts,
                notice=service.notice,
                device=service.telemetry.status,
            ),
            defaults=RequestDefaults(
                det_thresh=service.score_threshold,
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
            access=_access(settings),
            root_path=settings.root_path,
            attributes={
                attribute: [service.store.spec(name) for name in names]
                for attribute, names in service.chosen.attributes.items()
            },
            match_threshold=lambda: service.match_threshold,
            exposition=worker.exposition if worker else None,
            people=people,
            compreface_collection=settings.compreface_collection,
        ),
        drain=drain,
        places=places,
        lifespan=lifespan,
        connections=connections,
        tracing=tracing,
    )


@asynccontextmanager
async def _opened(people: People | None) -> AsyncIterator[None]:
    """Keep the gallery open."""
    if people is None:
        yield
        return
    try:
        await people.gallery.open()
        yield
    finally:
        await people.gallery.close()


@asynccontextmanager
async def _closed(tracing: Tracing | None) -> AsyncIterator[None]:
    """Send the spans that are left when the last request has been answered."""
    yield
    if tracing is not None:
        await asyncio.to_thread(tracing.close)


def _backend_word(backend: Selection) -> str:
    """Return what runs models, as clients of InsightFace-REST know it."""
    if backend.engines is not None:
        return "trt"
    return "openvino" if backend.onnx is None else "onnx"


def _tensorrt_version(service: Service) -> str | None:
    engines = service.backend.engines
    return None if engines is None else engines.facts().get("version")


def _access(settings: Settings) -> Access:
    access = Access(
        api_keys=tuple(key.get_secret_value() for key in settings.api_keys),
        read_api_keys=tuple(key.get_secret_value() for key in settings.read_api_keys),
        cors_origins=settings.cors_origins,
    )
    return replace(access, open_paths=access.open_paths | {"/metrics"}) if settings.metrics_open else access
