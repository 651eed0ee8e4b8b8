"""Every environment variable of the service: default, unit, range, meaning. Read once, at the edge.

`read_settings` is called by `jetface.main` and the command line only; everything below gets values as arguments.
The table of docs/settings.md and the env files in `deploy/` are generated from this class and tested against it.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le
from pydantic import AliasChoices, Field, PrivateAttr, SecretStr, ValidationError, field_validator
from pydantic.config import JsonDict
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jetface.logs import masked
from jetface.registry import NAME_PATTERN

_HOST_OR_NETWORK = re.compile(r"(?:\*\.)?[0-9A-Za-z_-][0-9A-Za-z._-]*|[0-9A-Fa-f:.]+(?:/\d{1,3})?")

ModelName = Annotated[str, Field(pattern=NAME_PATTERN)]
Origin = Annotated[str, Field(pattern=r"^(\*|https?://([0-9a-z._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?)$")]

DeviceId = Annotated[str, Field(pattern=r"^(\d{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+)$")]

SECRET_FIELDS = frozenset({"api_keys", "gallery_url", "read_api_keys"})
"""Fields whose values are never shown."""


_LEAST_LIKENESS = 0.85
"""By `difflib`: APIKEY for API_KEYS is 0.86, HOSTNAME for HOST 0.67."""

PREFIX = "JETFACE_"
"""What every variable may begin with: `JETFACE_HOST` wins over `HOST`, which shells and other programs set, too."""

_CACHE = Path("~/.cache/jetface")
"""Where weights and prepared graphs lie by themselves: below `XDG_CACHE_HOME`, where that is set."""

_OF_OTHERS = frozenset({"IMAGE", "GPU", "PUBLISH", "DOCKERFILE", "RENDER_GID", "DATA", "VERSION"})
"""What follows JETFACE_ in variables that are not the service's."""


_MEANINGLESS = (
    "COMPOSE_PROJECT_NAME", "DEF_IMG_REQ_HEADERS", "DEF_SSLV3_HACK", "FACE_MODEL_CLASS", "IFR_VERSION", "TRITON_URI",
)  # fmt: skip
"""What env files of InsightFace-REST set besides."""


class SettingsError(ValueError):
    """A variable has a bad value; the message is one line: variable, value, what is allowed."""


def _env(*names: str, default: Any, meaning: str, allowed: str = "", **limits: Any) -> Any:
    """Declare a field read from the first variable of `names` that is set; the first name is the one we document.

    `allowed` says in words what `allowed_values` cannot tell from the type and its limits.
    """
    extra: JsonDict | None = {"allowed": allowed} if allowed else None
    return Field(default, validation_alias=AliasChoices(*names), description=meaning, json_schema_extra=extra, **limits)


def _url(value: str) -> str:
    """Return what is a http(s) URL. Raises ValueError for anything else."""
    parts = urlsplit(value)  # its port, and an address in brackets, are read when they are asked for
    is_plain = re.fullmatch(r"""[!$-;=?-\[\]_a-z|~]+""", value) and not (parts.query or parts.fragment)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0 or not is_plain:
        raise ValueError("url")
    return value


def cache_dir() -> Path:
    """Return the folder of what can be made again. Raises RuntimeError where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return Path(base, "jetface") if os.path.isabs(base) else _CACHE.expanduser()  # noqa: PTH117 - may be empty


class Settings(BaseSettings):
    """The effective configuration; frozen. A variable that is set but empty counts as not set."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, populate_by_name=True)

    # Models
    models_dir: Path = _env(
        "MODELS_DIR",
        default=_CACHE,
        validate_default=True,
        allowed="folder",
        meaning="Folder of weights, prepared graphs and your own registry files.",
    )
    model_mirror: str = _env(
        "MODEL_MIRROR",
        default="",
        allowed="folder, http(s) URL (special characters of its password percent-encoded) or empty",
        meaning="Folder or http(s) URL asked for weights before the official package.",
    )
    model_download: bool = _env(
        "MODEL_DOWNLOAD", default=True, meaning="0: never download; a missing file is an error that says what to do."
    )
    model_preload: bool = _env(
        "MODEL_PRELOAD", default=False, meaning="1: load and warm models before ready; 0: on the first request."
    )
    model_ttl_s: float = _env(
        "MODEL_TTL_S", default=0.0, ge=0, le=31_536_000,
        meaning="A model that no request needed for this long, seconds, gives its memory back; 0: none does.",
    )  # fmt: skip
    det_model: str = _env(
        "DET_MODEL", "DET_NAME", default="auto", pattern=NAME_PATTERN, allowed="registry name, auto or none",
        meaning="Detector: a registry name, `auto`: the best one whose weights are at hand, or `none`: no faces.",
    )  # fmt: skip
    rec_model: str = _env(
        "REC_MODEL", "REC_NAME", default="auto", pattern=NAME_PATTERN, allowed="registry name, auto or none",
        meaning="Recognizer: a registry name, `auto`, or `none` to serve detection only.",
    )  # fmt: skip
    ga_model: str = _env(
        "GA_MODEL", "GA_NAME", default="none", pattern=NAME_PATTERN, allowed="registry name or none",
        meaning="Gender and age: a registry name, or `none`.",
    )  # fmt: skip
    mask_model: str = _env(
        "MASK_MODEL", "MASK_DETECTOR", default="none", pattern=NAME_PATTERN, allowed="registry name or none",
        meaning="Face masks: a registry name, or `none`.",
    )  # fmt: skip
    liveness_model: Annotated[tuple[ModelName, ...], NoDecode] = _env(
        "LIVENESS_MODEL", default=("none",), min_length=1, max_length=2,
        allowed="one or two registry names, comma between them, or none",
        meaning="Liveness: one or two registry names, whose opinions are averaged, or `none`.",
    )  # fmt: skip
    plate_det_model: str = _env(
        "PLATE_DET_MODEL", default="none", pattern=NAME_PATTERN, allowed="registry name or none",
        meaning="Finds licence plates for /plates: a registry name such as `starter_plate`, or `none`.",
    )  # fmt: skip
    plate_ocr_model: str = _env(
        "PLATE_OCR_MODEL", default="none", pattern=NAME_PATTERN, allowed="registry name or none",
        meaning="Reads what PLATE_DET_MODEL finds: a registry name such as `plate_ocr_cct_xs`, or `none`.",
    )  # fmt: skip
    attribute_models: Annotated[tuple[ModelName, ...], NoDecode] = _env(
        "ATTRIBUTE_MODELS", default=("none",), min_length=1, max_length=16,
        allowed="comma list of up to 16 registry names, or none",
        meaning="Other attributes of faces, told under `attributes` by the names of their models, or `none`.",
    )  # fmt: skip

    # Detection
    max_size: Annotated[tuple[int, int], NoDecode] = _env(
        "MAX_SIZE",
        default=(640, 640),
        allowed="width,height, from 32 to 8192, rounded down to multiples of 32",
        meaning="Largest detector canvas: width,height in pixels.",
    )
    det_scales: Annotated[tuple[float, ...], NoDecode] = _env(
        "DET_SCALES", default=(1.0, 0.15), min_length=1, max_length=4,
        allowed="comma list of 1 to 4 numbers: 1, then fractions between 0 and 1",
        meaning="Canvases each picture is looked at, as fractions of MAX_SIZE; small ones find faces that fill it.",
    )  # fmt: skip
    max_upscale: float = _env(
        "MAX_UPSCALE", default=3.0, ge=1, allowed="number from 1, or inf",
        meaning="Most by which a small picture is enlarged to find its faces; 1: fastest on a CPU; inf: to MAX_SIZE.",
    )  # fmt: skip
    max_faces: int = _env(
        "MAX_FACES", default=1024, ge=1, le=16384, meaning="Most faces kept per picture, best scores first."
    )

    # Backends
    backend: Literal["auto", "onnxruntime", "openvino", "tensorrt"] = _env(
        "BACKEND", "INFERENCE_BACKEND", default="auto", meaning="Inference backend; one named explicitly is required."
    )
    ort_providers: Annotated[tuple[str, ...], NoDecode] = _env(
        "ORT_PROVIDERS",
        default=(),
        allowed="comma list or empty",
        meaning="ONNX Runtime execution providers, in order; empty: the best at hand.",
    )
    openvino_precision: Literal["auto", "f32", "bf16"] = _env(
        "OPENVINO_PRECISION",
        default="auto",
        meaning="Arithmetic of OpenVINO; auto: bf16 for models measured to keep their accuracy, where the CPU has it.",
    )
    det_precision: Literal["auto", "fp32", "fp16", "int8"] = _env(
        "DET_PRECISION", default="auto",
        meaning="Of the detector; fp16: in TensorRT engines alone. auto: INT8 only within INT8_LEAST_IOU.",
    )  # fmt: skip
    rec_precision: Literal["auto", "fp32", "fp16", "int8"] = _env(
        "REC_PRECISION", default="auto",
        meaning="Of the recognizer; as DET_PRECISION, within INT8_LEAST_COSINE and INT8_MOST_TAR_LOSS.",
    )  # fmt: skip
    int8_least_cosine: Annotated[float, Ge(0), Le(1)] | None = _env(
        "INT8_LEAST_COSINE", default=None, allowed="number from 0 to 1, or empty",
        meaning="Mean cosine to FP32 from which `auto` may take a quantized recognizer; empty: not asked.",
    )  # fmt: skip
    int8_most_tar_loss: Annotated[float, Ge(0), Le(100)] | None = _env(
        "INT8_MOST_TAR_LOSS", default=None, allowed="number from 0 to 100, or empty",
        meaning="Points of TAR at 1 false match in 1,000 it may have lost for that; without both `auto` takes none.",
    )  # fmt: skip
    int8_least_iou: Annotated[float, Ge(0), Le(1)] | None = _env(
        "INT8_LEAST_IOU", default=None, allowed="number from 0 to 1, or empty",
        meaning="Mean IoU with FP32 from which `auto` may take such a detector; empty: never.",
    )  # fmt: skip
    force_fp16: bool = _env(
        "FORCE_FP16", default=True,
        meaning="Half precision in TensorRT engines of `auto`; 0: FP32. DET_PRECISION and REC_PRECISION say more.",
    )  # fmt: skip
    cuda_cache_disable: bool = _env(
        "CUDA_CACHE_DISABLE", default=False, meaning="1: CUDA keeps no kernels it compiled on disk between starts."
    )
    gpu_device_ids: Annotated[tuple[DeviceId, ...], NoDecode] = _env(
        "GPU_DEVICE_IDS", default=(), max_length=64,
        allowed="comma list of numbers as nvidia-smi has them, or of GPU-... and MIG-... UUIDs, or empty",
        meaning="GPUs that the workers take in turn, one each; empty: the first that CUDA shows.",
    )  # fmt: skip
    gpu_memory_limit_bytes: int = _env(
        "GPU_MEMORY_LIMIT_BYTES", default=0, ge=0,
        meaning="Most GPU memory of a model on ONNX Runtime, each batch size and canvas, bytes; 0: no limit.",
    )  # fmt: skip
    trt_engine_cache_enable: bool = _env(
        "TRT_ENGINE_CACHE_ENABLE", default=True, meaning="Keep TensorRT engines between starts."
    )
    trt_engine_cache_path: Path | None = _env(
        "TRT_ENGINE_CACHE_PATH", default=None, allowed="folder", meaning="Where; default: engines in MODELS_DIR."
    )
    trt_dla_core: int = _env(
        "TRT_DLA_CORE", default=-1, ge=-1, le=1,
        meaning="Deep learning accelerator TensorRT engines use on a Jetson, the GPU taking what it cannot; -1: none.",
    )  # fmt: skip
    trt_workspace_bytes: int = _env(
        "TRT_WORKSPACE_BYTES", default=0, ge=0,
        meaning="Most scratch memory for building a TensorRT engine, bytes; 0: as much as there is.",
    )  # fmt: skip
    trt_optimization_level: int = _env(
        "TRT_OPTIMIZATION_LEVEL", default=3, ge=0, le=5,
        meaning="How long a build looks for fast kernels: 0 shortest, 5 longest.",
    )  # fmt: skip
    serve_while_building: bool = _env(
        "SERVE_WHILE_BUILDING", default=True,
        meaning="Answer by ONNX Runtime while TensorRT engines are built; 0: 503 `model_building` until then.",
    )  # fmt: skip
    cpu_threads: int = _env(
        "CPU_THREADS", default=0, ge=0, le=1024, meaning="Cores to use; 0: as many as the cgroup quota allows."
    )
    det_batch_size: int = _env(
        "DET_BATCH_SIZE", default=4, ge=1, le=256, meaning="Most pictures per detector run on a GPU."
    )
    rec_batch_size: int = _env(
        "REC_BATCH_SIZE",
        default=32,
        ge=1,
        le=1024,
        meaning="Most faces per run of the recognizer or an attribute model on a GPU.",
    )

    # Request defaults, named as in InsightFace-REST
    def_det_thresh: Annotated[float, Ge(0), Le(1)] | None = _env(
        "DEF_DET_THRESH", default=None, allowed="number from 0 to 1, or empty",
        meaning="Detector score threshold of a request that names none; empty: the detector's own, 0.6 for most.",
    )  # fmt: skip
    def_extract_embedding: bool = _env("DEF_EXTRACT_EMBEDDING", default=True, meaning="Default of `extract_embedding`.")
    def_return_face_data: bool = _env("DEF_RETURN_FACE_DATA", default=False, meaning="Default of `return_face_data`.")
    def_return_landmarks: bool = _env("DEF_RETURN_LANDMARKS", default=False, meaning="Default of `return_landmarks`.")
    def_extract_ga: bool = _env("DEF_EXTRACT_GA", default=False, meaning="Default of `extract_ga`.")
    def_detect_masks: bool = _env("DEF_DETECT_MASKS", default=False, meaning="Default of `detect_masks`.")

    # Limits
    max_body_bytes: int = _env(
        "MAX_BODY_BYTES", default=64 * 2**20, ge=1024, meaning="Longest request body, bytes; then 413."
    )
    body_budget_bytes: int = _env(
        "BODY_BUDGET_BYTES", default=0, ge=0,
        meaning="Most bytes of bodies and fetched files above 256 KiB; more waits, then 429. 0: a quarter of memory.",
    )  # fmt: skip
    result_cache_mb: int = _env(
        "RESULT_CACHE_MB", default=0, ge=0, le=1_048_576,
        meaning="Most memory, MiB, for answers given again to an identical picture, options and API key; 0: none.",
    )  # fmt: skip
    max_images: int = _env("MAX_IMAGES", default=128, ge=1, le=65536, meaning="Most pictures in a request; then 422.")
    max_image_pixels: int = _env(
        "MAX_IMAGE_PIXELS", default=50_000_000, ge=1, meaning="Most pixels a picture's header may claim."
    )
    decode_budget_pixels: int = _env(
        "DECODE_BUDGET_PIXELS", default=100_000_000, ge=1, meaning="Most pixels being decoded at once, all requests."
    )
    accept_tiff: bool = _env(
        "ACCEPT_TIFF", default=False, meaning="Read TIFF, too; off, because its decoders have a record of holes."
    )
    jpeg_decoder: Literal["simplejpeg", "pyturbojpeg"] = _env(
        "JPEG_DECODER", default="simplejpeg",
        meaning="libjpeg-turbo as simplejpeg brings it, or the system's, by PyTurboJPEG (extra `turbojpeg`).",
    )  # fmt: skip
    use_nvjpeg: bool = _env(
        "USE_NVJPEG",
        meaning="Decode JPEG by nvImageCodec where installed: for hosts with few free cores (on a Jetson unverified).",
        default=False,
    )
    max_in_flight: int = _env(
        "MAX_IN_FLIGHT", default=64, ge=1, le=65536, meaning="Most requests being served at once; then 429."
    )
    max_connections: int = _env(
        "MAX_CONNECTIONS", default=4096, ge=16, le=1_000_000,
        meaning="Most connections open at once, fewer where `ulimit -Hn` is low; then one that is idle makes way.",
    )  # fmt: skip
    request_timeout_s: float = _env(
        "REQUEST_TIMEOUT_S", default=30.0, gt=0, le=3600, meaning="Deadline of a request, seconds; then 504."
    )
    min_free_memory_bytes: int = _env(
        "MIN_FREE_MEMORY_BYTES", default=256 * 2**20, ge=0,
        meaning="Memory that loading a model or building an engine must leave free, bytes, or 503; 0: no check.",
    )  # fmt: skip
    load_timeout_s: float = _env(
        "LOAD_TIMEOUT_S", default=900.0, gt=0, le=86400,
        meaning="A model whose opening takes longer than this, seconds, hangs: it fails, and so does /health/live.",
    )  # fmt: skip
    shutdown_grace_s: float = _env(
        "SHUTDOWN_GRACE_S", default=20.0, gt=0, le=3600, meaning="Longest drain after SIGTERM, seconds."
    )
    watchdog_s: float = _env(
        "WATCHDOG_S",
        default=120.0,
        gt=0,
        le=86400,
        meaning="A run of a model longer than this, seconds, fails /health/live.",
    )

    # Pictures that lie elsewhere
    url_fetch: Literal["off", "public", "allow-list"] = _env(
        "URL_FETCH",
        default="off",
        meaning="Pictures by URL: never, from public addresses, or of URL_ALLOW_HOSTS.",
    )
    url_allow_hosts: Annotated[tuple[str, ...], NoDecode] = _env(
        "URL_ALLOW_HOSTS",
        default=(),
        allowed="comma list of hosts, *.domains, addresses and networks, or empty",
        meaning="Hosts of `allow-list`; private addresses only where listed themselves or within a listed network.",
    )
    root_images_dir: Path | None = _env(
        "ROOT_IMAGES_DIR",
        default=None,
        allowed="folder or empty",
        meaning="Folder of local pictures that `urls` may name; empty: none.",
    )

    # Gallery
    gallery_dir: Path | None = _env(
        "GALLERY_DIR", default=None, allowed="folder or empty",
        meaning="Folder of the gallery, who is who; empty: there is none. For one process: WORKERS is 1.",
    )  # fmt: skip
    gallery_url: SecretStr | None = _env(
        "GALLERY_URL", default=None, allowed="postgresql://user:password@host/database, or empty",
        meaning="Database of the gallery in place of GALLERY_DIR, for several replicas or WORKERS.",
    )  # fmt: skip
    gallery_index: Literal["exact", "faiss", "cuda"] = _env(
        "GALLERY_INDEX", default="exact",
        meaning="How GALLERY_DIR is searched; faiss (extra `faiss`): a tenth of the time for a million faces and more; "
        "cuda: exact, in an NVIDIA GPU's memory.",
    )  # fmt: skip
    gallery_keep_crops: bool = _env(
        "GALLERY_KEEP_CROPS", default=False,
        meaning="1: keep the aligned face of each enrolled picture, to show it and for a change of the recognizer.",
    )  # fmt: skip
    gallery_ttl_days: float = _env(
        "GALLERY_TTL_DAYS", default=0.0, ge=0, le=36500,
        meaning="Faces enrolled longer ago than this, days, are deleted, and persons without any; 0: none is.",
    )  # fmt: skip

    compreface_collection: str = _env(
        "COMPREFACE_COLLECTION", default="compreface", pattern=r"^[^/\x00-\x1f]{1,256}$", allowed="1 to 256 characters",
        meaning="Collection of the gallery that clients of CompreFace see, at /api/v1.",
    )  # fmt: skip

    # Access
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = _env(
        "API_KEYS",
        default=(),
        allowed="comma list of ASCII words, or empty",
        meaning="Accepted keys; empty: open to all.",
    )
    read_api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = _env(
        "READ_API_KEYS",
        default=(),
        allowed="comma list of ASCII words, or empty",
        meaning="Keys that change nothing: neither the gallery nor which models are loaded.",
    )
    metrics_open: bool = _env("METRICS_OPEN", default=False, meaning="1: /metrics needs no key.")
    cors_origins: Annotated[tuple[Origin, ...], NoDecode] = _env(
        "CORS_ORIGINS",
        default=(),
        allowed="comma list of origins such as https://app.example, *, or empty",
        meaning="Origins whose pages may call the service from a browser; empty: its own page only.",
    )

    # Process
    host: str = _env(
        "HOST", default="0.0.0.0", pattern=r"^\S+$", allowed="address",  # noqa: S104 - a server's default
        meaning="Address to listen on; `::` is all of IPv6 and IPv4.",
    )  # fmt: skip
    uds: Path | None = _env(
        "UDS", default=None, allowed="path or empty",
        meaning="Unix socket to listen on instead of HOST and PORT; who may enter its folder may ask.",
    )  # fmt: skip
    workers: int = _env(
        "WORKERS", "NUM_WORKERS", default=1, ge=1, le=64,
        meaning="Service processes, each with its own models, sharing the port, the cores and the limits below.",
    )  # fmt: skip
    worker_timeout_s: float = _env(
        "WORKER_TIMEOUT_S", default=30.0, ge=2, le=3600,
        meaning="With several WORKERS: one whose event loop stands still for so long, seconds, is killed and replaced.",
    )  # fmt: skip
    port: int = _env("PORT", default=18080, ge=1, le=65535, meaning="Port to listen on.")
    root_path: str = _env(
        "ROOT_PATH", default="", pattern=r"^(/[A-Za-z0-9._~-]+)*$", allowed="path such as /faces, or empty",
        meaning="Path below which a proxy serves the service, whether or not it takes the path off; empty: none.",
    )  # fmt: skip
    keep_alive_s: int = _env(
        "KEEP_ALIVE_S", default=75, ge=1, le=3600,
        meaning="Longest silence between two requests of a connection, seconds; longer than a proxy keeps its own.",
    )  # fmt: skip
    forwarded_allow_ips: Annotated[tuple[str, ...], NoDecode] = _env(
        "FORWARDED_ALLOW_IPS", default=(), allowed="comma list of addresses and networks, *, or empty",
        meaning="Proxies believed whom they speak for, X-Forwarded-For, in the log; *: all; empty: none.",
    )  # fmt: skip
    telemetry_interval_s: float = _env(
        "TELEMETRY_INTERVAL_S", default=5.0, ge=0, le=3600,
        meaning="Seconds between two readings of the machine's sensors; 0: none.",
    )  # fmt: skip
    memory_trim_s: float = _env(
        "MEMORY_TRIM_S", default=30.0, ge=0, le=86400,
        meaning="Seconds after which freed memory is given back to the system, again and again; 0: never.",
    )  # fmt: skip
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = _env(
        "LOG_LEVEL", default="INFO", meaning="Least severity that is logged."
    )
    log_format: Literal["text", "json"] = _env(
        "LOG_FORMAT", default="text", meaning="Log lines for people (text) or for machines (json)."
    )
    otel_exporter_otlp_endpoint: str = _env(
        "OTEL_EXPORTER_OTLP_ENDPOINT", default="", allowed="http(s) URL or empty",
        meaning="Collector to which spans of requests are sent, OTLP over HTTP; empty: none. Needs the extra `otel`.",
    )  # fmt: skip

    @field_validator(
        "liveness_model", "attribute_models", "max_size", "det_scales", "ort_providers", "gpu_device_ids",
        "url_allow_hosts", "api_keys", "read_api_keys", "cors_origins", "forwarded_allow_ips",
        mode="before",
    )  # fmt: skip
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("rec_model", "ga_model", "mask_model", mode="before")
    @classmethod
    def _rest_word_for_none(cls, value: object) -> object:
        """InsightFace-REST says `None`."""
        return "none" if isinstance(value, str) and value.lower() == "none" else value

    @field_validator("backend", mode="before")
    @classmethod
    def _rest_names_of_backends(cls, value: object) -> object:
        """InsightFace-REST says `trt` and `onnx`."""
        return {"trt": "tensorrt", "onnx": "onnxruntime"}.get(value, value) if isinstance(value, str) else value

    @field_validator("log_level", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("models_dir")
    @classmethod
    def _home_expanded(cls, value: Path) -> Path:
        """Never the folder that one happens to be in. Source: XDG Base Directory Specification 0.8."""
        try:
            return cache_dir() if value == _CACHE else value.expanduser()
        except RuntimeError as cause:
            raise ValueError("home") from cause

    @field_validator("max_size")
    @classmethod
    def _multiples_of_32(cls, value: tuple[int, int]) -> tuple[int, int]:
        width_px, height_px = (side // 32 * 32 for side in value)
        if min(width_px, height_px) < 32 or max(width_px, height_px) > 8192:
            raise ValueError("sides")
        return width_px, height_px

    @field_validator("model_mirror")
    @classmethod
    def _url_or_folder(cls, value: str) -> str:
        """Refuse what is meant for a URL and is none: taken for a folder, its password would be part of a path."""
        return _url(value) if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", value) else value

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _url_or_empty(cls, value: str) -> str:
        return _url(value) if value else value

    _variables: dict[str, str] = PrivateAttr(default_factory=dict)

    def model_post_init(self, _context: Any) -> None:
        """Keep by which of their names fields were set."""
        environ = _set_variables(os.environ)
        self._variables.update({field: _variable_meant(field, environ) for field in Settings.model_fields})

    def variable(self, field: str) -> str:
        """Return the variable a field was read from, for messages; where none is set, the documented one."""
        return self._variables[field]

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show values without the passwords of URLs."""
        return [(name, masked(value) if isinstance(value, str) else value) for name, value in super().__repr_args__()]

    @field_validator("det_scales")
    @classmethod
    def _full_canvas_first(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if value[0] != 1 or any(not 0 < scale < 1 for scale in value[1:]):
            raise ValueError("scales")
        return value

    @field_validator("url_allow_hosts")
    @classmethod
    def _host_or_network(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_HOST_OR_NETWORK.fullmatch(entry) for entry in value):
            raise ValueError("hosts")
        return value

    @field_validator("root_path", mode="before")
    @classmethod
    def _no_slash_at_the_end(cls, value: object) -> object:
        return value.rstrip("/") if isinstance(value, str) else value

    @field_validator("gallery_url")
    @classmethod
    def _database(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("database")
        return value

    @field_validator("forwarded_allow_ips")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value if value != ("*",) else ():
            ipaddress.ip_network(entry)
        return value

    @field_validator("api_keys", "read_api_keys")
    @classmethod
    def _fit_for_a_header(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not all(key.get_secret_value().isascii() and key.get_secret_value().isprintable() for key in value):
            raise ValueError("keys")
        return value


def variable_names(field: str) -> tuple[str, ...]:
    """Return the environment variables a field of `Settings` is read from, the documented one first."""
    alias = Settings.model_fields[field].validation_alias
    if not isinstance(alias, AliasChoices):  # pragma: no cover - every field is declared through _env
        raise TypeError(f"{field} has no variable")
    return tuple(str(choice) for choice in alias.choices)


def _set_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    return {name.upper(): value for name, value in environ.items() if value}


def _is_inert(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable says nothing beside another: InsightFace-REST's files set a GA_MODEL that nothing reads."""
    return name == "GA_MODEL" and environ.get(name, "").lower() == "none" and "GA_NAME" in environ


def _variable_meant(field: str, environ: Mapping[str, str]) -> str:
    """Return which of a field's variables counts; the documented one where none is set."""
    names = variable_names(field)
    return next((name for name in names if name in environ and not _is_inert(name, environ)), names[0])


def remarks(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return what an operator should know of variables that do not mean all they say, one sentence each."""
    said = {**_set_variables(environ), **_prefixed(environ)}
    found = []
    sides = [float(side) for side in said.get("MAX_SIZE", "").split(",") if side.strip()]
    if sides and sides != [*settings.max_size]:
        width_px, height_px = settings.max_size
        found.append(f"MAX_SIZE={said['MAX_SIZE']} is rounded down to {width_px},{height_px}: multiples of 32.")
    if ignored := [name for name in _MEANINGLESS if name in said]:
        found.append(f"Variables of InsightFace-REST that mean nothing here are ignored: {', '.join(ignored)}.")
    return found


def misspelt_variables(environ: Mapping[str, str]) -> Mapping[str, str]:
    """Return variables that are set and mean nothing, but are spelt nearly as one of ours: that one by their names."""
    ours = {name for field in Settings.model_fields for name in variable_names(field)}
    found = {}
    for name, value in environ.items():
        upper = name.upper()
        bare = upper.removeprefix(PREFIX)
        if not value or bare in ours or (bare != upper and (bare in _OF_OTHERS or "://" in value)):
            continue
        near = difflib.get_close_matches(bare, ours, n=1, cutoff=_LEAST_LIKENESS)
        if near:
            found[name] = near[0]
    return found


def allowed_values(field: str) -> str:
    """Say in words what a field of `Settings` may be."""
    info = Settings.model_fields[field]
    if isinstance(info.json_schema_extra, dict):
        return str(info.json_schema_extra["allowed"])
    if get_origin(info.annotation) is Literal:
        *others, last = get_args(info.annotation)
        return f"{', '.join(others)} or {last}"
    if info.annotation is bool:
        return "0 or 1"
    limits = {type(limit): limit for limit in info.metadata}
    words = ["integer" if info.annotation is int else "number"]
    if Gt in limits:
        words.append(f"above {limits[Gt].gt}")
    if Ge in limits:
        words.append(f"from {limits[Ge].ge}")
    if Le in limits:
        words.append(f"to {limits[Le].le}")
    return " ".join(words)


def read_settings() -> Settings:
    """Read the environment.

    Raises:
        SettingsError: A variable of ours has a bad value; one line, even when there are several.
    """
    environ = _set_variables(os.environ)
    by_other_name: dict[str, Any] = {"GA_MODEL": environ["GA_NAME"]} if _is_inert("GA_MODEL", environ) else {}
    try:
        settings = Settings(**{**by_other_name, **_prefixed(os.environ)})
    except ValidationError as cause:
        field_by_name = {name: field for field in Settings.model_fields for name in variable_names(field)}
        fields = dict.fromkeys(field_by_name[str(error["loc"][0])] for error in cause.errors())
        raise SettingsError("; ".join(map(_explain, fields))) from None
    if settings.gallery_dir is not None and settings.gallery_url is not None:
        raise SettingsError("GALLERY_DIR and GALLERY_URL are both set: a gallery has one place")
    if settings.gallery_url is not None and settings.gallery_index != "exact":
        raise SettingsError("GALLERY_INDEX is for GALLERY_DIR: with GALLERY_URL the database searches")
    if settings.gallery_dir is not None and settings.workers > 1:
        raise SettingsError(
            f"WORKERS={settings.workers} is not allowed with GALLERY_DIR: one process writes and searches the gallery. "
            "Set WORKERS=1, or GALLERY_URL in its place"
        )
    return settings


def _prefixed(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return what variables with the prefix say, by the documented names."""
    # Kubernetes sets JETFACE_PORT to an address where a service is called so.
    said = {name.upper(): value for name, value in environ.items() if value and not value.startswith("tcp://")}
    found = {}
    for field in Settings.model_fields:
        names = variable_names(field)
        value = next((said[PREFIX + name] for name in names if PREFIX + name in said), None)
        if value is not None:
            found[names[0]] = value
    return found


def _explain(field: str) -> str:
    """Tell in one line what is wrong with the variable a field was read from; secrets in its value are not repeated."""
    environ = _set_variables(os.environ)
    with_prefix = (PREFIX + name for name in variable_names(field))
    variable = next((name for name in with_prefix if name in environ), None) or _variable_meant(field, environ)
    if variable not in environ:
        return f"{variable} is not set, and this user has no home folder for its default: {allowed_values(field)}"
    value = "'...'" if field in SECRET_FIELDS else masked(repr(re.sub(r":/.*@", "://***@", environ[variable])))
    return f"{variable}={value} is not allowed: {allowed_values(field)}"
