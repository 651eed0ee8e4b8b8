"""What the answer of `/info` looks like, for the OpenAPI description."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field


class InfoAttempt(BaseModel):
    """Part of `/info`: a backend that was tried when the service started."""

    backend: str
    outcome: str = Field(description="`available`, or why it is not.")
    cure: str = Field(description="What mends it; empty where nothing is to be done.")


class InfoModels(BaseModel):
    """Part of `/info`: names as in InsightFace-REST; null where a stage has no model."""

    inference_backend: str
    det_name: str | None
    rec_name: str | None
    match_threshold: float | None = Field(
        description="Ours: least similarity of one person where a request of `/compare` names none."
    )
    false_match_rate: float | None = Field(
        description="Ours: share of the pairs of two people that reach the recognizer's own `match_threshold`; null "
        "where it names none, or the rate is not known."
    )
    ga_name: str | None
    mask_detector: str | None
    liveness: list[str] = Field(description="Ours: none, one or two.")
    max_size: tuple[int, int]
    tried: list[InfoAttempt] = Field(description="Backends tried at start, the best first; none where one was named.")
    backends: dict[str, str | None] = Field(description="What each model in use runs on; null before it is loaded.")


class InfoDefaults(BaseModel):
    """Part of `/info`: what a request means that does not say."""

    det_thresh: float
    extract_embedding: bool
    return_face_data: bool
    return_landmarks: bool
    extract_ga: bool
    detect_masks: bool


class InfoDevice(BaseModel):
    """Part of `/info`: what the machine is and how it fares; null where it does not say."""

    module: str | None = Field(description="Of a Jetson, its name.")
    l4t_release: str | None
    power_mode: str | None
    gpu: str | None = Field(description="`integrated`, `discrete`, or `unreachable`: here, but not given to us.")
    gpu_driver: str | None
    cores_present: int | None
    telemetry: str = Field(description="`on`, `off`, `starting` or `nothing readable`.")
    readings: dict[str, dict[str, float]] = Field(
        description="By quantity, then by GPU, clock, zone, rail or cause; an empty name where there is one only."
    )
    unreadable: dict[str, str] = Field(description="Why a quantity is not among the readings.")


class InfoAnswer(BaseModel):
    """Answer of `/info`."""

    version: str
    tensorrt_version: str | None
    log_level: str
    models: InfoModels
    defaults: InfoDefaults
    notice: Annotated[str | None, Field(description="What users should know of the models, or null.")]
    device: InfoDevice
