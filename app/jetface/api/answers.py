"""Values to bytes: JSON or msgpack, whichever the client asked for, with arrays written by the serialiser itself."""

from __future__ import annotations

import time
from collections.abc import Mapping

import orjson
import ormsgpack
from starlette.responses import Response

from jetface.api.context import RequestContext
from jetface.pipeline.pool import WorkPool

JSON_TYPE = "application/json"
MSGPACK_TYPE = "application/x-msgpack"

_LARGE_NUM_FACES = 64
"""About half a megabyte of embeddings as JSON, 5 ms: longer than the loop should be held."""


def to_json(value: object) -> bytes:
    """Write JSON. Arrays are C-contiguous; float32 is written with the fewest digits that read back the same."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def to_msgpack(value: object) -> bytes:
    """Write msgpack. `np.float32`, alone or in arrays, takes five bytes; a Python float would take nine."""
    return ormsgpack.packb(value, option=ormsgpack.OPT_SERIALIZE_NUMPY)


class Answers:
    """Writes answers; a large one in the pool."""

    def __init__(self, pool: WorkPool) -> None:
        self._pool = pool

    async def write(
        self, context: RequestContext, value: Mapping[str, object], *, num_faces: int = 0, status: int = 200
    ) -> Response:
        """Return the response that carries `value`.

        Args:
            context: Whose `wants_msgpack` decides the format.
            value: Plain values, numpy arrays and numpy scalars.
            num_faces: How many faces it holds: decides where it is written.
            status: HTTP status.
        """
        started = time.perf_counter()
        if num_faces >= _LARGE_NUM_FACES:
            body = await self._pool.run(to_msgpack if context.wants_msgpack else to_json, value)
        else:
            body = to_msgpack(value) if context.wants_msgpack else to_json(value)
        context.add_stage("serialise", time.perf_counter() - started)
        return answer(body, context, status=status)


def answer(body: bytes, context: RequestContext, *, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Wrap written bytes, labelled as the format the client asked for."""
    return Response(body, status, dict(headers or {}), media_type=MSGPACK_TYPE if context.wants_msgpack else JSON_TYPE)


def small_answer(
    context: RequestContext, value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Write a short answer at once: errors, health, information."""
    body = to_msgpack(value) if context.wants_msgpack else to_json(value)
    return answer(body, context, status=status, headers=headers)
