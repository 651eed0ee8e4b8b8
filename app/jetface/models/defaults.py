"""Which models serve: those that are named, else the best whose weights are at hand, else the starter models."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from jetface.registry import ModelSpec, RegistryError

PREFERENCE: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "detection": (
            *("scrfd_10g_bnkps", "det_10g", "det_500m", "scrfd_2.5g_bnkps", "det_2.5g"),
            *("yunet_n", "yunet_2023mar"),
        ),
        "recognition": (
            *("glintr100", "w600k_r50", "w600k_mbf", "w600k_mbf_dequantized"),
            *("mobilefacenet128", "sface_2021dec"),
        ),
    }
)
"""Best first, except that det_500m stands before the 2.5g detectors: on a CPU it answers four times as fast and finds
the same faces of the golden set. What we have not verified stands last."""

STARTERS: Mapping[str, str] = MappingProxyType(
    {"detection": "starter_det", "recognition": "starter_rec", "plate_detection": "starter_plate"}
)
"""Small models that come with jetface: of faces, they serve when nothing better is at hand."""


_WORDS: Mapping[str, Sequence[str]] = MappingProxyType(dict.fromkeys(PREFERENCE, ("auto", "none")))
"""What settings may say instead of a name; for every other task `none`."""


@dataclass(frozen=True, slots=True)
class ModelChooser:
    """Turns what settings say of models into registry names."""

    registry: Mapping[str, ModelSpec]
    is_at_hand: Callable[[ModelSpec], bool]
    """Whether an entry's weights can be had without a download."""

    def choose(self, variable: str, name: str, *tasks: str) -> str | None:
        """Return the registry name that is meant; None for `none`.

        Args:
            variable: The setting, for the error.
            name: Its value.
            tasks: What the model is to do, one of these.

        Raises:
            RegistryError: The entry cannot be read; or none of that name does such a task: the line lists which do.
        """
        words = _WORDS.get(tasks[0], ("none",))
        if name in words:
            return self._best(tasks[0]) if name == "auto" else None
        spec = self.registry.get(name)
        if spec is None or spec.task not in tasks:
            able = sorted(known for known, spec in self.registry.items() if spec.task in tasks)
            allowed = f"{', '.join(words)}" + (f" or one of {', '.join(able)}" if able else "")
            near = [known for known in able if name in self.registry[known].nearest_to]
            near = near or difflib.get_close_matches(name, able, n=1)
            hint = f". The nearest that serves: {variable}={near[0]}" if near else ""
            raise RegistryError(f"{variable}={name!r} is not allowed: {allowed}{hint}")
        return spec.name

    def require(self, variable: str, name: str, task: str) -> str:
        """Return the registry name that is meant; errors are those of `choose`, also for a task left out."""
        chosen = self.choose(variable, name, task)
        if chosen is None:
            raise RegistryError(f"{variable}={name!r} is not allowed: a model is needed")
        return chosen

    def _best(self, task: str) -> str:
        """Of the weights at hand the most preferred, else the starter model."""
        for name in PREFERENCE[task]:
            if name in self.registry and self.is_at_hand(self.registry[name]):
                return name
        return self.registry[STARTERS[task]].name


def starter_notice(names: Sequence[str]) -> str | None:
    """Return what to say when starter models answer; None when none of `names` is one.

    Args:
        names: Of the models in use.
    """
    starters = [name for name in names if name in STARTERS.values()]
    if not starters:
        return None
    cures = []
    if set(starters) - {STARTERS["plate_detection"]}:
        cures.append(
            "For better ones run `jetface models pull --accept-license buffalo_sc`, or name models in DET_MODEL and "
            "REC_MODEL."
        )
    if STARTERS["plate_detection"] in starters:
        cures.append("For plates add a detector by `jetface models add --family yolo`, and name it in PLATE_DET_MODEL.")
    return (
        f"Starter models are answering ({', '.join(starters)}): for trying and testing, not for production. "
        f"{' '.join(cures)}"
    )
