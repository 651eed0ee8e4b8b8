"""Which model serves which stage."""

from __future__ import annotations

from dataclasses import dataclass

from jetface.pipeline.attributes import AttributeModels


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModels:
    """Registry names of the models the settings chose."""

    detector: str
    recognizer: str | None
    attributes: AttributeModels

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, detector first."""
        return tuple(name for name in (self.detector, self.recognizer, *self.attributes.names) if name)
