"""What else a face tells: gender and age, a mask, whether it is live; each a model of its own, all optional."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jetface.domain import Boxes, Crop, ExtractOptions, GenderAge, Image, Liveness, Mask
from jetface.geometry.alignment import cut_out
from jetface.heads.rows import merge_opinions
from jetface.imaging.loader import LoadedPicture
from jetface.models.store import ModelStore
from jetface.pipeline.pictures import WorkPool


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributeModels:
    """Registry names; a stage without one leaves its field None."""

    gender_age: str | None = None
    mask: str | None = None
    liveness: Sequence[str] = ()
    """What several say is averaged."""

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name in (self.gender_age, self.mask, *self.liveness) if name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttributesOutcome:
    """What the models said of some faces."""

    gender_ages: list[GenderAge] | None
    """One a face, as are the others; None where it is not wanted or cannot be had."""
    masks: list[Mask] | None
    liveness: list[Liveness] | None
    queued_s: float
    took_s: float
    """Seconds in cutting out and in runs."""


class Attributes:
    """The attribute stages. Stateless but for the models they use; any number of calls at once.

    One model after the other: a run that is alone on a CPU has all its cores, and on a GPU the models are small.
    """

    def __init__(self, store: ModelStore, models: AttributeModels, pool: WorkPool) -> None:
        self.models = models
        self._store = store
        self._pool = pool

    def wanted(self, options: ExtractOptions) -> list[str]:
        """Return the names of the models that are wanted and can be had."""
        models = self.models
        asked = (
            options.with_gender_age and models.gender_age,
            options.with_mask and models.mask,
            *(models.liveness if options.with_liveness else ()),
        )
        return [name for name in asked if name]

    def needs_crops(self, options: ExtractOptions) -> bool:
        """Whether what is wanted is read from aligned crops."""
        return bool((options.with_gender_age and self.models.gender_age) or (options.with_mask and self.models.mask))

    async def read(
        self,
        boxes: Boxes,
        crops: Sequence[Crop],
        picture: LoadedPicture | None,
        options: ExtractOptions,
        *,
        group: Hashable,
        deadline: float,
    ) -> AttributesOutcome:
        """Tell the attributes that are wanted and have a model.

        Args:
            boxes: (N, 4) float32, the faces of one picture, source pixels.
            crops: Theirs, in order, where `needs_crops`.
            picture: Where they are; None when there are crops only: liveness stays None then.
            options: What is wanted.
            group: The request they belong to; requests take turns in the queues.
            deadline: `loop.time()` after which the answer is of no use.

        Raises:
            NotLoaded: A model is not loaded.
            CapacityError: A queue is full, the deadline passed, shutting down.
            InferenceError: A run failed.
        """
        call = _Call(self._store, group, deadline)
        models = self.models
        gender_ages = masks = liveness = None
        if options.with_gender_age and models.gender_age:
            gender_ages = await call.run(models.gender_age, crops)
        if options.with_mask and models.mask:
            masks = await call.run(models.mask, crops)
        if picture is not None and options.with_liveness and models.liveness:
            opinions = [await self._live(call, name, boxes, picture) for name in models.liveness]
            liveness = [merge_opinions(of_face) for of_face in zip(*opinions, strict=True)]
        return AttributesOutcome(
            gender_ages=gender_ages,
            masks=masks,
            liveness=liveness,
            queued_s=call.queued_s,
            took_s=call.took_s,
        )

    async def _live(self, call: _Call, name: str, boxes: Boxes, picture: LoadedPicture) -> list[Any]:
        """Return what one liveness model says of each face."""
        spec = self._store.spec(name)
        output_hw = (spec.input.height_px, spec.input.width_px)
        cut_hw = output_hw if picture.rotation % 180 == 0 else output_hw[::-1]
        enlargement = spec.box_enlargement or 1.0

        def cut() -> list[Image]:
            cuts = [cut_out(picture.pixels, box, enlargement=enlargement, output_hw=cut_hw) for box in boxes]
            return [np.ascontiguousarray(np.rot90(image, -picture.rotation // 90)) for image in cuts]

        started = time.perf_counter()
        cutouts = await self._pool.run(cut)
        call.took_s += time.perf_counter() - started
        return await call.run(name, cutouts)


@dataclass(slots=True)
class _Call:
    """The runs of one call, and their clock."""

    store: ModelStore
    group: Hashable
    deadline: float
    queued_s: float = 0.0
    took_s: float = 0.0

    async def run(self, name: str, items: Sequence[Any]) -> list[Any]:
        model = self.store.at_once(name)
        with model.users:
            outcome = await model.batcher.submit(list(items), group=self.group, deadline=self.deadline)
        self.queued_s += outcome.queued_s
        self.took_s += outcome.ran_s
        return outcome.results
