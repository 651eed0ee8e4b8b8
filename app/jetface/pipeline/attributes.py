"""The attribute stage: what models of their own tell of faces, whatever it is. All are optional."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jetface.domain import Boxes, Crop, Image
from jetface.geometry.alignment import cut_out
from jetface.heads.families import FAMILIES
from jetface.imaging.loader import LoadedPicture
from jetface.models.store import ModelStore
from jetface.pipeline.pictures import WorkPool
from jetface.registry import ModelSpec


@dataclass(slots=True, eq=False)
class AttributesOutcome:
    """What the models said of some faces."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    """By attribute, one answer a face as its family describes it; without those that cannot be told."""
    queued_s: float = 0.0
    took_s: float = 0.0
    """Seconds in cutting out and in runs."""


class Attributes:
    """Stateless but for the models it uses; any number of calls at once.

    One model after the other: a run that is alone on a CPU has all its cores, and on a GPU the models are small.
    """

    def __init__(self, store: ModelStore, models: Mapping[str, Sequence[str]], pool: WorkPool) -> None:
        """Create the stage.

        Args:
            store: Where models are.
            models: Registry names by attribute; what several say of one is merged.
            pool: Where pictures are cut out.
        """
        self._models = models
        self._store = store
        self._pool = pool

    def models(self, wanted: frozenset[str]) -> list[str]:
        """Return the names of the models that tell what is wanted."""
        return [name for attribute, names in self._models.items() if attribute in wanted for name in names]

    def needs_crops(self, wanted: frozenset[str]) -> bool:
        """Whether what is wanted is read from aligned crops."""
        return any(self._store.spec(name).box_enlargement is None for name in self.models(wanted))

    async def read(
        self,
        boxes: Boxes,
        crops: Sequence[Crop],
        picture: LoadedPicture | None,
        wanted: frozenset[str],
        *,
        group: Hashable,
        deadline: float,
    ) -> AttributesOutcome:
        """Tell the attributes that are wanted and have a model.

        Args:
            boxes: (N, 4) float32, the faces of one picture, source pixels.
            crops: Theirs, in order, where `needs_crops`.
            picture: Where they are; None when there are crops only: what is read from their surroundings stays unknown.
            wanted: Names of attributes.
            group: The request they belong to; requests take turns in the queues.
            deadline: `loop.time()` after which the answer is of no use.

        Raises:
            NotLoaded: A model is not loaded.
            CapacityError: A queue is full, the deadline passed, shutting down.
            InferenceError: A run failed.
        """
        outcome = AttributesOutcome()
        for attribute, names in self._models.items():
            if attribute not in wanted:
                continue
            opinions = []
            for name in names:
                spec = self._store.spec(name)
                items: Sequence[Image] = crops
                if spec.box_enlargement is not None:
                    if picture is None:
                        break
                    started = time.perf_counter()
                    items = await self._pool.run(_cut_outs, spec, spec.box_enlargement, boxes, picture)
                    outcome.took_s += time.perf_counter() - started
                model = self._store.at_once(name)
                with model.users:
                    ran = await model.batcher.submit(list(items), group=group, deadline=deadline)
                outcome.queued_s += ran.queued_s
                outcome.took_s += ran.ran_s
                opinions.append(ran.results)
            if opinions:
                merge = FAMILIES[spec.family].merge
                of_faces = zip(*opinions, strict=True)
                outcome.values[attribute] = [merge(each) for each in of_faces] if merge else opinions[0]
        return outcome


def _cut_outs(spec: ModelSpec, enlargement: float, boxes: Boxes, picture: LoadedPicture) -> list[Image]:
    """Return each face with its surroundings, upright, as large as a model wants it."""
    output_hw = (spec.input.height_px, spec.input.width_px)
    cut_hw = output_hw if picture.rotation % 180 == 0 else output_hw[::-1]
    cuts = [cut_out(picture.pixels, box, enlargement=enlargement, output_hw=cut_hw) for box in boxes]
    return [np.ascontiguousarray(np.rot90(image, -picture.rotation // 90)) for image in cuts]
