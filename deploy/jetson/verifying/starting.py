"""From a start to engines that serve: how long each took, and what became of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import click
import httpx

from verifying.caller import Caller, Target, answered
from verifying.drawing import portrait

_ASK_EVERY_S = 0.5
_SETTLED = frozenset({"serving", "rejected"})


def wait_until_serving(target: Target, timeout_s: float) -> dict[str, Any]:
    """Wait until the service lives, answers a picture, and has no engine left to build.

    Args:
        target: The service; started just before.
        timeout_s: For all of it.

    Raises:
        click.ClickException: It is too late, or a model failed.
    """
    started_s = time.monotonic()
    deadline_s = started_s + timeout_s
    with target.caller() as caller:
        caller.wait_for("/health/live", deadline_s)
        live_s = time.monotonic() - started_s
        _wait_for_answer(caller, deadline_s)
        answer_s = time.monotonic() - started_s
        models = _wait_for_engines(caller, deadline_s)
        engines = {model["name"]: model["engine"] for model in models if model["engine"]}
        info = caller.get("/info")
        build_s = {
            each.labels["model"]: each.value for each in caller.samples() if each.name == "jetface_engine_build_seconds"
        }
    return {
        "seconds_to_live": live_s,
        "seconds_to_answer": answer_s,
        "seconds_to_engines": time.monotonic() - started_s if engines else None,
        "backends": {model["name"]: model["backend"] for model in models},
        "engines": {name: engine["state"] for name, engine in engines.items()},
        "engines_serve": all(engine["state"] == "serving" for engine in engines.values()) if engines else None,
        "rejected": {name: engine["reason"] for name, engine in engines.items() if engine["state"] == "rejected"},
        "build_s": build_s,
        "build_seconds": sum(build_s.values()) if engines else None,
        "device": info["device"],
        "readings": len(info["device"]["readings"]),
        "version": info["version"],
    }


def _wait_for_answer(caller: Caller, deadline_s: float) -> None:
    """Post a picture until it is answered: its models are loaded, or their engines built, meanwhile."""
    picture = portrait()
    while True:
        try:
            response = caller.extract(picture)
            if response.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                answered(response)
                return
            reason = response.text
        except httpx.TransportError as cause:
            reason = str(cause)
        if time.monotonic() > deadline_s:
            raise click.ClickException(f"no picture was answered in time: {reason}")
        time.sleep(_ASK_EVERY_S)


def _wait_for_engines(caller: Caller, deadline_s: float) -> list[Mapping[str, Any]]:
    """Return the models in use once none is loading and no engine is on its way."""
    while True:
        models = [each for each in caller.get("/models")["models"] if each["is_active"] and each["state"] != "unloaded"]
        if not [each for each in models if not _is_settled(each)]:
            return models
        if time.monotonic() > deadline_s:
            waiting = ", ".join(f"{each['name']} {each['state']}" for each in models if not _is_settled(each))
            raise click.ClickException(f"not done in time: {waiting}")
        time.sleep(_ASK_EVERY_S)


def _is_settled(model: Mapping[str, Any]) -> bool:
    engine = model["engine"]
    return model["state"] in {"serving", "failed"} and (engine is None or engine["state"] in _SETTLED)
