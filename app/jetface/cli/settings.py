"""`jetface settings`: what is in force, and the documents generated from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import click
from pydantic import SecretStr

from jetface.logs import masked
from jetface.settings import Settings, allowed_values, read_settings, variable_names

_DEPLOYED = MappingProxyType(
    {"MODELS_DIR": "/models", "DET_MODEL": "scrfd_10g_bnkps", "REC_MODEL": "glintr100", "LOG_FORMAT": "json"}
)

# The first request has its answer within its deadline: 16 MB to fetch, and not 407, and a tenth of the cores.
_DEPLOYED_ON_CPU = MappingProxyType({**_DEPLOYED, "DET_MODEL": "det_500m", "REC_MODEL": "w600k_mbf"})

# Engines have a volume of their own: they are rebuilt from the weights, and fit one device.
_DEPLOYED_ON_GPU = MappingProxyType({**_DEPLOYED, "TRT_ENGINE_CACHE_PATH": "/engines"})

TARGETS: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"cpu": _DEPLOYED_ON_CPU, "gpu": _DEPLOYED_ON_GPU, "jetson": _DEPLOYED_ON_GPU}
)
"""What the env files in `deploy/` set differently from the defaults."""


def shown_value(value: Any) -> str:
    """Write a value as its variable is written; keys and passwords are masked."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return ",".join(map(shown_value, value))
    if isinstance(value, SecretStr):
        return "***"
    return masked(str(value))


def _markdown() -> Iterator[str]:
    yield "| variable | default | allowed | meaning | also accepted |"
    yield "|---|---|---|---|---|"
    for field, info in Settings.model_fields.items():
        variable, *others = variable_names(field)
        default = shown_value(info.default)
        yield (
            f"| `{variable}` | {default or 'empty'} | {allowed_values(field)} | {info.description} "
            f"| {', '.join(f'`{name}`' for name in others)} |"
        )


def _env_file(target: str) -> Iterator[str]:
    yield f"# Settings of jetface for deploy/compose.{target}.yaml, written by `jetface settings --env {target}`."
    yield "# Every variable is here; what differs from the built-in default is marked."
    overrides = TARGETS[target]
    for field, info in Settings.model_fields.items():
        variable = variable_names(field)[0]
        default = shown_value(info.default)
        value = overrides.get(variable, default)
        mark = "" if value == default else f" Default here: {value}; built in: {default or 'empty'}."
        yield ""
        yield f"# {info.description} Allowed: {allowed_values(field)}.{mark}"
        yield f"{variable}={value}"


@dataclass(frozen=True, slots=True)
class EffectiveSetting:
    """A variable and what is in force."""

    variable: str
    value: str
    """As `shown_value` writes it: nothing secret."""
    meaning: str
    is_set: bool
    """Whether the environment sets it."""


def effective_settings(settings: Settings) -> list[EffectiveSetting]:
    """Return every variable, in the order of the documents."""
    return [
        EffectiveSetting(
            variable=variable_names(field)[0],
            value=shown_value(getattr(settings, field)),
            meaning=info.description or "",
            is_set=field in settings.model_fields_set,
        )
        for field, info in Settings.model_fields.items()
    ]


def _table(settings: Settings) -> Iterator[str]:
    rows = effective_settings(settings)
    name_width = max(len(row.variable) for row in rows)
    value_width = max(len(row.value) for row in rows)
    for row in rows:
        star = "*" if row.is_set else " "
        yield f"{star} {row.variable:<{name_width}}  {row.value:<{value_width}}  {row.meaning}"


@click.command()
@click.option("--markdown", is_flag=True, help="The table of docs/settings.md: variables, defaults, what is allowed.")
@click.option("--env", "target", type=click.Choice(sorted(TARGETS)), help="An env file of deploy/.")
def settings(*, markdown: bool, target: str | None) -> None:
    """Print the settings in force; those that the environment sets are marked with a star."""
    if markdown:
        lines = _markdown()
    elif target:
        lines = _env_file(target)
    else:
        lines = _table(read_settings())
    click.echo("\n".join(lines))
