"""The routes that tell of the service: health, info, metrics, models."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, Literal

import structlog
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from typing_extensions import TypedDict

from jetface.api.answers import (
    EngineAnswer,
    HealthAnswer,
    ModelAnswer,
    ModelHealth,
    ModelsAnswer,
    ReadyAnswer,
)
from jetface.api.collections import check_may_write
from jetface.api.openapi import READ_ONLY, documented_change, documented_list
from jetface.api.requests import RequestDefaults
from jetface.api.services import Services, Verdict
from jetface.engines.plan import EngineStatus
from jetface.errors import DeadlineExceededError, ModelContractError, NotFoundError, ServiceError
from jetface.heads.families import FAMILIES
from jetface.models.store import ModelState, ModelStatus, ModelStore
from jetface.registry import ModelSpec, RegistryError
from jetface.server.context import context_of
from jetface.server.drain import Drain
from jetface.server.encoding import small_answer

SELF_CHECK_S = 5.0
"""Longest a self-check may take: under the timeouts that probes usually have."""

_DRAINING = Verdict(is_ok=False, reason="The service is shutting down.")


def health_router(services: Services, drain: Drain) -> APIRouter:
    """Return the routes. None takes a place in flight or waits for a queue of requests."""
    router = APIRouter(prefix="/health", tags=["service"])

    def told(good: Literal["ok", "ready", "alive"], verdict: Verdict) -> HealthAnswer:
        value = HealthAnswer(status=good if verdict.is_ok else "failed")
        if verdict.reason is not None:
            value["reason"] = verdict.reason
        return value

    def write(request: Request, value: HealthAnswer) -> Response:
        failed = value["status"] == "failed"
        status = HTTPStatus.SERVICE_UNAVAILABLE if failed else HTTPStatus.OK
        return small_answer(context_of(request), value, status=int(status))

    @router.get("", responses={200: {"model": HealthAnswer}, 503: {"model": HealthAnswer}}, response_model=None)
    async def health(request: Request) -> Response:
        """Tell whether requests can be served, after trying what is loaded for real."""
        verdict = services.models.liveness()
        if verdict.is_ok:
            verdict = services.models.readiness()
        if verdict.is_ok:
            deadline = asyncio.get_running_loop().time() + SELF_CHECK_S
            verdict = await services.models.self_check(deadline=deadline)
        return write(request, told("ok", verdict))

    @router.get("/live", responses={200: {"model": HealthAnswer}, 503: {"model": HealthAnswer}}, response_model=None)
    async def health_live(request: Request) -> Response:
        """Tell whether the process should go on: its loop answers, and no run of a model is stuck."""
        return write(request, told("alive", services.models.liveness()))

    @router.get("/ready", responses={200: {"model": ReadyAnswer}, 503: {"model": ReadyAnswer}}, response_model=None)
    async def health_ready(request: Request) -> Response:
        """Tell whether requests can be served now; a model that loads on its first request is ready."""
        verdict = _DRAINING if drain.is_draining else services.models.readiness()
        models = {
            facts["name"]: ModelHealth(
                state=facts["state"],
                backend=facts.get("backend"),
                reason=facts.get("reason"),
                engine=facts.get("engine"),
            )
            for facts in services.models.models()
            if facts["is_active"]
        }
        return write(request, ReadyAnswer(**told("ready", verdict), models=models))

    return router


class InfoAttempt(TypedDict):
    """Part of `/info`: a backend that was tried when the service started."""

    backend: str
    outcome: Annotated[str, Field(description="`available`, or why it is not.")]
    cure: Annotated[str, Field(description="What mends it; empty where nothing is to be done.")]


class InfoAttribute(TypedDict):
    """Part of `/info`: something that models tell of faces when they are asked."""

    name: str
    models: Annotated[list[str], Field(description="What tells it; what several say is merged.")]
    option: Annotated[
        str,
        Field(
            description="Of `/extract`: `attributes` takes the name and answers under `attributes`; another is a flag, "
            "whose answer stands beside the face's other keys."
        ),
    ]
    shown: Annotated[list[str], Field(description="Keys of its answer that a person wants to see first.")]


class InfoModels(TypedDict):
    """Part of `/info`: names as in InsightFace-REST; null where a stage has no model."""

    inference_backend: Annotated[
        str,
        Field(
            description="`trt` where TensorRT engines are built, else `onnx`; `openvino` where that alone may run "
            "models."
        ),
    ]
    det_name: str | None
    rec_name: str | None
    match_threshold: Annotated[
        float | None,
        Field(description="Ours: least similarity of one person where a request of `/compare` names none."),
    ]
    false_match_rate: Annotated[
        float | None,
        Field(
            description="Ours: share of the pairs of two people that reach the recognizer's own `match_threshold`; "
            "null where it names none, or the rate is not known."
        ),
    ]
    ga_name: str | None
    mask_detector: str | None
    liveness: Annotated[list[str], Field(description="Ours: none, one or two.")]
    attributes: Annotated[list[InfoAttribute], Field(description="Ours: all that models tell of faces here.")]
    max_size: tuple[int, int]
    rec_batch_size: Annotated[int, Field(description="The setting; on a CPU it does not matter, nor does the next.")]
    det_batch_size: int
    force_fp16: bool
    triton_uri: Annotated[None, Field(description="Inherited; Triton is not served.")]
    tried: Annotated[
        list[InfoAttempt], Field(description="Backends tried at start, the best first; none where one was named.")
    ]
    backends: Annotated[
        dict[str, str | None], Field(description="What each model in use runs on; null before it is loaded.")
    ]


class InfoDefaults(RequestDefaults):
    """Part of `/info`: what a request means that does not say."""

    img_req_headers: Annotated[
        dict[str, str], Field(description="Inherited and empty: headers come with each request alone.")
    ]
    sslv3_hack: Annotated[Literal[False], Field(description="Inherited: certificates are verified, always.")]


class InfoDevice(TypedDict):
    """Part of `/info`: what the machine is and how it fares; null where it does not say."""

    module: Annotated[str | None, Field(description="Of a Jetson, its name.")]
    l4t_release: str | None
    power_mode: str | None
    gpu: Annotated[
        str | None, Field(description="`integrated`, `discrete`, or `unreachable`: here, but not given to us.")
    ]
    gpu_driver: str | None
    cores_present: int | None
    telemetry: Annotated[str, Field(description="`on`, `off`, `starting` or `nothing readable`.")]
    age_s: Annotated[
        float | None, Field(description="Seconds since the readings were made; null where there are none.")
    ]
    readings: Annotated[
        Mapping[str, Mapping[str, float]],
        Field(
            description="By quantity, then by GPU, clock, zone, rail or cause; an empty name where there is one only."
        ),
    ]
    unreadable: Annotated[Mapping[str, str], Field(description="Why a quantity is not among the readings.")]


class InfoAnswer(TypedDict):
    """Answer of `/info`."""

    version: str
    commit: Annotated[str, Field(description="The commit of git it was built from, or `unknown`.")]
    tensorrt_version: str | None
    log_level: str
    models: InfoModels
    defaults: InfoDefaults
    notice: Annotated[str | None, Field(description="What users should know of the models, or null.")]
    gallery: Annotated[bool, Field(description="Whether people can be enrolled: `/v1/collections`.")]
    plates: Annotated[bool, Field(description="Whether licence plates are read: `/plates`.")]
    device: InfoDevice


def metrics_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["service"])

    @router.get(
        "/metrics",
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
        response_class=Response,
    )
    async def metrics() -> Response:
        """Return every metric in Prometheus's text format."""
        exposed = services.exposition() if services.exposition else generate_latest(services.metrics.registry)
        return Response(exposed, headers={"content-type": CONTENT_TYPE_LATEST})

    return router


def models_router(services: Services) -> APIRouter:
    """Return the routes."""
    router = APIRouter(prefix="/models", tags=["service"])

    @router.get("", responses={200: {"model": ModelsAnswer}}, response_model=None)
    async def list_models(request: Request) -> Response:
        """List every model of the registry: licence, source, state, backend."""
        return small_answer(context_of(request), ModelsAnswer(models=services.models.models()))

    @router.get("/{name}", **documented_list(ModelAnswer, errors={404: _NO_MODEL}))
    async def get_model(request: Request, name: str) -> Response:
        """Tell of one model of the registry."""
        for facts in services.models.models():
            if facts["name"] == name:
                return small_answer(context_of(request), facts)
        raise NotFoundError(_NO_MODEL)

    def change(action: str, act: Callable[[str, float], Awaitable[ModelAnswer]], meaning: str) -> None:
        @router.post(
            f"/{{name}}/{action}",
            **documented_change(ModelAnswer, errors={403: READ_ONLY, 404: _NO_MODEL}),
            name=f"{action}_model",
            description=meaning,
        )
        async def changed(request: Request, name: str) -> Response:
            check_may_write(context_of(request))
            facts = await act(name, context_of(request).deadline)
            return small_answer(context_of(request), facts)

    change(
        "load", lambda name, deadline: services.models.load(name, deadline=deadline),
        "Load a model now rather than with the first request that needs it. Answers when it serves.",
    )  # fmt: skip
    change(
        "unload", lambda name, _: services.models.unload(name),
        "Give a model's memory back. Requests that use it are answered first; the next that needs it loads it again.",
    )  # fmt: skip
    change(
        "reload", lambda name, deadline: services.models.reload(name, deadline=deadline),
        "Load a model anew: the registry is read and the file is hashed again. The former serves until then, and on "
        "where the new one cannot be loaded.",
    )  # fmt: skip
    return router


_NO_MODEL = "No model of that name is in the registry."


_log = structlog.get_logger("jetface.models")

_ANSWER_S = 0.05
"""How long before its deadline a caller is told that a load goes on without it."""

_RELOAD_RETRY_S = 5.0

RETRY_AFTER_S = 30.0
"""A model whose load failed is tried again by the readiness check after this long: a service that is not ready gets no
request that would try."""


class StoreView:
    """Implements `ModelsView` over the store. Belongs to the event loop."""

    def __init__(
        self,
        store: ModelStore,
        *,
        active: Sequence[str],
        watchdog_s: float,
        must_be_loaded: bool = False,
        engine_status: Callable[[str], EngineStatus] | None = None,
        read_registry: Callable[[], Mapping[str, ModelSpec]] | None = None,
        order: Callable[[str], None] | None = None,
    ) -> None:
        """Create a view.

        Args:
            store: What is looked at.
            active: Names of the models the settings chose.
            watchdog_s: A run longer than this, seconds, is stuck.
            must_be_loaded: Whether a service whose active models are not loaded yet is not ready.
            engine_status: Where the engine of a model is, by name; None where no engines can be built.
            read_registry: Reads the registry anew; None where it never changes.
            order: Tells other workers what was done here and they are to `follow`; None where there are none.
        """
        self._order = order
        self._read_registry = read_registry
        self._store = store
        self._active = tuple(active)
        self._watchdog_s = watchdog_s
        self._must_be_loaded = must_be_loaded
        self._engine_status = engine_status
        self._background: set[asyncio.Task[Any]] = set()
        self._retried_at = 0.0

    def models(self) -> Sequence[ModelAnswer]:
        """Every registry entry, by name."""
        return [self._facts(status) for status in self._store.statuses()]

    def readiness(self) -> Verdict:
        """No while an active model's last load failed, or its last run did and no probe has passed since.

        No while one waits for its engine and nothing answers meanwhile. Where models must be loaded before, no until
        they are.
        """
        statuses = [self._store.status(name) for name in self._active]
        failed = [status for status in statuses if status.state is ModelState.FAILED]
        if failed:
            self._retry(failed)
            return Verdict(is_ok=False, reason=f"{failed[0].spec.name}: {failed[0].reason}")
        for status in statuses:
            if status.state is ModelState.BUILDING:
                return Verdict(is_ok=False, reason=status.reason)
        # One that was unloaded has served, and does again with the next request.
        loading = [each for each in statuses if each.state is not ModelState.SERVING and not _was_unloaded(each)]
        if self._must_be_loaded and loading:
            return Verdict(is_ok=False, reason=f"{loading[0].spec.name}: not loaded yet.")
        for model in self._store.loaded():
            if model.batcher.last_run_failed:
                self._start(model.batcher.probe())
                return Verdict(is_ok=False, reason=f"{model.spec.name}: the last run failed.")
        return Verdict(is_ok=True)

    def liveness(self) -> Verdict:
        """No when a run of a model has been going for longer than the watchdog allows, or a load hangs."""
        for status in self._store.statuses():
            if status.is_stuck:
                return Verdict(is_ok=False, reason=status.reason)
        for model in self._store.loaded():
            if model.batcher.oldest_run_s() > self._watchdog_s:
                return Verdict(is_ok=False, reason=f"{model.spec.name}: a run is stuck.")
        return Verdict(is_ok=True)

    async def load(self, name: str, *, deadline: float) -> ModelAnswer:
        """Load a model that is not loaded yet, here and in all workers.

        One that the registry does not know is looked for in its files.
        """
        return await self._change("load", name, self._load(name, deadline=deadline))

    async def unload(self, name: str) -> ModelAnswer:
        """Give a model's memory back, here and in all workers."""
        return await self._change("unload", name, self._unload(name))

    async def reload(self, name: str, *, deadline: float) -> ModelAnswer:
        """Load a model anew by its file and its registry entry as they are now, here and in all workers.

        It goes on when its caller is late.
        """
        return await self._change("reload", name, self._reload(name, deadline=deadline))

    def follow(self, order: str) -> None:
        """Do what another worker has done: `load`, `unload` or `reload` and a name; what comes of it is logged."""
        action, _, name = order.partition(" ")
        acts = {
            "load": lambda: self._load(name, deadline=math.inf),
            "unload": lambda: self._unload(name),
            "reload": lambda: self._reload(name, deadline=math.inf),
        }
        if action in acts:
            _log.info("another worker changed a model: this one follows", action=action, model=name)
            self._start(acts[action]())

    async def _change(self, action: str, name: str, act: Coroutine[Any, Any, ModelAnswer]) -> ModelAnswer:
        """Act here first: what fails here is not ordered elsewhere."""
        try:
            facts = await act
        except DeadlineExceededError:
            self._tell(action, name)  # it goes on here, too
            raise
        self._tell(action, name)
        return facts

    def _tell(self, action: str, name: str) -> None:
        if self._order is not None:
            self._order(f"{action} {name}")

    async def _load(self, name: str, *, deadline: float) -> ModelAnswer:
        try:
            self._store.spec(name)
        except (NotFoundError, ModelContractError):
            return await self._reload(name, deadline=deadline)
        await self._store.get(name, deadline=deadline)
        return self._facts(self._store.status(name))

    async def _unload(self, name: str) -> ModelAnswer:
        await self._store.unload(name, reason="An operator unloaded it; the next request loads it again.")
        return self._facts(self._store.status(name))

    async def _reload(self, name: str, *, deadline: float) -> ModelAnswer:
        registry: Mapping[str, ModelSpec] = {}
        if self._read_registry is not None:
            registry = await asyncio.to_thread(self._read_registry)
            try:
                registry[name]
            except KeyError:
                raise NotFoundError(_NO_MODEL) from None
            except RegistryError as cause:
                raise ModelContractError(f"The registry entry of the model cannot be read: {cause}.") from cause
        reload = asyncio.ensure_future(self._store.reload(registry, name))
        self._background.add(reload)
        reload.add_done_callback(self._background.discard)
        left_s = max(0.0, deadline - asyncio.get_running_loop().time() - _ANSWER_S)
        await asyncio.wait([reload], timeout=None if deadline == math.inf else left_s)
        if not reload.done():
            reload.add_done_callback(lambda done: done.cancelled() or done.exception())  # read; the store has logged it
            raise DeadlineExceededError(
                f"The deadline passed while model {name} was being loaded anew; the former serves until then.",
                retry_after_s=_RELOAD_RETRY_S, model=name,
            )  # fmt: skip
        await reload
        return self._facts(self._store.status(name))

    async def self_check(self, *, deadline: float) -> Verdict:
        """Every loaded model ran well the last time, or does now; nothing is loaded for it."""
        timeout_s = max(0.0, deadline - asyncio.get_running_loop().time())
        for model in self._store.loaded():
            if not await model.batcher.probe(timeout_s=timeout_s):
                return Verdict(is_ok=False, reason=f"{model.spec.name}: the last run failed.")
        return self.readiness()

    def _facts(self, status: ModelStatus) -> ModelAnswer:
        spec = status.spec
        return ModelAnswer(
            name=spec.name,
            task=spec.task,
            family=spec.family,
            license=spec.license,
            source=spec.source,
            state=status.state,
            is_active=spec.name in self._active,
            reason=status.progress.words if status.progress else status.reason,
            backend=status.backend,
            engine=self._engine(spec.name),
            is_batch_free=status.is_batch_free,
            sha256=status.sha256,
            cpu_nodes=status.cpu_nodes,
            input_hw=(spec.input.height_px, spec.input.width_px) if spec.input.height_px else None,
            embedding_length=spec.embedding_length,
            match_threshold=spec.match_threshold,
            false_match_rate=spec.false_match_rate,
        )

    def _engine(self, name: str) -> EngineAnswer | None:
        if self._engine_status is None:
            return None
        status = self._engine_status(name)
        elapsed_s = None if status.elapsed_s is None else round(status.elapsed_s, 1)
        return EngineAnswer(state=status.state, phase=status.phase, elapsed_s=elapsed_s, reason=status.reason)

    def _retry(self, failed: Sequence[ModelStatus]) -> None:
        if time.monotonic() - self._retried_at < RETRY_AFTER_S:
            return
        self._retried_at = time.monotonic()
        for status in failed:
            self._start(self._store.get(status.spec.name))

    def _start(self, work: Coroutine[Any, Any, object]) -> None:
        """Let `work` run on; what comes of it is seen in the models' states."""

        async def finish() -> None:
            try:
                await work
            except ServiceError:
                return  # the store has logged it

        task = asyncio.create_task(finish())
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _was_unloaded(status: ModelStatus) -> bool:
    return status.state is ModelState.UNLOADED and status.reason is not None


def info_router(services: Services) -> APIRouter:
    """Return the route."""
    router = APIRouter(tags=["service"])
    attributes = [
        InfoAttribute(
            name=attribute,
            models=[spec.name for spec in specs],
            option=FAMILIES[specs[0].family].option,
            shown=list(FAMILIES[specs[0].family].shown),
        )
        for attribute, specs in services.attributes.items()
    ]

    @router.get("/info", responses={200: {"model": InfoAnswer}}, response_model=None)
    async def info(request: Request) -> Response:
        """Tell the version, the models in use and the defaults of requests."""
        about = services.info
        active = [facts for facts in services.models.models() if facts["is_active"]]
        recognizer = next((facts for facts in active if facts["task"] == "recognition"), None)
        device = about.device()
        value = InfoAnswer(
            version=about.version,
            commit=about.commit,
            tensorrt_version=about.tensorrt_version,
            log_level=about.log_level,
            models=InfoModels(
                inference_backend=about.inference_backend,
                det_name=_name_of(active, "detection"),
                rec_name=recognizer["name"] if recognizer else None,
                match_threshold=services.match_threshold() if recognizer else None,
                false_match_rate=recognizer.get("false_match_rate") if recognizer else None,
                ga_name=_name_of(active, "gender_age"),
                mask_detector=_name_of(active, "mask"),
                liveness=[facts["name"] for facts in active if facts["task"] == "liveness"],
                attributes=attributes,
                max_size=about.max_size,
                rec_batch_size=about.rec_batch_size,
                det_batch_size=about.det_batch_size,
                force_fp16=about.force_fp16,
                triton_uri=None,
                tried=[
                    InfoAttempt(backend=tried.name, outcome=tried.outcome, cure=tried.cure) for tried in about.attempts
                ],
                backends={facts["name"]: facts.get("backend") for facts in active},
            ),
            defaults=InfoDefaults(**services.defaults, img_req_headers={}, sslv3_hack=False),
            notice=about.notice,
            gallery=services.people is not None,
            plates=services.plates is not None,
            device=InfoDevice(
                module=device.module,
                l4t_release=device.l4t_release,
                power_mode=device.power_mode,
                gpu=device.gpu,
                gpu_driver=device.gpu_driver,
                cores_present=device.cores_present,
                telemetry=device.telemetry,
                age_s=None if device.age_s is None else round(device.age_s, 1),
                readings=device.readings,
                unreadable=device.unreadable,
            ),
        )
        return small_answer(context_of(request), value)

    return router


def _name_of(active: Sequence[ModelAnswer], task: str) -> str | None:
    return next((facts["name"] for facts in active if facts["task"] == task), None)
