"""Packs: several models under one name, as publishers bundle them. Entries say which they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jetface.specs import ModelSpec, RegistryError


def packs_of(registry: Mapping[str, ModelSpec]) -> Mapping[str, tuple[str, ...]]:
    """Return the names of each pack's models, both in order."""
    packs: dict[str, list[str]] = {}
    for name, spec in sorted(registry.items()):
        for pack in spec.packs:
            packs.setdefault(pack, []).append(name)
    return {pack: tuple(names) for pack, names in sorted(packs.items())}


def expand(names: Iterable[str], registry: Mapping[str, ModelSpec]) -> list[ModelSpec]:
    """Return the models that are meant by names of models and packs, each once, in the order they are named.

    A name that is both is the model.

    Raises:
        RegistryError: Some are neither, and the line names them all; or the entry of one cannot be read.
    """
    packs = packs_of(registry)
    names = list(names)
    unknown = [name for name in names if registry.get(name) is None and name not in packs]
    if unknown:
        raise RegistryError(f"neither model nor pack: {', '.join(unknown)}; see `jetface models list`")
    meant = (model for name in names for model in ((name,) if name in registry else packs[name]))
    return [registry[model] for model in dict.fromkeys(meant)]
