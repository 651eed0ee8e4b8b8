"""Families: what a kind of model does, what its outputs mean, and how its answer is chosen, asked for and told.

A family is data that stands beside its head. Settings, requests, answers, their description, the page and the client go
by it; none of them knows a family by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jetface.heads.canvases import CanvasHead, DetectorItem, LooksHead
from jetface.heads.lanes import Head
from jetface.heads.rows import RowHead
from jetface.registry import InputSpec, ModelSpec
from jetface.runtimes.backend import Backend

PROBE_CANVAS_HW = (128, 128)
"""A canvas any detector takes whose size is free: small, and its three strides have different numbers of anchors."""

ATTRIBUTE_VARIABLE = "ATTRIBUTE_MODELS"
"""The setting that chooses models of attributes that have no setting of their own."""

ATTRIBUTE_OPTION = "attributes"
"""The option of a request that names attributes which have no option of their own, and the key of a face they are
under."""

FAMILY_FIELDS = (
    *("embedding_length", "box_enlargement", "score_threshold", "match_threshold", "labels", "activation"),
    *("alphabet", "slots", "pad"),
)
"""What an entry may say only where its family takes it."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A head whose graph has answered once as its entry says."""

    head: Head[Any, Any]
    probe_item: Any
    """An item any sound model of the family can run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """A kind of model."""

    task: str
    """What its models do, as entries say it."""
    head: type[CanvasHead | RowHead[Any]]
    """What runs its graphs, and knows what their outputs mean."""
    usual_input: InputSpec
    """What graphs of it are usually trained for; `jetface models add` goes by it where nobody says otherwise."""
    is_input_fixed: bool = False
    """Whether its graphs scale pixels themselves, so that no entry may say otherwise: fed wrongly they answer plausibly
    and wrong."""
    canvas_fill: int = 0
    """For a detector: what its canvases show around the picture, in all three channels, [0, 255]."""
    needs: frozenset[str] = frozenset()
    """Of `FAMILY_FIELDS`: those every entry has."""
    takes: frozenset[str] = frozenset()
    """Those an entry may have beside these."""
    variable: str = ATTRIBUTE_VARIABLE
    """The setting that chooses its models."""
    answer: type[Any] | None = None
    """The TypedDict its head returns for a face, which describes it to callers; None where it tells no attribute."""
    option: str = ATTRIBUTE_OPTION
    """The option of `/extract` that asks for the attribute. One of its own puts the answer's keys beside the face's
    others; `attributes` puts them under `attributes`, by the model's name."""
    shown: tuple[str, ...] = ()
    """The keys of the answer that a person wants to see first."""
    merge: Callable[[Sequence[Any]], Any] | None = None
    """What makes an answer of what one or more models say of a face; None where one model's answer is it."""

    @property
    def is_named(self) -> bool:
        """Whether its models are attributes that are asked for, and answered, by their names."""
        return self.answer is not None and self.option == ATTRIBUTE_OPTION

    def fault(self, spec: ModelSpec) -> str | None:
        """Say why no model of this family can be what an entry says; None where it can."""
        wanted, found = self.usual_input, spec.input
        if spec.task != self.task:
            return f"family {spec.family} does {self.task}, not {spec.task}"
        said = (found.mean, found.std, found.channel_order)
        if self.is_input_fixed and said != (wanted.mean, wanted.std, wanted.channel_order):
            return f'family {spec.family} wants mean = 0, std = 1, channel_order = "{wanted.channel_order}"'
        for field in FAMILY_FIELDS:
            is_given = getattr(spec, field) != ModelSpec.model_fields[field].default
            if is_given and field not in self.needs | self.takes:
                return f"{field} means nothing to family {spec.family}"
            if not is_given and field in self.needs:
                return f"{field} is needed for family {spec.family}"
        return self.head.fault(spec)

    def probe(
        self, spec: ModelSpec, backend: Backend, fixed_hw: tuple[int, int] | None, *, takes_pixels: bool = False
    ) -> Probed:
        """Run a graph once and return its head.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.
            fixed_hw: Height and width the graph is fixed to, None where it takes any canvas.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The graph is not what the entry says.
            InferenceError: The run failed.
        """
        if issubclass(self.head, RowHead):
            return Probed(self.head.probe(spec, backend, takes_pixels=takes_pixels), probe_item(spec, None))
        canvas_hw = fixed_hw or PROBE_CANVAS_HW
        detector = self.head.probe(spec, backend, canvas_hw, takes_pixels=takes_pixels)
        return Probed(LooksHead(detector), probe_item(spec, canvas_hw))


def probe_item(spec: ModelSpec, canvas_hw: tuple[int, int] | None) -> Any:
    """Return an item any sound model of the entry's family can run.

    Args:
        spec: Its registry entry.
        canvas_hw: For a detector: height and width of a canvas it takes, None where it takes any.
    """
    if spec.is_detector:
        canvas = np.zeros((*(canvas_hw or PROBE_CANVAS_HW), 3), np.uint8)
        return (DetectorItem(canvas=canvas, score_threshold=0.5),)
    return np.full((spec.input.height_px, spec.input.width_px, 3), 127, np.uint8)
