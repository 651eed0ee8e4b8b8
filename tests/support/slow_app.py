"""A service of one slow route that ends through `Drain`: the smallest program uvicorn can run and a signal can stop.

Environment: `GRACE_S`, seconds; `NAP_S`, how long `/nap` takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator

import structlog
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from jetface.errors import ShuttingDownError
from jetface.logs import configure_logs
from jetface.server.drain import Drain


def create_app() -> FastAPI:
    """Build the service; `/nap` sleeps inside `Drain.serving`, and gives up when the grace is over."""
    configure_logs("INFO", "json")
    log = structlog.get_logger("slow_app")
    expired = asyncio.Event()

    async def expire() -> None:
        expired.set()

    drain = Drain(float(os.environ["GRACE_S"]), on_expiry=expire)

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        with drain.listening():
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/nap")
    async def nap() -> JSONResponse:
        try:
            with drain.serving():
                log.info("nap begins")
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(expired.wait(), float(os.environ["NAP_S"]))
                return JSONResponse({"expired": expired.is_set()})
        except ShuttingDownError as error:
            return JSONResponse({"code": error.code}, status_code=503, headers={"Connection": "close"})

    return app
