"""`jetface doctor`: what is here, what will be chosen, what is wrong and what mends it; Markdown, fit for an issue."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import structlog

from jetface.cli.quiet import configure_quiet_logs
from jetface.device.checks import STARTUP_FAILURE, Finding, Severity, would_stop
from jetface.logs import configure_logs
from jetface.settings import Settings, read_settings

if TYPE_CHECKING:
    from jetface.cli.examination import Examination

_log = structlog.get_logger("jetface.preflight")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
@click.option(
    "--preflight", is_flag=True,
    help="Only check, log what is found, and fail where the service could not start: what `jetface serve` does first.",
)  # fmt: skip
@click.option("--root", type=click.Path(path_type=Path), default="/", hidden=True, help="Where /proc and /sys are.")
def doctor(*, as_json: bool, preflight: bool, root: Path) -> None:
    """Examine this machine for what the service needs. Exit code 3 when it could not start, as `jetface serve` ends."""
    from jetface.cli.examination import examine  # noqa: PLC0415 - not for `jetface --help`

    settings = read_settings()
    if preflight:
        check_start(settings, root)
        return
    configure_quiet_logs(settings)
    found = examine(settings, root)
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=2, default=str))
    else:
        click.echo("\n".join(_markdown(found)))
    if would_stop(found.findings):
        raise SystemExit(STARTUP_FAILURE)


class _WouldNotStart(click.ClickException):
    exit_code = STARTUP_FAILURE


def check_start(settings: Settings, root: Path = Path("/"), *, builds: bool = True) -> None:
    """Log what is wrong with this machine and these settings; arguments are those of `find_faults`.

    Raises:
        click.ClickException: The service would not start; one line that says why and what mends it, exit code 3.
    """
    from jetface.cli.examination import find_faults  # noqa: PLC0415 - as above

    # What a start says of itself it says when it comes.
    configure_logs("CRITICAL", settings.log_format)
    findings = find_faults(settings, root, is_starting=True, builds=builds)
    configure_logs(settings.log_level, settings.log_format)
    stops = [each for each in findings if each.severity is Severity.STOP]
    for each in findings:
        if each not in stops[:1]:
            log = {Severity.STOP: _log.error, Severity.WARNING: _log.warning, Severity.NOTE: _log.info}[each.severity]
            log(each.what, finding=each.name, why=each.why, cure=each.cure)
    if stops:
        raise _WouldNotStart(f"{stops[0].what} {stops[0].why} {stops[0].cure}")


def _markdown(found: Examination) -> Iterator[str]:
    report = found.as_dict()
    yield "# jetface doctor"
    yield ""
    yield f"**jetface {report['jetface']} {report['verdict']}.** {_in_one_line(report)}"
    yield from _section("Findings", _findings(found.findings))
    for title, key, write in (
        ("Machine", "machine", _flat),
        ("Software", "software", _flat),
        ("Backend", "backend", _backend),
        ("Models", "models", _models),
        ("Engines", "engines", _engines),
        ("Settings", "settings", _settings),
    ):
        lines = [f"Not to be had: {found.faults[key]}"] if key in found.faults else write(report[key])
        yield from _section(title, lines)


def _section(title: str, lines: Iterator[str] | list[str]) -> Iterator[str]:
    yield ""
    yield f"## {title}"
    yield ""
    yield from lines


def _in_one_line(report: Mapping[str, Any]) -> str:
    machine, backend = report.get("machine") or {}, report.get("backend") or {}
    jetson, gpu = machine.get("jetson") or {}, machine.get("gpu") or {}
    parts = (
        jetson.get("module"),
        jetson.get("l4t_release") and f"L4T {jetson['l4t_release']}",
        jetson.get("power_mode") and f"power mode {jetson['power_mode']}",
        gpu.get("driver") and f"driver {gpu['driver']}",
        machine.get("architecture"),
        f"backend {backend.get('chosen') or 'none'}",
    )
    return ", ".join(filter(None, parts)) + "."


def _findings(findings: Sequence[Finding]) -> Iterator[str]:
    if not findings:
        yield "None."
    for each in findings:
        yield f"- **{each.severity.value}**, `{each.name}`: {each.what} {each.why}"
        yield f"  Mend: {each.cure}"


def _flat(values: Mapping[str, Any]) -> Iterator[str]:
    yield "| what | here |"
    yield "|---|---|"
    for name, value in values.items():
        if isinstance(value, Mapping):
            for inner, each in value.items():
                yield f"| {name} {inner} | {_cell(each)} |"
        else:
            yield f"| {name} | {_cell(value)} |"


def _backend(backend: Mapping[str, Any]) -> Iterator[str]:
    yield f"Asked for: {backend['asked']}. Chosen: {backend['chosen'] or 'none'}."
    if backend["fault"]:
        yield f"Why: {backend['fault']}"
    if backend["tried"]:
        yield ""
        yield from _table(("tried", "outcome", "mend"), ("name", "outcome", "cure"), backend["tried"])


def _models(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    shown = [model for model in models if model["in_use"] or model["at_hand"]]
    yield from _table(("model", "task", "in use", "weights here"), ("name", "task", "in_use", "at_hand"), shown)
    yield ""
    yield f"{len(models) - len(shown)} more are in the registry, without weights here."


def _engines(engines: Mapping[str, Any]) -> Iterator[str]:
    yield f"Folder: {engines['folder'] or 'none: engines are not kept'}. Plans: {len(engines['plans'])}."
    if engines["plans"]:
        yield ""
        keys = ("file", "bytes", "changed_at", "build_s", "verdict")
        yield from _table(("plan", "bytes", "written", "build, s", "check"), keys, engines["plans"])


def _settings(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from _table(("variable", "value", "set here"), ("variable", "value", "is_set"), rows)


def _table(titles: Sequence[str], keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + "---|" * len(titles)
    for row in rows:
        yield f"| {' | '.join(_cell(row[key]) for key in keys)} |"


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("|", "\\|").replace("\n", " ")
