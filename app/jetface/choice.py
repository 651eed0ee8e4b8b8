"""Which models the settings choose, for the service and the command line."""

from __future__ import annotations

from jetface.models.defaults import ModelChooser
from jetface.pipeline.attributes import AttributeModels
from jetface.pipeline.chosen import ChosenModels
from jetface.settings import Settings


def choose_models(settings: Settings, chooser: ModelChooser) -> ChosenModels:
    """Return the models of the settings.

    Raises:
        RegistryError: One is named that is not in the registry or does something else.
    """
    liveness_models = (chooser.choose("LIVENESS_MODEL", name, "liveness") for name in settings.liveness_model)
    return ChosenModels(
        detector=chooser.require("DET_MODEL", settings.det_model, "detection"),
        recognizer=chooser.choose("REC_MODEL", settings.rec_model, "recognition"),
        attributes=AttributeModels(
            gender_age=chooser.choose("GA_MODEL", settings.ga_model, "gender_age"),
            mask=chooser.choose("MASK_MODEL", settings.mask_model, "mask"),
            liveness=tuple(filter(None, liveness_models)),
        ),
    )
