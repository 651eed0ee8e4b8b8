"""`jetface doctor`: what is here, what will be chosen, what is wrong and what mends it; Markdown, fit for an issue."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click
import structlog

from jetface import __commit__, __version__
from jetface.cli.quiet import configure_quiet_logs
from jetface.cli.settings import effective_settings
from jetface.device.checks import (
    STARTUP_FAILURE,
    Finding,
    Packages,
    Place,
    Severity,
    preflight,
    worst_first,
    would_stop,
)
from jetface.device.limits import free_memory_bytes, memory_limit_bytes, usable_cores
from jetface.device.machine import find_gpu, find_jetson, online_cores, present_cores, read_text, total_memory_bytes
from jetface.heads.families import read_known
from jetface.logs import configure_logs, masked
from jetface.registry import RegistryError, default_registry_dir
from jetface.settings import Settings, SettingsError, misspelt_variables, read_settings

_SHOWN_PACKAGES = (
    "numpy",
    "opencv-python-headless", "opencv-python", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt",
    "tensorrt-cu12", "tensorrt-cu13", "cuda-python", "cuda-bindings", "nvidia-ml-py", "simplejpeg", "pi-heif",
    "uvicorn",
)  # fmt: skip

_RUNTIME_FINDINGS = ("runtime-import", "cores-offline")
"""With one of these, worse than a note, ONNX Runtime is not imported here: it may take the report along."""


@dataclass(frozen=True, slots=True)
class Examination:
    """Everything that was found, ready to be written as JSON."""

    findings: list[Finding]
    sections: dict[str, Any] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Why a section is missing, by its name."""

    def as_dict(self) -> dict[str, Any]:
        """Return it by the names it has in JSON."""
        return {
            "jetface": __version__,
            "commit": __commit__,
            "verdict": verdict(self.findings),
            "would_start": all(each.severity is not Severity.STOP for each in self.findings),
            "findings": [{**asdict(each), "severity": each.severity.value} for each in self.findings],
            **self.sections,
            "missing": self.faults,
        }


def verdict(findings: list[Finding]) -> str:
    """Say in a few words whether the service would start."""
    if any(each.severity is Severity.STOP for each in findings):
        return "would not start"
    if any(each.severity is Severity.WARNING for each in findings):
        return "would start, with less than it could"
    return "would start"


def find_faults(settings: Settings, root: Path, *, is_starting: bool, builds: bool = True) -> list[Finding]:
    """Decide whether the service would start here, and what is wrong else: the one place that does, for all commands.

    Args:
        settings: The effective configuration.
        root: Where `/proc` and `/sys` are.
        is_starting: Whether the service is about to start: else it may be what holds the port.
        builds: Whether the service is built for it; else whoever calls does so next, and ends alike where it cannot.

    Returns:
        The worst first; with one that is a `stop` it would not start.
    """
    place = Place(
        models_dir=settings.models_dir,
        engine_dir=_engine_dir(settings),
        host=settings.host,
        port=settings.port,
        uds=settings.uds,
        is_starting=is_starting,
        free_memory_bytes=free_memory_bytes(root),
        floor_memory_bytes=settings.min_free_memory_bytes,
    )
    found = preflight(Packages(), place, backend=settings.backend, machine=platform.machine(), root=root)
    found += [*_registry_faults(settings), *_environment_faults(settings)]
    if not builds:
        return worst_first(found)
    is_safe = not any(each.name in _RUNTIME_FINDINGS and each.severity is not Severity.NOTE for each in found)
    faults = _start_faults(settings, root, imports_runtime=is_safe, is_starting=is_starting)
    return worst_first([*found, *faults])


def _start_faults(settings: Settings, root: Path, *, imports_runtime: bool, is_starting: bool) -> Iterator[Finding]:
    """Build the service as a start does, and let it go: what it refuses is known to nobody else.

    Args:
        settings: The effective configuration.
        root: Where `/proc` and `/sys` are.
        imports_runtime: Whether ONNX Runtime may be imported in this process; else its models are chosen, no more.
        is_starting: Whether the service is about to start: else it may be what has the gallery.
    """
    from jetface.errors import ServiceError, told  # noqa: PLC0415 - as in `_tensorrt`
    from jetface.main import tracing_class  # noqa: PLC0415 - as in `_tensorrt`
    from jetface.models.defaults import ModelChooser  # noqa: PLC0415 - as in `_tensorrt`
    from jetface.service import build_people, build_service, choose_models, open_weights  # noqa: PLC0415 - as there

    try:
        if imports_runtime:
            people = build_people(build_service(settings, root=root))
            if people is not None:
                asyncio.run(people.gallery.check(is_starting=is_starting))
            if settings.otel_exporter_otlp_endpoint:
                tracing_class()
        else:
            registry, weights = open_weights(settings)
            choose_models(settings, ModelChooser(registry, weights.is_at_hand))
    except (RegistryError, ServiceError, SettingsError, OSError) as error:
        yield Finding(
            name="start-refused",
            severity=Severity.STOP,
            what=masked((told(error) if isinstance(error, ServiceError) else f"{error}").rstrip(".") + "."),
            why="The service cannot start.",
            cure="Mend what it names; `jetface settings` shows what is in force, `jetface models list` what there is.",
        )


def _environment_faults(settings: Settings) -> Iterator[Finding]:
    if not settings.api_keys and not settings.read_api_keys:
        yield Finding(
            name="open-to-all",
            severity=Severity.WARNING,
            what="The service is open to all: no API_KEYS.",
            why="Whoever reaches the port may send pictures, and load and unload models.",
            cure="Set API_KEYS to a long random word, or keep the port to those who may: HOST=127.0.0.1, a firewall.",
        )
    pictures = settings.root_images_dir
    if pictures is not None and not pictures.is_dir():
        yield Finding(
            name="no-pictures-folder",
            severity=Severity.WARNING,
            what=f"ROOT_IMAGES_DIR={pictures} is no folder.",
            why="No picture that a request names by its path is found.",
            cure="Mount or make it, or unset ROOT_IMAGES_DIR.",
        )
    for name, meant in misspelt_variables(os.environ).items():
        yield Finding(
            name="variable-misspelt",
            severity=Severity.WARNING,
            what=f"{name} is set, and means nothing here.",
            why=f"{meant} was probably meant, which is not set by it.",
            cure=f"Name it {meant}, or unset it.",
        )


def examine(settings: Settings, root: Path) -> Examination:
    """Look at everything. A section that cannot be made is named with the reason, and costs no other."""
    found = Examination(find_faults(settings, root, is_starting=False))
    makers: dict[str, Callable[[], Any]] = {
        "machine": lambda: _machine(root),
        "software": lambda: _software(root),
        "backend": lambda: _examine_backend(settings, root, found.findings),
        "models": lambda: _examine_models(settings),
        "engines": lambda: _examine_engines(settings),
        "settings": lambda: [asdict(row) for row in effective_settings(settings)],
    }
    for name, make in makers.items():
        _try(found, name, make)
    return found


def _registry_faults(settings: Settings) -> Iterator[Finding]:
    registry = read_known((default_registry_dir(), settings.models_dir))
    for name, error in registry.unreadable.items():
        yield Finding(
            name="registry-entry",
            severity=Severity.WARNING,
            what=f"A registry entry cannot be read: {error}.",
            why=f"The model {name} is left out; the service does not start where a setting names it.",
            cure="Mend the file in MODELS_DIR, or take it away.",
        )


def _try(found: Examination, name: str, make: Callable[[], Any]) -> None:
    try:
        found.sections[name] = make()
    except Exception as error:  # noqa: BLE001 - a report of what is broken must not break of it
        found.faults[name] = f"{type(error).__name__}: {error}"


def _machine(root: Path) -> dict[str, Any]:
    jetson, gpu = find_jetson(root), find_gpu(root)
    cores = {"present": len(present_cores(root)), "online": len(online_cores(root)), "usable": usable_cores(root)}
    return {
        "architecture": platform.machine(),
        "system": platform.platform(),
        "jetson": None if jetson is None else asdict(jetson),
        "gpu": None if gpu is None else asdict(gpu),
        "cores": cores,
        "memory_bytes": {
            "machine": total_memory_bytes(root),
            "limit": _finite(memory_limit_bytes(root)),
            "free": _finite(free_memory_bytes(root)),
        },
    }


def _software(root: Path) -> dict[str, Any]:
    versions = Packages().versions
    return {
        "python": sys.version.split()[0],
        "packages": {name: versions[name] for name in _SHOWN_PACKAGES if name in versions},
        "tensorrt": _tensorrt(),
        "cuda": _cuda_version(root),
    }


def _tensorrt() -> str:
    from jetface.errors import BackendUnavailableError  # noqa: PLC0415 - as above
    from jetface.runtimes.tensorrt import find_toolkit  # noqa: PLC0415 - heavy, and what is broken may be in it

    try:
        return find_toolkit().version
    except BackendUnavailableError as error:
        return error.message


def _cuda_version(root: Path) -> str | None:
    """Read the version of the CUDA that is installed where JetPack and NVIDIA's images have it."""
    import orjson  # noqa: PLC0415 - not for `jetface --help`

    text = read_text(root / "usr/local/cuda/version.json")
    return str(orjson.loads(text)["cuda"]["version"]) if text else None


def _examine_backend(settings: Settings, root: Path, findings: list[Finding]) -> dict[str, Any]:
    asked = {"asked": settings.backend, "providers": list(settings.ort_providers)}
    if any(each.name in _RUNTIME_FINDINGS and each.severity is not Severity.NOTE for each in findings):
        return {**asked, "chosen": None, "tried": [], "fault": "not tried here: see the findings about ONNX Runtime"}
    from jetface.errors import BackendUnavailableError  # noqa: PLC0415 - as in `_tensorrt`
    from jetface.runtimes.choose import Host, select_backend  # noqa: PLC0415 - as in `_tensorrt`

    try:
        selection = select_backend(
            settings.backend,
            providers=settings.ort_providers,
            openvino_precision=settings.openvino_precision,
            host=Host(root=root),
        )
    except BackendUnavailableError as error:
        return {**asked, "chosen": None, "tried": [], "fault": error.message}
    return {**asked, "chosen": selection.name, "tried": [asdict(each) for each in selection.attempts], "fault": None}


def _examine_models(settings: Settings) -> list[dict[str, Any]]:
    from jetface.models.defaults import ModelChooser  # noqa: PLC0415 - as in `_tensorrt`
    from jetface.service import choose_models, open_weights  # noqa: PLC0415 - as in `_tensorrt`

    registry, weights = open_weights(settings)
    in_use = choose_models(settings, ModelChooser(registry, weights.is_at_hand)).names
    return [
        {
            "name": name, "task": spec.task, "in_use": name in in_use, "at_hand": weights.is_at_hand(spec),
            "can_be_downloaded": spec.download is not None and settings.model_download, "license": spec.license,
        }
        for name, spec in sorted(registry.items())
    ]  # fmt: skip


def _examine_engines(settings: Settings) -> dict[str, Any]:
    from jetface.engines.plan import PlanFolder  # noqa: PLC0415 - as in `_tensorrt`

    folder = _engine_dir(settings)
    return {"folder": None if folder is None else str(folder), "plans": list(_plans(PlanFolder(folder)))}


def _plans(folder: Any) -> Iterator[dict[str, Any]]:
    for entry in folder.entries():
        record = entry.record
        yield {
            "file": entry.path.name,
            "bytes": entry.size_bytes,
            "changed_at": datetime.fromtimestamp(entry.changed_at, timezone.utc).isoformat(timespec="seconds"),
            "built_for": None if record is None else dict(record.recipe.toolkit),
            "build_s": None if record is None else record.build_s,
            "verdict": None if record is None else record.verdict,
        }


def _engine_dir(settings: Settings) -> Path | None:
    if not settings.trt_engine_cache_enable:
        return None
    return settings.trt_engine_cache_path or settings.models_dir / "engines"


def _finite(count: float) -> int | None:
    return None if count == float("inf") else int(count)


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
