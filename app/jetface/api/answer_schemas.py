"""What answers look like, for the OpenAPI description; the shapes are made in `jetface.api.shapes`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Status = Literal["ok", "failed"]
Rotation = Annotated[
    Literal[0, 90, 180, 270] | None,
    Field(
        description="With `rotations=auto`: degrees clockwise by which the picture has to be turned for its faces to "
        "stand upright."
    ),
]
Millis = Annotated[float, Field(description="Milliseconds.")]
LandmarksFrom = Annotated[
    Literal["detector", "given", "box"],
    Field(
        description="Whose landmarks aligned the face: the detector's, yours, or an upright face's in the box, a guess "
        "that embeddings are worse for."
    ),
]
Visible = Annotated[
    float, Field(ge=0, le=1, description="Share of the aligned face that lies within the picture; the rest is black.")
]
Embedding = Annotated[list[float] | str, Field(description="Numbers, or base64 of little-endian float32.")]


class _Answer(BaseModel):
    """Fields serialise by name; `model_` is no reserved prefix here."""

    model_config = ConfigDict(protected_namespaces=())


class ErrorDetail(_Answer):
    """What went wrong."""

    code: str
    message: str
    details: dict[str, Any] = Field(default_factory=dict)


class ErrorAnswer(_Answer):
    """Every answer that is not a success."""

    error: ErrorDetail
    request_id: str


class FacePose(_Answer):
    """Where a head is turned, degrees, estimated from the landmarks."""

    yaw: float = Field(description="Positive to the right edge of the picture.")
    pitch: float = Field(description="Positive to the upper edge.")
    roll: float = Field(description="Positive clockwise.")


class FaceQuality(_Answer):
    """How well a face can be recognized, from its pixels and landmarks alone."""

    score: float = Field(description="The worst of the others, each from 0 to 1, times `visible` of the face.")
    sharpness: float = Field(
        description="Variance of the Laplacian of what the crop shows of the picture; 25 counts half."
    )
    brightness: float = Field(description="Of what the crop shows of the picture, 0 black to 1 white.")
    size: float = Field(description="Shorter side of the box, source pixels; 80 and more count full.")
    pose: FacePose


class ExtractFace(_Answer):
    """A face of `/extract`; which keys are there depends on the request."""

    bbox: list[int] | None = None
    prob: float | None = None
    num_det: int | None = None
    scale: float | None = None
    size: int | None = None
    norm: float | None = None
    vec: Embedding | None = None
    gender: int | None = Field(default=None, description="0 female, 1 male; null where unknown.")
    age: int | None = Field(default=None, description="Years; null where unknown.")
    mask: bool | None = None
    mask_probs: dict[str, float] | None = Field(default=None, description="Of `mask` and `no_mask`.")
    live: float | None = Field(default=None, description="Probability of a live face; null where unknown.")
    is_live: bool | None = Field(default=None, description="Whether that is more likely than any kind of picture.")
    quality: FaceQuality | None = None
    landmarks: list[list[float]] | None = Field(
        default=None, description="Whole numbers, rounded; floats with `landmarks_precise`."
    )
    landmarks_from: LandmarksFrom | None = Field(
        default=None, description="With `landmarks`, and always where it is `box`."
    )
    visible: Visible | None = Field(default=None, description="With `quality`, and always below 0.95.")
    facedata: str | None = Field(default=None, description="The aligned 112x112 crop as base64 JPEG, quality 95.")


class ExtractPicture(_Answer):
    """One picture of `/extract`."""

    status: Status
    took_ms: Millis
    rotation: Rotation = None
    faces: list[ExtractFace]
    traceback: str | None = Field(default=None, description="Inherited name: one sentence why the picture failed.")


class Took(_Answer):
    """Timings of `/extract`; the last two with `verbose_timings`."""

    total_ms: Millis
    read_imgs_ms: Millis | None = None
    embed_all_ms: Millis | None = None


class ExtractAnswer(_Answer):
    """Answer of `/extract`; with `embed_only` it has `took_ms` and `status` instead of `took`."""

    took: Took | None = None
    took_ms: Millis | None = None
    status: Literal["ok"] | None = None
    data: list[ExtractPicture]


class SlotError(_Answer):
    """Why one picture failed."""

    code: str
    message: str


class DetectFace(_Answer):
    """A face of `/detect`, source pixels."""

    box: list[float] | None = None
    score: float | None = None
    landmarks: list[list[float]] | None = None
    landmarks_from: LandmarksFrom | None = None
    visible: Visible | None = None


class DetectPicture(_Answer):
    """One picture of `/detect`."""

    status: Status
    took_ms: Millis
    image_hw: tuple[int, int] | None
    rotation: Rotation = None
    faces: list[DetectFace]
    error: SlotError | None = None


class DetectAnswer(_Answer):
    """Answer of `/detect`."""

    took_ms: Millis
    pictures: list[DetectPicture]


class RecognizeFace(_Answer):
    """A face of `/recognize`."""

    embedding: Embedding | None = None
    norm: float | None = None
    box: list[float] | None = None
    landmarks_from: LandmarksFrom | None = Field(default=None, description="Not of pictures that are aligned crops.")
    visible: Visible | None = Field(default=None, description="Not of pictures that are aligned crops.")


class RecognizePicture(_Answer):
    """One picture of `/recognize`."""

    status: Status
    took_ms: Millis
    image_hw: tuple[int, int] | None
    rotation: Rotation = None
    faces: list[RecognizeFace]
    error: SlotError | None = None


class RecognizeAnswer(_Answer):
    """Answer of `/recognize`."""

    took_ms: Millis
    pictures: list[RecognizePicture]


class CompareAnswer(_Answer):
    """Answer of `/compare`; the plural keys when `others` were given."""

    took_ms: Millis
    threshold: float
    similarity: float | None = Field(default=None, description="Cosine in [-1, 1]; null where a face is missing.")
    is_match: bool | None = None
    similarities: list[list[float | None]] | None = None
    matches: list[list[bool]] | None = None
    pictures: list[DetectPicture]
    others: list[DetectPicture] | None = None


class EngineAnswer(_Answer):
    """The engine of a model: the model compiled for this machine's GPU."""

    state: Literal["absent", "building", "checking", "serving", "rejected"]
    progress: float | None = Field(default=None, description="Of its build, 0 to 1.")
    eta_s: float | None = Field(default=None, description="Seconds the build may still take.")
    reason: str | None = Field(default=None, description="Why it was rejected, or what it waits for.")


class ModelAnswer(_Answer):
    """One registry entry and what has become of it."""

    name: str
    task: str
    family: str
    license: str
    source: str
    state: Literal["unloaded", "loading", "building", "serving", "failed"]
    is_active: bool = Field(description="Whether the settings chose it for a stage.")
    reason: str | None = None
    backend: str | None = None
    engine: EngineAnswer | None = Field(default=None, description="Null where no engines can be built.")
    is_batch_free: bool | None = Field(
        default=None,
        description="Whether a run may take several items. False: its graph may mix them, so each is run alone. Null: "
        "not loaded yet.",
    )
    sha256: str | None = Field(default=None, description="Of the file that serves; null where none does.")
    cpu_nodes: list[str] = Field(
        default_factory=list, description="Nodes that run on the CPU although a GPU was asked for: operator and name."
    )
    input_hw: tuple[int, int] | None = None
    embedding_length: int | None = None
    match_threshold: float | None = Field(
        default=None, description="Least cosine similarity of one person; null where the entry names none."
    )
    false_match_rate: float | None = Field(
        default=None, description="Share of the pairs of two people that reach `match_threshold`; null: not known."
    )


class ModelsAnswer(_Answer):
    """Answer of `/models`."""

    models: list[ModelAnswer]


class HealthAnswer(_Answer):
    """Answer of the health routes; 503 when `status` is not the good one."""

    status: Literal["ok", "ready", "alive", "failed"]
    reason: str | None = None


class ModelHealth(_Answer):
    """State of one model in use."""

    state: Literal["unloaded", "loading", "building", "serving", "failed"]
    backend: str | None = None
    reason: str | None = None
    engine: EngineAnswer | None = Field(default=None, description="Null where no engines can be built.")


class ReadyAnswer(HealthAnswer):
    """Answer of `/health/ready`."""

    models: dict[str, ModelHealth]
