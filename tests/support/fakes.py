"""Layers below the API that answer at once: the Protocols of `jetface.api.services`, without pictures and models."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import httpx
import numpy as np
from fastapi import FastAPI

from jetface.api.answers import EngineAnswer, ModelAnswer
from jetface.api.app import create_api
from jetface.api.requests import RequestDefaults, RequestLimits
from jetface.api.services import ServiceInfo, Services, Verdict
from jetface.domain import (
    Embedding,
    ExtractOptions,
    Face,
    HeadPose,
    Image,
    KnownFaces,
    PictureResult,
    Quality,
    StageTimes,
)
from jetface.errors import ImageDecodeError, NotFoundError, ServiceError
from jetface.gallery.people import People
from jetface.heads.classifier import Classification
from jetface.heads.genderage import GenderAge
from jetface.heads.minifasnet import Liveness
from jetface.heads.seeta_mask import Mask
from jetface.imaging.budget import ByteBudget
from jetface.imaging.sources import Base64Picture, EncodedPicture, PictureSource, RemotePicture
from jetface.metrics import Metrics
from jetface.models.store import ModelState
from jetface.pipeline.pictures import WorkPool
from jetface.registry import ModelSpec
from jetface.server.drain import Drain
from jetface.server.limits import Access, Places
from jetface.server.protocol import Connections

EMBEDDING_LENGTH = 512
DEFAULTS = RequestDefaults(
    det_thresh=0.6, extract_embedding=True, return_face_data=False, return_landmarks=False, extract_ga=False,
    detect_masks=False,
)  # fmt: skip
INFO = ServiceInfo(
    version="0.0.0", log_level="INFO", max_size=(640, 640), inference_backend="onnx",
    det_batch_size=4, rec_batch_size=32, force_fp16=True,
)  # fmt: skip


def face_number(number: int, image_index: int, *, scale: float = 1.0) -> Face:
    """Return a face that tells its number: each is 10 px narrower and scores 0.1 less than the one before."""
    width = 57.9 - 10 * number
    vector = np.zeros(EMBEDDING_LENGTH, np.float32)
    vector[number] = 1
    return Face(
        image_index=image_index,
        box=np.array([86.7, 32.2, 86.7 + width, 110.9], np.float32) * np.float32(scale),
        score=0.7986 - 0.1 * number,
        landmarks=np.array([[95.9, 61.1], [120, 60], [108, 80], [98, 95], [118, 94]], np.float32),
        landmarks_from="detector",
        visible=1.0,
        crop=np.full((112, 112, 3), 40 * number % 256, np.uint8),
        embedding=Embedding(vector, 26.68),
        quality=Quality(
            score=0.5, sharpness=25.0, brightness=0.5, size_px=57.9, pose=HeadPose(yaw=-8.5, pitch=4.25, roll=1.5)
        ),
        attributes={
            "gender_age": GenderAge(gender=number % 2, age=31 + number),
            "mask": Mask(mask=True, mask_probs={"mask": np.float32(0.75), "no_mask": np.float32(0.25)}),
            "liveness": Liveness(live=np.float32(0.625), is_live=True),
            "emotion": Classification(label="glad", score=np.float32(0.75), scores={"glad": np.float32(0.75)}),
        },
    )


def with_what_is_wanted(face: Face, options: ExtractOptions) -> Face:
    """Return the face without what was not asked for."""
    return replace(
        face,
        crop=face.crop if options.with_crop else None,
        embedding=face.embedding if options.with_embedding else None,
        quality=face.quality if options.with_quality else None,
        attributes={name: value for name, value in face.attributes.items() if name in options.attributes},
    )


def jpeg_of(image: Image | None = None) -> bytes:
    """Return a small JPEG, or `image` as one."""
    pixels = np.full((120, 160, 3), 128, np.uint8) if image is None else image
    return bytes(cv2.imencode(".jpg", pixels)[1].tobytes())


def bytes_of(source: PictureSource) -> bytes:
    """Return the bytes a source carries.

    Raises:
        ImageDecodeError: None, or not base64.
    """
    if isinstance(source, EncodedPicture):
        found = source.data
    elif isinstance(source, Base64Picture):
        try:
            text = source.text if isinstance(source.text, str) else bytes(source.text).decode("latin-1")
            found = base64.b64decode(text.partition("base64,")[2] or text, validate=True)
        except (binascii.Error, ValueError):
            raise ImageDecodeError("The picture is not base64.") from None
    else:
        found = source.url.encode()
    if not found:
        raise ImageDecodeError("The picture is empty.")
    return found


class FakeExtractor:
    """Finds `num_faces` faces in every picture whose bytes can be had; remembers what it was asked."""

    def __init__(self) -> None:
        self.num_faces = 2
        self.face_changes: dict[str, Any] = {}
        self.delay_s = 0.0
        self.error: Exception | None = None
        self.sources: list[PictureSource] = []
        self.options: ExtractOptions | None = None
        self.crop_options: ExtractOptions | None = None
        self.known: Sequence[KnownFaces] = ()
        self.deadline = 0.0
        self.whose: str | None = None
        self.num_calls = 0
        self.num_cancelled = 0

    def faces_of(self, source: PictureSource, index: int) -> list[Face]:
        """Return the faces in a picture; a test may look into it."""
        del source
        return [face_number(number, index) for number in range(self.num_faces)]

    async def extract(
        self, sources: Sequence[PictureSource], options: ExtractOptions, *, deadline: float, whose: str | None = None
    ) -> list[PictureResult]:
        """Answer with the first faces; `options` decide what each carries."""
        self.options, self.whose = options, whose
        await self._work(sources, deadline)

        def faces(index: int, source: PictureSource) -> tuple[Face, ...]:
            found = self.faces_of(source, index)[: options.limit_faces or None]
            return tuple(replace(with_what_is_wanted(face, options), **self.face_changes) for face in found)

        return [_result(index, source, faces(index, source)) for index, source in enumerate(sources)]

    async def embed_crops(
        self,
        sources: Sequence[PictureSource],
        options: ExtractOptions = ExtractOptions(score_threshold=0.0),  # noqa: B008 - frozen, as the real default is
        *,
        deadline: float,
        whose: str | None = None,
    ) -> list[PictureResult]:
        """Answer with one face a picture."""
        self.crop_options, self.whose = options, whose
        await self._work(sources, deadline)
        face = replace(with_what_is_wanted(face_number(0, 0), options), landmarks_from=None, visible=None)
        return [_result(index, source, (replace(face, image_index=index),)) for index, source in enumerate(sources)]

    async def recognize(
        self,
        sources: Sequence[PictureSource],
        known: Sequence[KnownFaces],
        *,
        deadline: float,
        whose: str | None = None,
    ) -> list[PictureResult]:
        """Answer with as many faces as are known."""
        self.known, self.whose = known, whose
        await self._work(sources, deadline)
        results = []
        for index, (source, faces) in enumerate(zip(sources, known, strict=True)):
            rows = faces.landmarks if faces.landmarks is not None else faces.boxes
            count = 0 if rows is None else len(rows)
            given = (replace(face_number(number, index), landmarks_from="given") for number in range(count))
            results.append(_result(index, source, tuple(given)))
        return results

    async def _work(self, sources: Sequence[PictureSource], deadline: float) -> None:
        self.sources = list(sources)
        self.deadline = deadline
        self.num_calls += 1
        try:
            await asyncio.sleep(self.delay_s)
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if self.error is not None:
            raise self.error


def _result(index: int, source: PictureSource, faces: tuple[Face, ...]) -> PictureResult:
    times = StageTimes(decode_s=0.001, queue_s=0.002, detect_s=0.003, align_s=0.0, recognize_s=0.004)
    try:
        if not isinstance(source, RemotePicture):
            bytes_of(source)
    except ServiceError as error:
        return PictureResult(image_index=index, error=error, took_s=0.0004)
    return PictureResult(
        image_index=index, faces=faces, image_hw=(480, 640), detection_scale=1.6654, times=times, took_s=0.0213
    )


@dataclass(frozen=True, slots=True)
class FakePicture:
    """Decoded pixels."""

    pixels: Image


class FakeLoader:
    """Decodes with OpenCV."""

    @contextlib.asynccontextmanager
    async def load(self, source: PictureSource, *, deadline: float) -> AsyncIterator[FakePicture]:
        """Decode; `deadline` does not matter here."""
        del deadline
        pixels = cv2.imdecode(np.frombuffer(bytes_of(source), np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ImageDecodeError("The file is not a picture.")
        yield FakePicture(np.asarray(pixels, np.uint8))


def model_answer(name: str, task: str, family: str = "any", **known: Any) -> ModelAnswer:
    """Return what is told of a model in use that is not loaded yet; `known` says what is otherwise."""
    answer = ModelAnswer(
        name=name, task=task, family=family, license="research", source="insightface", state=ModelState.UNLOADED,
        is_active=True, reason=None, backend=None, engine=None, is_batch_free=None, sha256=None, cpu_nodes=(),
        input_hw=None, embedding_length=None, match_threshold=None, false_match_rate=None,
    )  # fmt: skip
    answer.update(known)  # type: ignore[typeddict-item]  # keys of the answer
    return answer


class FakeModels:
    """Two models in use and one that is not; others and verdicts that a test can set."""

    def __init__(self) -> None:
        self.ready = Verdict(is_ok=True)
        self.live = Verdict(is_ok=True)
        self.checked = Verdict(is_ok=True)
        self.others: tuple[ModelAnswer, ...] = ()
        self.changes: list[str] = []
        """Models that were loaded or unloaded."""

    def models(self) -> Sequence[ModelAnswer]:
        """Return the three, and those that a test adds."""
        return [
            *self.others,
            model_answer("det_500m", "detection", "scrfd", state=ModelState.SERVING, backend="onnxruntime-cpu"),
            model_answer(
                "glintr100", "recognition", "arcface", state=ModelState.FAILED, is_active=False,
                reason="The file is missing.", input_hw=(112, 112), embedding_length=512,
            ),
            model_answer(
                "w600k_mbf", "recognition", "arcface", input_hw=(112, 112), embedding_length=512,
                engine=EngineAnswer(state="building", phase="Building engine", elapsed_s=95.0, reason=None),
            ),
        ]  # fmt: skip

    def readiness(self) -> Verdict:
        """Return what the test set."""
        return self.ready

    def liveness(self) -> Verdict:
        """Return what the test set."""
        return self.live

    async def load(self, name: str, *, deadline: float) -> ModelAnswer:
        """Return one of them."""
        del deadline
        for facts in self.models():
            if facts["name"] == name:
                self.changes.append(name)
                return facts
        raise NotFoundError("No model of that name is in the registry.")

    async def unload(self, name: str) -> ModelAnswer:
        """Return one of them."""
        return await self.load(name, deadline=0)

    async def reload(self, name: str, *, deadline: float) -> ModelAnswer:
        """Return one of them."""
        return await self.load(name, deadline=deadline)

    async def self_check(self, *, deadline: float) -> Verdict:
        """Return what the test set; `deadline` does not matter here."""
        del deadline
        return self.checked


class Harness:
    """The API over fakes, and what a test looks at."""

    def __init__(
        self,
        *,
        limits: RequestLimits | None = None,
        access: Access | None = None,
        defaults: RequestDefaults | None = None,
        match_threshold: float = 0.35,
        max_in_flight: int = 64,
        grace_s: float = 5.0,
        root_path: str = "",
        connections: Connections | None = None,
        extractor: FakeExtractor | None = None,
        body_budget_bytes: int = 2**30,
        people: People | None = None,
        attributes: Mapping[str, Sequence[ModelSpec]] | None = None,
    ) -> None:
        self.extractor = extractor or FakeExtractor()
        self.models = FakeModels()
        self.metrics = Metrics()
        self.pool = WorkPool(2)
        self.places = Places(max_in_flight)
        self.drain = Drain(grace_s, on_expiry=self.places.abandon)
        self.app: FastAPI = create_api(
            Services(
                extractor=self.extractor,
                models=self.models,
                loader=FakeLoader(),
                pool=self.pool,
                metrics=self.metrics,
                byte_budget=ByteBudget(body_budget_bytes),
                info=INFO,
                defaults=defaults or DEFAULTS,
                limits=limits or RequestLimits(),
                access=access or Access(),
                root_path=root_path,
                people=people,
                attributes=attributes or {},
                match_threshold=lambda: match_threshold,
            ),
            drain=self.drain,
            places=self.places,
            connections=connections,
        )

    def renewed(self) -> Harness:
        """Return it as it was made, but for what metrics counted; one that drains goes on draining."""
        vars(self.extractor).update(vars(FakeExtractor()))
        vars(self.models).update(vars(FakeModels()))
        self.pool.threads = WorkPool(2).threads
        return self

    @contextlib.asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        """Return a client without default headers that say more than the test does."""
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://jetface") as client:
            del client.headers["accept"]
            yield client
        self.pool.close()
