"""What the commands of `jetface engine` do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import click
from tqdm import tqdm

from jetface.cli.quiet import configure_quiet_logs
from jetface.engines.build import FACTORY, open_kit
from jetface.engines.check import Check, compare, open_reference
from jetface.engines.child import EngineChild
from jetface.engines.plan import PlanEntry, PlanFolder, misfit
from jetface.engines.recipe import EngineRecipe, EngineRecipes, EngineSource, Step
from jetface.errors import BackendUnavailableError, ServiceError
from jetface.models.defaults import ModelChooser
from jetface.models.weights import expand
from jetface.registry import ModelSpec, RegistryError
from jetface.runtimes.choose import Probes
from jetface.runtimes.providers import available_providers
from jetface.service import choose_models, engine_recipes, open_weights, plan_folder
from jetface.settings import Settings, read_settings

_DAY_S = 86_400.0


def build_engines(names: Sequence[str], source: EngineSource | None) -> None:
    """Build what is not there, with a progress bar for each."""
    with _opened(names, source) as (recipes, specs):
        _for_each(specs, lambda spec: _build(spec, recipes))


def check_engines(names: Sequence[str], source: EngineSource | None) -> None:
    """Print what each engine's comparison gives."""
    with _opened(names, source) as (recipes, specs):
        _for_each(specs, lambda spec: _check(spec, recipes))


def list_plans(source: EngineSource | None) -> None:
    """Print a line for each plan."""
    plans = _plans()
    judge = _Judge(source)
    for entry in plans.entries():
        record, reason = entry.record, judge.misfit(entry)
        age = f"{(time.time() - entry.changed_at) / _DAY_S:.1f} days"
        fit = "fits" if reason is None else f"does not fit: {reason}"
        click.echo(
            f"{entry.path.name}  {entry.size_bytes / 2**20:.1f} MiB  {age}  {fit if judge.is_able else 'unjudged'}"
        )
        if record is not None:
            click.echo(f"  built in {record.build_s:.0f} s; check: {record.verdict}")
        for note in record.notes if record else ():
            click.echo(f"  {note}")
    if not plans.entries():
        click.echo(
            f"No engines in {plans.folder}." if plans.folder else "Engines are not kept: TRT_ENGINE_CACHE_ENABLE=0."
        )
    judge.say_why_not()


def prune_plans(source: EngineSource | None, *, older_than_days: float | None, is_meant: bool) -> None:
    """Remove, or only name, the plans that are of no use."""
    plans, judge = _plans(), _Judge(source)
    num_failed = 0
    for entry in plans.entries():
        reason = judge.misfit(entry)
        if reason is None and older_than_days is not None and time.time() - entry.changed_at > older_than_days * _DAY_S:
            reason = f"older than {older_than_days:g} days"
        if reason is None:
            continue
        click.echo(f"{'removed' if is_meant else 'would be removed'}: {entry.path.name}: {reason}")
        if is_meant:
            try:
                plans.remove(entry)
            except OSError as cause:
                num_failed += 1
                click.echo(f"{entry.path.name} cannot be removed: {cause.strerror}", err=True)
    judge.say_why_not()
    if num_failed:
        raise click.ClickException(f"{num_failed} could not be removed")


class _Judge:
    """Says which plans fit this machine; without TensorRT it can tell only which are unreadable."""

    def __init__(self, source: EngineSource | None) -> None:
        self._facts = None
        self._why_not = ""
        try:
            self._facts = (source.kit if source else open_kit()).facts()
        except BackendUnavailableError as error:
            self._why_not = error.message

    @property
    def is_able(self) -> bool:
        return self._facts is not None

    def misfit(self, entry: PlanEntry) -> str | None:
        """Return why a plan is of no use here; None when nothing is known against it."""
        if entry.record is None:
            return "no readable sidecar says what it is"
        if entry.record.plan_bytes != entry.size_bytes:
            return "it is cut off"
        return None if self._facts is None else misfit(entry.record.key, self._facts)

    def say_why_not(self) -> None:
        if self._why_not:
            click.echo(f"Whether engines fit this machine cannot be told. {self._why_not}", err=True)


@contextmanager
def _opened(names: Sequence[str], source: EngineSource | None) -> Iterator[tuple[EngineRecipes, list[ModelSpec]]]:
    settings = _settings()
    registry, weights = open_weights(settings)
    try:
        chosen = names or choose_models(settings, ModelChooser(registry, weights.is_at_hand)).names
        specs = expand(chosen, registry)
    except RegistryError as cause:
        raise click.UsageError(str(cause)) from cause
    source = source or EngineSource(open_kit(), FACTORY)
    has_onnxruntime = _can_import_onnxruntime()
    with closing(engine_recipes(settings, weights, source, has_onnxruntime=has_onnxruntime)) as recipes:
        yield recipes, specs


def _can_import_onnxruntime() -> bool:
    """Whether engines are judged by it, as the service decides: images for engines alone lack it."""
    if Probes().cores_fault():
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


def _build(spec: ModelSpec, recipes: EngineRecipes) -> bool:
    recipe = recipes.recipe(spec)
    if kept := recipes.plans.find(recipe.key):
        click.echo(f"{spec.name}: here already: {recipe.key.file_name}, {kept.record.verdict}")
        return True
    with tqdm(desc=spec.name, total=100, unit="%", file=sys.stderr, disable=None) as bar:

        def show(step: Step) -> None:
            bar.set_postfix_str(step.phase, refresh=False)
            bar.update(max(0.0, round(100 * step.fraction, 1) - bar.n))

        kept = EngineChild(recipe.job(recipes.source.factory, recipes.plans.folder), show).run()
    click.echo(f"{spec.name}: built in {kept.record.build_s:.1f} s; check: {kept.record.verdict}")
    for note in kept.record.notes:
        click.echo(f"  {note}")
    if recipes.plans.find(recipe.key):
        return True
    click.echo(f"{spec.name}: the engine is good but cannot be kept: see TRT_ENGINE_CACHE_PATH", err=True)
    return False


def _check(spec: ModelSpec, recipes: EngineRecipes) -> bool:
    recipe = recipes.recipe(spec)
    if recipe.reference != "onnxruntime":
        raise BackendUnavailableError(
            "Engines are compared with ONNX Runtime, which may not be had here: `jetface doctor` says why. When it was "
            "built, each was compared with an engine in FP32: `jetface engine list` has the verdicts."
        )
    kept = recipes.plans.find(recipe.key)
    if kept is None:
        click.echo(f"{spec.name}: no engine that fits is kept; `jetface engine build {spec.name}` builds it", err=True)
        return False
    found = _compare(recipe, recipes.source, kept.plan)
    click.echo(
        f"{spec.name}  {recipe.request.precision}  {'passed' if found.fault is None else 'FAILED'}  {found.verdict}"
    )
    if found.fault:
        click.echo(f"  {found.fault}", err=True)
    return found.fault is None


def _compare(recipe: EngineRecipe, source: EngineSource, plan: bytes) -> Check:
    with (
        closing(
            source.kit.open(plan, max_batch_size=recipe.max_batch_size, dla_core=recipe.request.dla_core)
        ) as opened,
        closing(open_reference(recipe.weights, recipe.spec)) as reference,
    ):
        return compare(
            recipe.spec,
            opened,
            reference,
            takes_pixels=recipe.graph.takes_pixels,
            is_int8=recipe.request.precision == "int8",
            canvases_hw=recipe.canvases_hw,
        )
