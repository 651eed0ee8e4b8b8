"""`jetface engine`: plans built ahead of a start, listed, compared again, removed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import click

from jetface.cli.quiet import configure_quiet_logs
from jetface.engines.build import FACTORY, open_kit
from jetface.engines.check import check_engine
from jetface.engines.child import EngineChild
from jetface.engines.job import EngineJobs, EngineSource, Step
from jetface.engines.plan import PlanEntry, PlanFolder
from jetface.errors import BackendUnavailableError, ServiceError
from jetface.models.defaults import ModelChooser
from jetface.models.weights import expand
from jetface.registry import ModelSpec, RegistryError
from jetface.runtimes.choose import Host
from jetface.runtimes.providers import available_providers
from jetface.service import choose_models, engine_jobs, open_weights, plan_folder
from jetface.settings import Settings, read_settings

_DAY_S = 86_400.0


@click.group()
def engine() -> None:
    """Build, list, check and remove engines: models compiled for this machine's GPU."""


@engine.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def build(source: EngineSource | None, names: tuple[str, ...]) -> None:
    """Build the engines of the models named, or of those the settings choose, unless they are there already.

    Each is built and checked in a process of its own; minutes for a large model.
    """
    with _opened(names, source) as (jobs, specs):
        _for_each(specs, lambda spec: _build(spec, jobs))


@engine.command("list")
@click.pass_obj
def list_engines(source: EngineSource | None) -> None:
    """Show the engines that are kept: age, size, build time, check, and whether each fits this machine or why not."""
    plans, judge = _plans(), _judge(source)
    for entry in plans.entries():
        record, reason = entry.record, _fault(entry) or (judge and judge(entry))
        age = f"{(time.time() - entry.changed_at) / _DAY_S:.1f} days"
        fit = "fits" if reason is None else f"does not fit: {reason}"
        click.echo(f"{entry.path.name}  {entry.size_bytes / 2**20:.1f} MiB  {age}  {fit if judge else 'unjudged'}")
        if record is not None:
            click.echo(f"  built in {record.build_s:.0f} s; check: {record.verdict}")
        for note in record.notes if record else ():
            click.echo(f"  {note}")
    if not plans.entries():
        click.echo(
            f"No engines in {plans.folder}." if plans.folder else "Engines are not kept: TRT_ENGINE_CACHE_ENABLE=0."
        )


@engine.command()
@click.argument("names", nargs=-1, metavar="[MODEL]...")
@click.pass_obj
def check(source: EngineSource | None, names: tuple[str, ...]) -> None:
    """Compare engines that are kept with ONNX Runtime in FP32; those of the models named, or that the settings choose.

    Exit code 1 when one is missing, does not open or does not agree.
    """
    with _opened(names, source) as (jobs, specs):
        _for_each(specs, lambda spec: _check(spec, jobs))


@engine.command()
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Those as well, fit or not.")
@click.option("--yes", is_flag=True, help="Remove them; without it they are only named.")
@click.pass_obj
def prune(source: EngineSource | None, *, days: float | None, yes: bool) -> None:
    """Remove engines that are of no use here: damaged ones, and those for another device or version."""
    plans, judge = _plans(), _judge(source)
    num_failed = 0
    for entry in plans.entries():
        reason = _fault(entry) or (judge and judge(entry))
        if reason is None and days is not None and time.time() - entry.changed_at > days * _DAY_S:
            reason = f"older than {days:g} days"
        if reason is None:
            continue
        click.echo(f"{'removed' if yes else 'would be removed'}: {entry.path.name}: {reason}")
        if yes:
            try:
                plans.remove(entry)
            except OSError as cause:
                num_failed += 1
                click.echo(f"{entry.path.name} cannot be removed: {cause.strerror}", err=True)
    if num_failed:
        raise click.ClickException(f"{num_failed} could not be removed")


def _judge(source: EngineSource | None) -> Callable[[PlanEntry], str | None] | None:
    """Return what says why a plan is of no use here; None, and say so, where TensorRT cannot be asked."""
    try:
        facts = (source.kit if source else open_kit()).facts()
    except BackendUnavailableError as error:
        click.echo(f"Whether engines fit this machine cannot be told. {error.message}", err=True)
        return None
    return lambda entry: None if entry.record is None else entry.record.recipe.misfit(facts)


def _fault(entry: PlanEntry) -> str | None:
    """Return why a plan is of no use on any machine."""
    if entry.record is None:
        return "no readable sidecar says what it is"
    return "it is cut off" if entry.record.plan_bytes != entry.size_bytes else None


@contextmanager
def _opened(names: Sequence[str], source: EngineSource | None) -> Iterator[tuple[EngineJobs, list[ModelSpec]]]:
    settings = _settings()
    registry, weights = open_weights(settings)
    try:
        chosen = names or choose_models(settings, ModelChooser(registry, weights.is_at_hand)).names
        specs = expand(chosen, registry)
    except RegistryError as cause:
        raise click.UsageError(str(cause)) from cause
    source = source or EngineSource(open_kit(), FACTORY)
    has_onnxruntime = _can_import_onnxruntime()
    with closing(engine_jobs(settings, weights, source, has_onnxruntime=has_onnxruntime)) as jobs:
        yield jobs, specs


def _can_import_onnxruntime() -> bool:
    """Whether engines are judged by it, as the service decides: images for engines alone lack it."""
    if Host().cores_fault():
        return False
    try:
        available_providers()
    except BackendUnavailableError:
        return False
    return True


def _plans() -> PlanFolder:
    return plan_folder(_settings())


def _settings() -> Settings:
    settings = read_settings()
    configure_quiet_logs(settings)
    return settings


def _for_each(specs: Sequence[ModelSpec], work: Callable[[ModelSpec], bool]) -> None:
    """Do the work for each model, and fail at the end when it failed for some."""
    num_failed = sum(not _tried(spec, work) for spec in specs)
    if num_failed:
        raise click.ClickException(f"{num_failed} of {len(specs)} models failed")


def _tried(spec: ModelSpec, work: Callable[[ModelSpec], bool]) -> bool:
    try:
        return work(spec)
    except ServiceError as error:
        click.echo(f"{spec.name}: {error.message}", err=True)
        return False


def _build(spec: ModelSpec, jobs: EngineJobs) -> bool:
    job = jobs.job(spec)
    if kept := jobs.plans.find(job.recipe):
        click.echo(f"{spec.name}: here already: {job.recipe.file_name}, {kept.record.verdict}")
        return True
    started = time.monotonic()

    def show(step: Step) -> None:
        click.echo(f"{spec.name}: {time.monotonic() - started:.0f} s, {step.state}: {step.phase}", err=True)

    kept = EngineChild(job, show).run()
    click.echo(f"{spec.name}: built in {kept.record.build_s:.1f} s; check: {kept.record.verdict}")
    for note in kept.record.notes:
        click.echo(f"  {note}")
    if jobs.plans.find(job.recipe):
        return True
    click.echo(f"{spec.name}: the engine is good but cannot be kept: see TRT_ENGINE_CACHE_PATH", err=True)
    return False


def _check(spec: ModelSpec, jobs: EngineJobs) -> bool:
    job = jobs.job(spec)
    if job.reference != "onnxruntime":
        raise BackendUnavailableError(
            "Engines are compared with ONNX Runtime, which may not be had here: `jetface doctor` says why. When it was "
            "built, each was compared with an engine in FP32: `jetface engine list` has the verdicts."
        )
    kept = jobs.plans.find(job.recipe)
    if kept is None:
        click.echo(f"{spec.name}: no engine that fits is kept; `jetface engine build {spec.name}` builds it", err=True)
        return False
    with tempfile.TemporaryDirectory() as scratch:
        verdict, fault = check_engine(job, jobs.source.kit, kept.plan, Path(scratch))
    click.echo(f"{spec.name}  {job.recipe.precision}  {'FAILED' if fault else 'passed'}  {verdict}")
    if fault:
        click.echo(f"  It {fault}", err=True)
    return fault is None
