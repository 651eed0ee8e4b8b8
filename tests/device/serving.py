"""The whole service as a process, on the GPU or, with `--device cpu`, on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from tests.support.server import Server, running_server

Command = Callable[..., Any]


def service_options(command: Command) -> Command:
    """Add the options that say what is served to a command."""
    for option in (
        click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda"),
        click.option(
            "--weights", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of ONNX files."
        ),
        click.option("--images", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of JPEGs."),
        click.option("--det-model", default="det_500m", help="Registry name; its file is in --weights."),
        click.option("--rec-model", default="w600k_mbf_dequantized", help="Registry name; its file is in --weights."),
        click.option("--set", "variables", multiple=True, help="NAME=VALUE of the service, over those set here."),
    ):
        command = option(command)
    return command


def settings_of(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a service, from what `service_options` adds to a command."""
    return {
        "BACKEND": "onnxruntime",
        "ORT_PROVIDERS": options["device"],
        "MODEL_MIRROR": str(options["weights"].resolve()),
        "DET_MODEL": options["det_model"],
        "REC_MODEL": options["rec_model"],
        "DET_BATCH_SIZE": "16",
        "REC_BATCH_SIZE": "32",
        "MAX_IN_FLIGHT": "256",
        "MODEL_PRELOAD": "1",
        "LOG_LEVEL": "WARNING",
        **dict(variable.split("=", 1) for variable in options["variables"]),
    }


@contextmanager
def serving(folder: Path, settings: dict[str, str], **more: str) -> Iterator[Server]:
    """Start a service and return it when its models serve."""
    with running_server(folder, {**settings, **more}) as server:
        server.wait_until_ready(300)
        yield server


def port_of(server: Server) -> int:
    """Return where a service listens."""
    return int(server.url.rsplit(":", 1)[1])
