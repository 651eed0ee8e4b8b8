"""The numbers of a run: one TOML file a model, read once, frozen, wrong names refused."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import tomllib

Table = TypeVar("Table")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """How long and how fast to learn.

    Attributes:
        seed: Of every random number of the run.
        steps: Optimiser steps in all; the learning rate falls to zero over them.
        warmup_steps: First steps, over which the learning rate rises.
        batch: Pictures a step.
        learning_rate: Highest learning rate.
        weight_decay: Of AdamW, on convolution and matrix weights.
        average_decay: Of the exponential average of the weights, which is what is exported.
    """

    seed: int
    steps: int
    warmup_steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    average_decay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerShape:
    """Size of the recogniser: see `training.recognizer`."""

    widths: list[int]
    depths: list[int]
    expansion: int
    last_width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognizerLoss:
    """What the recogniser's batches and loss are made of.

    Attributes:
        mixed_share: Share of each batch that is mixed from two faces.
        relation_weight: Of the term that compares the similarities within the batch.
    """

    mixed_share: float
    relation_weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorShape:
    """Size of the detector: see `training.detector`."""

    stem_widths: list[int]
    widths: list[int]
    depths: list[int]
    neck_width: int
    head_width: int
    head_depth: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorLoss:
    """What the detector's canvases and loss are made of.

    Attributes:
        canvas_px: Side of the training canvas.
        second_teacher_weight: Share of the second teacher in the target scores, [0, 1].
        large_from_px: Box side on the canvas above which the half-size canvas is believed.
        score_weight: Of the score term.
        box_weight: Of the box term.
        landmark_weight: Of the landmark term.
        balance_levels: Give each stride the same say in the loss; else the many small faces rule.
    """

    canvas_px: int
    second_teacher_weight: float
    large_from_px: float
    score_weight: float
    box_weight: float
    landmark_weight: float
    balance_levels: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorExport:
    """What the exported file adds to the trained weights.

    Attributes:
        score_offsets: Added to the score logits at strides 8, 16, 32.
        smooth_rank: Width to which the pyramid's smoothing convolutions are thinned; 0 leaves them.
    """

    score_offsets: list[float]
    smooth_rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlateLoss:
    """What the plate detector's canvases and loss are made of.

    Attributes:
        canvas_px: Side of the training canvas.
        real_share: Share of the canvases that are pictures of real traffic.
        num_plates: Drawn plates to choose from.
        num_signs: Drawn signs to choose from.
        num_vehicles: Drawn vehicles to choose from.
        cells_a_plate: Most cells that learn to answer for one plate.
        box_weight: Of the box term; the score term has 1.
    """

    canvas_px: int
    real_share: float
    num_plates: int
    num_signs: int
    num_vehicles: int
    cells_a_plate: int
    box_weight: float


def read_table(path: Path, name: str, kind: type[Table]) -> Table:
    """Read one table of a TOML file into a dataclass.

    Raises:
        ValueError: The table lacks a name or holds one that the dataclass does not know.
    """
    table: dict[str, Any] = tomllib.loads(path.read_text())[name]
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]  # a dataclass by contract
    if table.keys() != known:
        raise ValueError(f"{path} [{name}]: missing {known - table.keys()}, unknown {table.keys() - known}")
    return kind(**table)
