"""The `jetface` command: one group, one module a command; nothing heavy is imported before a command needs it."""

from __future__ import annotations

from typing import Any

import click

from jetface import __version__
from jetface.cli.bench import bench
from jetface.cli.doctor import doctor
from jetface.cli.embed import embed
from jetface.cli.engine import engine
from jetface.cli.errors import errors
from jetface.cli.evaluate import evaluate
from jetface.cli.extract import extract
from jetface.cli.gallery import gallery
from jetface.cli.models import models
from jetface.cli.serve import serve
from jetface.cli.settings import settings
from jetface.cli.verify import verify
from jetface.device.checks import STARTUP_FAILURE
from jetface.errors import ServiceError
from jetface.logs import masked
from jetface.registry import RegistryError
from jetface.settings import SettingsError


class _Misconfigured(click.ClickException):
    exit_code = 2


class _WouldNotStart(click.ClickException):
    exit_code = STARTUP_FAILURE


class _OneLineErrors(click.Group):
    """Ends in one line on stderr where the operator can mend it: exit code 2 for settings, 1 for the rest.

    Of commands that start the service, or say whether it would start, a bad setting is one reason more why it does not.
    """

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, RegistryError) as cause:
            is_start = ctx.invoked_subcommand in {serve.name, doctor.name}
            raise (_WouldNotStart if is_start else _Misconfigured)(masked(str(cause))) from cause
        except ServiceError as cause:
            raise click.ClickException(masked(cause.message)) from cause


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="jetface")
def main() -> None:
    """Find and recognize faces: a service, and its tools.

    Every command is configured by the environment variables that `jetface settings` lists.
    """


main.add_command(serve)
main.add_command(extract)
main.add_command(embed)
main.add_command(gallery)
main.add_command(models)
main.add_command(engine)
main.add_command(bench)
main.add_command(evaluate)
main.add_command(doctor)
main.add_command(verify)
main.add_command(settings)
main.add_command(errors)
