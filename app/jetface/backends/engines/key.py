"""What decides whether a plan fits: graph, toolkit, device and options, as one key. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from jetface.backends.engines.kit import EngineRequest, Profile

PLAN_SUFFIX = ".plan"

_KEY_DIGITS = 16
"""Hexadecimal digits of the key in a file name: 64 bits tell the few plans of a folder apart."""

_KIT_PREFIX = "kit."


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """A plan fits where every part of its key is equal."""

    model: str
    """Registry name."""
    precision: str
    parts: Mapping[str, str]
    """What the plan was made of and for, by name; those of the toolkit begin with `kit.`."""

    @property
    def file_name(self) -> str:
        """Name of the plan's file: model, precision, and a digest of all parts."""
        text = json.dumps([self.model, self.precision, sorted(self.parts.items())])
        return f"{self.model}-{self.precision}-{hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS]}{PLAN_SUFFIX}"

    @property
    def facts(self) -> Mapping[str, str]:
        """What the toolkit said of itself and the device."""
        return {name[len(_KIT_PREFIX) :]: value for name, value in self.parts.items() if name.startswith(_KIT_PREFIX)}


def engine_key(request: EngineRequest, *, graph_sha256: str, facts: Mapping[str, str]) -> EngineKey:
    """Return the key of the plan that a request makes.

    The timing cache is no part of it: it makes a build faster and its result no other.

    Args:
        request: What is to be built.
        graph_sha256: Of the prepared ONNX file that the request names.
        facts: What the toolkit says of itself and the device.
    """
    parts = {
        "graph": graph_sha256,
        "precision": request.precision,
        "profiles": "; ".join(map(_words, request.profiles)),
        "workspace_bytes": str(request.workspace_bytes),
        "optimization_level": str(request.optimization_level),
        "dla_core": str(request.dla_core),
        **{f"{_KIT_PREFIX}{name}": value for name, value in facts.items()},
    }
    return EngineKey(model=request.model, precision=request.precision, parts=parts)


def misfit(key: EngineKey, facts: Mapping[str, str]) -> str | None:
    """Say why a plan does not fit a toolkit and device, in one clause; None where it does.

    Args:
        key: The plan's.
        facts: What the toolkit here says.
    """
    for name in sorted({*key.facts, *facts}):
        built_for, here = key.facts.get(name), facts.get(name)
        if built_for != here:
            return f"built for {name} {built_for or 'unknown'}, here it is {here or 'unknown'}"
    return None


def _words(profile: Profile) -> str:
    return "..".join("x".join(map(str, shape)) for shape in (profile.least, profile.usual, profile.most))
