"""The families code knows, and how a graph of each becomes a head that runs it.

To add one: name it in `jetface.registry` with its task, write its head, and add a line to `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from jetface.heads.canvases import CanvasHead, DetectorItem, LooksHead
from jetface.heads.lanes import Head
from jetface.heads.rows import Arcface, GenderAgeHead, LivenessHead, MaskHead, RowHead
from jetface.heads.scrfd import Scrfd
from jetface.heads.yunet import Yunet
from jetface.registry import Family, ModelSpec
from jetface.runtimes.backend import Backend

_PROBE_CANVAS_HW = (128, 128)
"""A canvas any detector takes whose size is free: small, and its three strides have different numbers of anchors."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A head whose graph has answered once as its entry says."""

    head: Head[Any, Any]
    probe_item: Any
    """An item any sound model of the family can run."""


class Probe(Protocol):
    """How a graph of a family becomes a head."""

    def __call__(
        self, spec: ModelSpec, backend: Backend, fixed_hw: tuple[int, int] | None, *, takes_pixels: bool = False
    ) -> Probed:
        """Run the graph once and return its head.

        Args:
            spec: Its registry entry.
            backend: Owned by the calling thread for the duration of the call.
            fixed_hw: Height and width the graph is fixed to, None where it takes any canvas.
            takes_pixels: The graph normalises pixels itself.

        Raises:
            ModelContractError: The graph is not what the entry says.
            InferenceError: The run failed.
        """
        ...


def probe_item(spec: ModelSpec, canvas_hw: tuple[int, int] | None) -> Any:
    """Return an item any sound model of the entry's family can run.

    Args:
        spec: Its registry entry.
        canvas_hw: For a detector: height and width of a canvas it takes, None where it takes any.
    """
    if spec.task == "detection":
        canvas = np.zeros((*(canvas_hw or _PROBE_CANVAS_HW), 3), np.uint8)
        return (DetectorItem(canvas=canvas, score_threshold=0.5),)
    return np.full((spec.input.height_px, spec.input.width_px, 3), 127, np.uint8)


def _looks(kind: type[CanvasHead]) -> Probe:
    """Return how a family is probed that finds faces on canvases."""

    def probe(
        spec: ModelSpec, backend: Backend, fixed_hw: tuple[int, int] | None, *, takes_pixels: bool = False
    ) -> Probed:
        canvas_hw = fixed_hw or _PROBE_CANVAS_HW
        head = LooksHead(kind.probe(spec, backend, canvas_hw, takes_pixels=takes_pixels))
        return Probed(head, probe_item(spec, canvas_hw))

    return probe


def _rows(kind: type[RowHead[Any]]) -> Probe:
    """Return how a family is probed that answers each picture with a row."""

    def probe(
        spec: ModelSpec, backend: Backend, fixed_hw: tuple[int, int] | None, *, takes_pixels: bool = False
    ) -> Probed:
        del fixed_hw
        return Probed(kind.probe(spec, backend, takes_pixels=takes_pixels), probe_item(spec, None))

    return probe


FAMILIES: Mapping[Family, Probe] = MappingProxyType(
    {
        "scrfd": _looks(Scrfd),
        "yunet": _looks(Yunet),
        "arcface": _rows(Arcface),
        # SFace wants the crops of ArcFace and answers as it does; what differs is its entry's input.
        "sface": _rows(Arcface),
        "genderage": _rows(GenderAgeHead),
        "seeta_mask": _rows(MaskHead),
        "minifasnet": _rows(LivenessHead),
    }
)
"""Every family of the registry."""
