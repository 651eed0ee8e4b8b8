"""All families, and the registry as they allow it.

To add one, write its file beside the others and name it in `FAMILIES`: docs/extending.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from jetface.heads import arcface, classifier, genderage, minifasnet, plate_ocr, scrfd, seeta_mask, yolo, yunet
from jetface.heads.family import Family
from jetface.registry import ModelSpec, Registry, RegistryError, read_registry

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "scrfd": scrfd.FAMILY,
        "yunet": yunet.FAMILY,
        "arcface": arcface.FAMILY,
        "sface": arcface.SFACE,
        "genderage": genderage.FAMILY,
        "seeta_mask": seeta_mask.FAMILY,
        "minifasnet": minifasnet.FAMILY,
        "classifier": classifier.FAMILY,
        "yolo": yolo.FAMILY,
        "plate_ocr": plate_ocr.FAMILY,
    }
)
"""By the name that entries have."""

NAMED_ANSWERS: tuple[type, ...] = tuple(
    {family.answer: None for family in FAMILIES.values() if family.is_named and family.answer}
)
"""What may be under `attributes` of a face: each type once."""


def entry_fault(spec: ModelSpec) -> str | None:
    """Say why an entry cannot be served; None where it can."""
    family = FAMILIES.get(spec.family)
    if family is None:
        return f"family: there is no {spec.family}; it is one of {', '.join(FAMILIES)}"
    return family.fault(spec)


def read_known(directories: Iterable[Path]) -> Registry:
    """Read registry files as `read_registry` does; an entry that its family does not allow is unreadable, too."""
    registry = read_registry(directories)
    faults = {name: fault for name, spec in registry.items() if (fault := entry_fault(spec))}
    return Registry(
        {name: spec for name, spec in registry.items() if name not in faults},
        {
            **registry.unreadable,
            **{name: RegistryError(f"{name}: {fault}") for name, fault in faults.items()},
        },
    )
