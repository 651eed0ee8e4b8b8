"""Key paths and types of InsightFace-REST 0.9.5, as `insightface_rest.json` has them, against an answer.

A path is keys with dots between; `[]` stands for every item of a list. A type is one of `str`, `int`, `float`, `bool`,
`object`, `bytes`, `null`, or `list of` one of them; several with `or` between. An `int` is a number for `float`, as it
is for a client.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

FIXTURE: Mapping[str, Any] = orjson.loads(Path(__file__).with_name("insightface_rest.json").read_bytes())
_TYPES: Mapping[str, tuple[type, ...]] = {
    "str": (str,), "int": (int,), "float": (float, int), "bool": (bool,), "object": (dict,), "bytes": (bytes,),
    "null": (type(None),),
}  # fmt: skip


def misfits(answer: object, shape: Mapping[str, str]) -> list[str]:
    """Return what an answer lacks of a shape, or has of another type; one line each.

    Args:
        answer: Parsed.
        shape: Types by path. What the answer has beyond it is none of its business.
    """
    return [
        f"{path}: {found}"
        for path, words in shape.items()
        for value in _at(answer, path.replace("[]", ".[]").lstrip(".").split("."))
        if (found := "missing" if value is _MISSING else type(value).__name__) and not _is(value, words)
    ]


_MISSING = object()


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    """Yield the values a path leads to; `_MISSING` where it ends early."""
    if not path:
        yield value
    elif path[0] == "[]" and isinstance(value, list):
        for item in value:
            yield from _at(item, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _at(value[path[0]], path[1:])
    else:
        yield _MISSING


def _is(value: object, words: str) -> bool:
    return any(_is_one(value, word) for word in words.split(" or "))


def _is_one(value: object, word: str) -> bool:
    if word.startswith("list of "):
        return isinstance(value, list) and all(_is_one(item, word.removeprefix("list of ")) for item in value)
    # A flag is no number, though Python thinks so.
    return isinstance(value, _TYPES[word]) and (word == "bool" or not isinstance(value, bool))
