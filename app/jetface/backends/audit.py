"""Which nodes of a graph do not run where they were meant to: ONNX Runtime gives them to the CPU in silence."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import structlog

_log = structlog.get_logger(__name__)

RECORD_ENTRY = ("session.record_ep_graph_assignment_info", "1")
"""Session configuration that lets `nodes_elsewhere` find anything, from ONNX Runtime 1.24 on."""

_SHAPE_OPERATORS = frozenset(
    {"Shape", "Size", "Gather", "Slice", "Concat", "Unsqueeze", "Squeeze", "Cast", "Constant", "Add", "Sub", "Mul"}
    | {"Div", "Floor", "ReduceProd", "Reshape", "Range", "ConstantOfShape"}
)
"""What computes sizes from sizes: ONNX Runtime keeps those on the CPU on purpose, as their answers are needed there."""


@runtime_checkable
class Audited(Protocol):
    """A backend that knows which of its nodes run elsewhere."""

    @property
    def cpu_nodes(self) -> tuple[str, ...]:
        """Nodes that run on the CPU although a GPU was asked for, `operator name`."""
        ...


def can_tell() -> bool:
    """Whether this ONNX Runtime says where nodes went; before 1.24 only a profile tells."""
    import onnxruntime  # noqa: PLC0415 - it is slow to load, and on some devices must never be

    return hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def nodes_elsewhere(session: Any, provider: str) -> tuple[str, ...]:
    """Return the nodes that another provider runs, such as `Shape Shape_12`, as often as there are.

    Args:
        session: An open `onnxruntime.InferenceSession`, its options with `RECORD_ENTRY`.
        provider: Full name of the one that was meant to run all.
    """
    return _sorted(
        f"{node.op_type} {node.name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    )


def nodes_in_profile(profile: Path, provider: str) -> tuple[str, ...]:
    """Return what `nodes_elsewhere` does, from the file that a session's `end_profiling` names.

    Args:
        profile: Events of at least one run.
        provider: Full name of the one that was meant to run all.
    """
    seen: dict[str, str] = {}
    for event in json.loads(profile.read_bytes()):
        arguments = event.get("args", {})
        ran_on = arguments.get("provider", "")
        if event.get("cat") == "Node" and ran_on and ran_on != provider:
            name = event["name"].removesuffix("_kernel_time")
            seen[name] = f"{arguments['op_name']} {name}"
    return _sorted(seen.values())


def report(nodes: Sequence[str], provider: str, model: str) -> None:
    """Say in the log which nodes of a model run elsewhere: a warning where that costs time, by operator."""
    counts: dict[str, int] = {}
    for node in nodes:
        operator = node.split(" ", 1)[0]
        counts[operator] = counts.get(operator, 0) + 1
    if counts.keys() - _SHAPE_OPERATORS:
        _log.warning("part of the model runs on the CPU", model=model, provider=provider, operators=counts)
    elif counts:
        _log.info("sizes are computed on the CPU", model=model, provider=provider, operators=counts)


def _sorted(nodes: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(node.strip() for node in nodes))
