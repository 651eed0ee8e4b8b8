"""`jetface serve`: the service under uvicorn. `entrypoint.sh` starts the same server by the same options."""

from __future__ import annotations

from typing import Any

import click

from app.drain import SERVER_GRACE_S
from app.settings import Settings, read_settings

APPLICATION = "app.main:create_app"
PROTOCOL = "app.api.connections:BoundedProtocol"
LOOP = "app.api.connections:ServingLoop"


def uvicorn_options(settings: Settings) -> dict[str, Any]:
    """Return what uvicorn is started with beyond `--factory app.main:create_app`.

    With several workers uvicorn spawns them, never forks, starts another in place of one that died, and hands each the
    one socket it listens on: a connection goes to a worker that is free to take it. The access log is ours, with the
    request id. Nothing depends on who a proxy says that it speaks for.
    """
    return {
        "host": settings.host,
        "port": settings.port,
        "workers": settings.workers,
        "loop": LOOP,
        "http": PROTOCOL,
        "ws": "none",
        "timeout_graceful_shutdown": SERVER_GRACE_S,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
    }


def as_arguments(options: dict[str, Any]) -> list[str]:
    """Write keyword arguments of `uvicorn.run` as arguments of the `uvicorn` program."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            arguments.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            arguments += [f"--{flag}", str(value)]
    return arguments


@click.command()
@click.option("--dry-run", is_flag=True, help="Check the settings and print uvicorn's arguments, one a line.")
def serve(*, dry_run: bool) -> None:
    """Serve over HTTP until SIGTERM or Ctrl+C."""
    options = uvicorn_options(read_settings())
    if dry_run:
        click.echo("\n".join(as_arguments(options)))
        return
    import uvicorn  # noqa: PLC0415 - a dry run, once per start of a container, need not pay for it

    uvicorn.run(APPLICATION, factory=True, **options)
