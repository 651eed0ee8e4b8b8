"""The service as an operator has it, but for its engines: the stand-in toolkit makes them."""

from __future__ import annotations

from fastapi import FastAPI

from jetface import main
from jetface.engines.job import EngineSource
from tests.support import stand_in_kit


def create_app() -> FastAPI:
    """Build the HTTP application."""
    return main.create_app(source=EngineSource(stand_in_kit.make_kit(), stand_in_kit.FACTORY))
