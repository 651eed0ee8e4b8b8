"""Every environment variable of the service: default, unit, range, meaning. Read once, at the edge.

`read_settings` is called by `app.main` and the command line only; everything below gets values as arguments.
The README's table and the env files in `deploy/` are generated from this class and tested against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.specs import NAME_PATTERN


class SettingsError(ValueError):
    """A variable has a bad value; the message is one line: variable, value, what is allowed."""


def _env(*names: str, default: Any, meaning: str, **limits: Any) -> Any:
    """Declare a field read from the first variable of `names` that is set; the first name is the one we document."""
    return Field(default, validation_alias=AliasChoices(*names), description=meaning, **limits)


class Settings(BaseSettings):
    """The effective configuration; frozen. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    # Models
    models_dir: Path = _env(
        "MODELS_DIR", default=Path("models"), meaning="Folder of weights, prepared graphs and your own registry files."
    )
    model_mirror: str = _env(
        "MODEL_MIRROR", default="", meaning="Folder or http(s) URL asked for weights before the official package."
    )
    model_download: bool = _env(
        "MODEL_DOWNLOAD", default=True, meaning="0: never download; a missing file is an error that says what to do."
    )
    model_preload: bool = _env(
        "MODEL_PRELOAD", default=False, meaning="1: load and warm models before ready; 0: on the first request."
    )
    det_model: str = _env(
        "DET_MODEL", "DET_NAME", default="auto", pattern=NAME_PATTERN,
        meaning="Detector: a registry name, or `auto`: the best one whose weights are at hand.",
    )  # fmt: skip
    rec_model: str = _env(
        "REC_MODEL", "REC_NAME", default="auto", pattern=NAME_PATTERN,
        meaning="Recognizer: a registry name, `auto`, or `none` to serve detection only.",
    )  # fmt: skip

    # Detection
    max_size: Annotated[tuple[int, int], NoDecode] = _env(
        "MAX_SIZE", default=(640, 640), meaning="Largest detector canvas: width,height in pixels, multiples of 32."
    )
    det_scales: Annotated[tuple[float, ...], NoDecode] = _env(
        "DET_SCALES", default=(1.0, 0.2), min_length=1, max_length=4,
        meaning="Canvases each picture is looked at, as fractions of MAX_SIZE; small ones find faces that fill it.",
    )  # fmt: skip
    max_faces: int = _env(
        "MAX_FACES", default=1024, ge=1, le=16384, meaning="Most faces kept per picture, best scores first."
    )

    # Backends
    backend: Literal["auto", "onnxruntime", "tensorrt"] = _env(
        "BACKEND", "INFERENCE_BACKEND", default="auto", meaning="Inference backend; one named explicitly is required."
    )
    ort_providers: Annotated[tuple[str, ...], NoDecode] = _env(
        "ORT_PROVIDERS", default=(), meaning="ONNX Runtime execution providers, in order; empty: the best at hand."
    )
    cpu_threads: int = _env(
        "CPU_THREADS", default=0, ge=0, le=1024, meaning="Cores to use; 0: as many as the cgroup quota allows."
    )
    det_batch_size: int = _env(
        "DET_BATCH_SIZE", default=4, ge=1, le=256, meaning="Most pictures per detector run on a GPU."
    )
    rec_batch_size: int = _env(
        "REC_BATCH_SIZE", default=32, ge=1, le=1024, meaning="Most faces per recognizer run on a GPU."
    )

    # Request defaults, named as in InsightFace-REST
    def_det_thresh: float = _env(
        "DEF_DET_THRESH", default=0.6, ge=0, le=1, meaning="Detector score threshold of a request that names none."
    )
    def_extract_embedding: bool = _env(
        "DEF_EXTRACT_EMBEDDING", default=True, meaning="Default of `extract_embedding`."
    )
    def_return_face_data: bool = _env(
        "DEF_RETURN_FACE_DATA", default=False, meaning="Default of `return_face_data`."
    )
    def_return_landmarks: bool = _env(
        "DEF_RETURN_LANDMARKS", default=False, meaning="Default of `return_landmarks`."
    )

    # Limits
    max_body_bytes: int = _env(
        "MAX_BODY_BYTES", default=64 * 2**20, ge=1024, meaning="Longest request body, bytes; then 413."
    )
    max_images: int = _env("MAX_IMAGES", default=128, ge=1, le=65536, meaning="Most pictures in a request; then 422.")
    max_image_pixels: int = _env(
        "MAX_IMAGE_PIXELS", default=50_000_000, ge=1, meaning="Most pixels a picture's header may claim."
    )
    decode_budget_pixels: int = _env(
        "DECODE_BUDGET_PIXELS", default=100_000_000, ge=1, meaning="Most pixels being decoded at once, all requests."
    )
    max_in_flight: int = _env(
        "MAX_IN_FLIGHT", default=64, ge=1, le=65536, meaning="Most requests being served at once; then 429."
    )
    request_timeout_s: float = _env(
        "REQUEST_TIMEOUT_S", default=30.0, gt=0, le=3600, meaning="Deadline of a request, seconds; then 504."
    )
    shutdown_grace_s: float = _env(
        "SHUTDOWN_GRACE_S", default=20.0, gt=0, le=3600, meaning="Longest drain after SIGTERM, seconds."
    )
    watchdog_s: float = _env(
        "WATCHDOG_S", default=120.0, gt=0, meaning="A run of a model longer than this, seconds, fails /health/live."
    )

    # Access
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = _env(
        "API_KEYS", default=(), meaning="Comma list of accepted keys; empty: open to all."
    )

    # Process
    host: str = _env("HOST", default="0.0.0.0", meaning="Address to listen on.")  # noqa: S104 - a server's default
    port: int = _env("PORT", default=18080, ge=1, le=65535, meaning="Port to listen on.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = _env(
        "LOG_LEVEL", default="INFO", meaning="Least severity that is logged."
    )
    log_format: Literal["text", "json"] = _env(
        "LOG_FORMAT", default="text", meaning="Log lines for people (text) or for machines (json)."
    )

    @field_validator("max_size", "det_scales", "ort_providers", "api_keys", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("backend", mode="before")
    @classmethod
    def _rest_names_of_backends(cls, value: object) -> object:
        """InsightFace-REST says `trt` and `onnx`."""
        return {"trt": "tensorrt", "onnx": "onnxruntime"}.get(value, value) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("max_size")
    @classmethod
    def _multiples_of_32(cls, value: tuple[int, int]) -> tuple[int, int]:
        if any(side < 32 or side > 8192 or side % 32 for side in value):
            raise ValueError("must be width,height, each a multiple of 32 between 32 and 8192")
        return value

    @field_validator("det_scales")
    @classmethod
    def _full_canvas_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 1 or any(not 0 < scale < 1 for scale in value[1:]):
            raise ValueError("must start with 1, followed by fractions between 0 and 1")
        return value


def variable_names(field: str) -> tuple[str, ...]:
    """Return the environment variables a field of `Settings` is read from, the documented one first."""
    alias = Settings.model_fields[field].validation_alias
    if not isinstance(alias, AliasChoices):  # pragma: no cover - every field is declared through _env
        raise TypeError(f"{field} has no variable")
    return tuple(str(choice) for choice in alias.choices)


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: A variable of ours has a bad value.
    """
    try:
        return Settings()
    except ValidationError as cause:
        raise SettingsError("; ".join(_explain(dict(error)) for error in cause.errors())) from None


def _explain(error: dict[str, Any]) -> str:
    """Turn one validation error into `VARIABLE=value: what is allowed`; a secret's value is not repeated."""
    variable = str(error["loc"][0])
    fields = {name: field for field in Settings.model_fields for name in (field, *variable_names(field))}
    field = fields.get(variable, variable)
    value = "..." if field == "api_keys" else error.get("input", PydanticUndefined)
    if isinstance(value, list):
        value = ",".join(str(part) for part in value)
    allowed = str(error["msg"]).removeprefix("Value error, ")
    return f"{variable}={value}: {allowed[:1].lower()}{allowed[1:]}"
