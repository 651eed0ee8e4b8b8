"""What every group of routes has: the services, and the few steps each request takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jetface.api.answers import Answers
from jetface.api.bodies import Bodies
from jetface.api.services import ApiOptions, Extractor, ModelsView, PictureLoader
from jetface.metrics import Metrics
from jetface.pipeline.pool import WorkPool


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What `jetface.main` hands in, and what the routes make of it."""

    extractor: Extractor
    models: ModelsView
    loader: PictureLoader
    pool: WorkPool
    metrics: Metrics
    exposition: Callable[[], bytes]
    """Returns what `/metrics` shows."""
    options: ApiOptions
    bodies: Bodies
    answers: Answers
