"""`jetface evaluate`: how well recognizers tell people apart, on the caller's own pictures."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from jetface.cli.pictures import Picture, extract_each, find_pictures, readable_name, tell_skipped
from jetface.cli.quiet import configure_quiet_logs
from jetface.domain import ExtractOptions, Rotations
from jetface.models.defaults import ModelChooser
from jetface.pipeline.describer import leading_vector
from jetface.registry import RegistryError
from jetface.service import choose_models, open_service, open_weights
from jetface.settings import Settings, read_settings

FALSE_MATCH_RATES = (1e-3, 1e-4, 1e-5)
"""For which thresholds are suggested."""

_LEAST_FALSE_MATCHES = 10
"""False matches that a rate must stand for, else pairs are too few to tell it: its figure would be off by a third."""

_NUM_BINS = 20_000
"""Bins of similarity over [-1, 1], 1e-4 each: memory does not grow with the pairs."""

_ROWS_AT_ONCE = 512
"""Pictures compared with all others at a time: a block of 20 MB for 10,000 pictures."""

_SHOWN_PATHS = 5
"""Pictures that are named in the text; JSON names all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Every pair of pictures, counted by similarity."""

    same: NDArray[np.int64]
    """(20000,) pairs of one person by bin of similarity, ascending."""
    other: NDArray[np.int64]
    """(20000,) pairs of two people."""
    num_probes: int
    """Pictures of people with another picture."""
    num_hits: int
    """Of these, whose most similar other picture is of the same person."""

    def share(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of pairs that reach the lower edge of each bin, (20001,), descending to 0."""
        reaching = np.concatenate([np.cumsum(counts[::-1])[::-1], [0]]).astype(np.float64)
        reaching /= max(1, counts.sum())
        return reaching

    def edges(self) -> NDArray[np.float64]:
        """Return the lower edge of each bin and the upper one of the last, (20001,)."""
        return np.linspace(-1, 1, _NUM_BINS + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFigures:
    """One recognizer on one set of pictures."""

    name: str
    pairs: Pairs
    missed: Sequence[str]
    """Pictures without a face."""
    unreadable: Sequence[tuple[str, str]]
    """Pictures that could not be read, and why."""
    num_crowded: int
    """Pictures with several faces, of which the largest was taken."""
    seconds: float
    num_pictures: int
    match_threshold: float | None
    """Of its registry entry."""

    def as_dict(self) -> dict[str, Any]:
        """Return the figures by the names they have in JSON; null where there is none."""
        true, false, edges = self.pairs.share(self.pairs.same), self.pairs.share(self.pairs.other), self.pairs.edges()
        equal = int(np.argmin(np.abs(false - (1 - true))))
        own = self.match_threshold
        at_own = None if own is None else int(np.ceil((own + 1) / 2 * _NUM_BINS - 1e-6))
        return {
            "model": self.name,
            "rank_1": self.pairs.num_hits / self.pairs.num_probes,
            "equal_error_rate": float(false[equal] + 1 - true[equal]) / 2,
            "equal_error_threshold": round(float(edges[equal]), 4),
            "suggested": [self._suggested(rate, true, false, edges) for rate in FALSE_MATCH_RATES],
            "match_threshold": own,
            "at_match_threshold": None
            if at_own is None
            else {"true_match_rate": float(true[at_own]), "false_match_rate": float(false[at_own])},
            "faces_missed": list(self.missed),
            "unreadable": [{"picture": picture, "reason": reason} for picture, reason in self.unreadable],
            "pictures_with_several_faces": self.num_crowded,
            "pictures_per_s": self.num_pictures / self.seconds,
        }

    def _suggested(
        self, rate: float, true: NDArray[np.float64], false: NDArray[np.float64], edges: NDArray[np.float64]
    ) -> dict[str, float | None]:
        """Return the least threshold of a false-match rate and what it finds; null where pairs are too few to tell."""
        if self.pairs.other.sum() * rate < _LEAST_FALSE_MATCHES:
            return {"false_match_rate": rate, "threshold": None, "true_match_rate": None}
        least = int(np.argmax(false <= rate))
        return {
            "false_match_rate": rate,
            "threshold": round(float(edges[least]), 4),
            "true_match_rate": float(true[least]),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All recognizers on one set of pictures."""

    detector: str
    num_people: int
    num_pictures: int
    num_strays: int
    """Pictures that lie in no person's folder, and were left out."""
    skipped: Counter[str]
    """Other files, by reason."""
    models: Sequence[ModelFigures]

    def as_dict(self) -> dict[str, Any]:
        """Return it by the names it has in JSON."""
        return {
            "detector": self.detector,
            "people": self.num_people,
            "pictures": self.num_pictures,
            "pictures_of_nobody": self.num_strays,
            "skipped": dict(self.skipped),
            "models": [
                {
                    "pairs_of_one_person": int(figures.pairs.same.sum()),
                    "pairs_of_two_people": int(figures.pairs.other.sum()),
                    **figures.as_dict(),
                }
                for figures in self.models
            ],
        }


def evaluate_models(
    settings: Settings, folder: Path, names: Sequence[str], rotations: Rotations = "none"
) -> Evaluation:
    """Judge recognizers one after the other.

    Args:
        settings: Of the service; say the detector, and the recognizer where none is named.
        folder: Holds a folder for each person, pictures in it or below.
        names: Of recognizers; empty: the one that serves.
        rotations: As `/extract` takes it.

    Raises:
        click.ClickException: The folder does not hold pictures to judge by.
        RegistryError: One is no recognizer of the registry.
        ServiceError: A model cannot be had or run.
    """
    registry, weights = open_weights(settings)
    chooser = ModelChooser(registry, weights.is_at_hand)
    chosen = choose_models(settings, chooser)
    recognizers = [chooser.choose("--models", name, "recognition") for name in names] or [chosen.recognizer]
    if None in recognizers:
        raise RegistryError("--models: a recognizer is needed; `none` is none")
    skipped: Counter[str] = Counter()
    found = find_pictures([folder], accept_tiff=settings.accept_tiff, skipped=skipped)
    pictures = [picture for picture in found if len(picture.relative.parts) > 1]
    people = sorted({picture.relative.parts[0] for picture in pictures})
    if len(people) < 2:
        raise click.ClickException(f"{folder} should hold a folder for each person, of two people at least")
    models = [
        asyncio.run(_evaluate(settings.model_copy(update={"rec_model": name}), name, pictures, people, rotations))
        for name in dict.fromkeys(filter(None, recognizers))
    ]
    return Evaluation(
        detector=chooser.require(settings.variable("det_model"), settings.det_model, "detection"),
        num_people=len(people),
        num_pictures=len(pictures),
        num_strays=len(found) - len(pictures),
        skipped=skipped,
        models=models,
    )


async def _evaluate(
    settings: Settings, name: str, pictures: Sequence[Picture], people: Sequence[str], rotations: Rotations
) -> ModelFigures:
    numbers = {person: number for number, person in enumerate(people)}
    vectors, labels = [], []
    missed, unreadable = [], []
    num_crowded = 0
    async with open_service(settings) as service:
        for model in service.chosen.names:
            await service.store.get(model)
        # Two, to see where there was a choice.
        options = ExtractOptions(score_threshold=service.score_threshold, limit_faces=2, rotations=rotations)
        started = time.perf_counter()
        with tqdm(total=len(pictures), unit="picture", file=sys.stderr, desc=name, disable=None) as progress:
            async for picture, result in extract_each(service, pictures, options):
                progress.update()
                vector = leading_vector(result)
                if result.error is not None:
                    unreadable.append((_shown(picture), result.error.message))
                elif vector is None:
                    missed.append(_shown(picture))
                else:
                    num_crowded += len(result.faces) > 1
                    vectors.append(vector)
                    labels.append(numbers[picture.relative.parts[0]])
        seconds = time.perf_counter() - started
        threshold = service.store.spec(name).match_threshold
    if len(set(labels)) in {len(labels), 1}:
        raise click.ClickException(
            f"{name}: faces were found of {len(set(labels))} people in {len(labels)} pictures: "
            "no pair of one person, or none of two"
        )
    return ModelFigures(
        name=name,
        pairs=count_pairs(np.stack(vectors), np.array(labels)),
        missed=missed,
        unreadable=unreadable,
        num_crowded=num_crowded,
        seconds=seconds,
        num_pictures=len(pictures),
        match_threshold=threshold,
    )


def _shown(picture: Picture) -> str:
    return readable_name(picture.relative)


def count_pairs(vectors: NDArray[np.float32], people: NDArray[np.int64]) -> Pairs:
    """Compare every picture with every other.

    Args:
        vectors: (N, L) float32 of unit length.
        people: (N,) who is on each.
    """
    same, other = np.zeros(_NUM_BINS, np.int64), np.zeros(_NUM_BINS, np.int64)
    sizes = np.bincount(people)
    num_hits = 0
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(vectors)))
        similarity = vectors[rows] @ vectors.T
        bins = np.clip(((similarity + 1) / 2 * _NUM_BINS).astype(np.int64), 0, _NUM_BINS - 1)
        is_same = people[rows][:, None] == people
        is_new = np.arange(len(vectors)) > rows[:, None]
        same += np.bincount(bins[is_same & is_new], minlength=_NUM_BINS)
        other += np.bincount(bins[~is_same & is_new], minlength=_NUM_BINS)
        similarity[rows - start, rows] = -np.inf
        nearest = people[similarity.argmax(axis=1)]
        num_hits += int(((nearest == people[rows]) & (sizes[people[rows]] > 1)).sum())
    return Pairs(same=same, other=other, num_probes=int((sizes[people] > 1).sum()), num_hits=num_hits)


def to_markdown(evaluation: Evaluation) -> Iterator[str]:
    """Yield the lines people read."""
    strays = f"; {evaluation.num_strays} pictures in no person's folder were left out" if evaluation.num_strays else ""
    yield f"{evaluation.num_people} people, {evaluation.num_pictures} pictures, faces by {evaluation.detector}{strays}."
    rates = [f"1 in {round(1 / rate):,}" for rate in FALSE_MATCH_RATES]
    yield ""
    yield f"| model | rank-1 | EER | {' | '.join(f'TAR at {rate}' for rate in rates)} | faces missed | pictures/s |"
    yield f"|---|---|---|{'---|' * len(rates)}---|---|"
    told = [figures.as_dict() for figures in evaluation.models]
    for each in told:
        found = [_percent(at["true_match_rate"]) for at in each["suggested"]]
        yield (
            f"| {each['model']} | {_percent(each['rank_1'])} | {_percent(each['equal_error_rate'])} | "
            f"{' | '.join(found)} | {len(each['faces_missed'])} | {each['pictures_per_s']:.1f} |"
        )
    yield ""
    yield f"| match_threshold | {' | '.join(rates)} | its entry's, and what it gives here |"
    yield f"|---|{'---|' * len(rates)}---|"
    for each in told:
        thresholds = [_number(at["threshold"]) for at in each["suggested"]]
        own = each["at_match_threshold"]
        given = (
            "none"
            if own is None
            else f"{each['match_threshold']:g}: TAR {_percent(own['true_match_rate'])}, "
            f"FAR {own['false_match_rate']:.1e}"
        )
        yield f"| {each['model']} | {' | '.join(thresholds)} | {given} |"
    yield ""
    for figures in evaluation.models:
        same, other = int(figures.pairs.same.sum()), int(figures.pairs.other.sum())
        yield f"- {figures.name}: {same:,} pairs of one person, {other:,} of two."
        if figures.num_crowded:
            yield f"- {figures.name}: {figures.num_crowded} pictures show several faces; the largest was taken."
        yield from _some(f"{figures.name} found no face in", figures.missed)
        yield from _some(
            f"{figures.name} could not read", [f"{picture} ({reason})" for picture, reason in figures.unreadable]
        )
    yield f"- `-`: fewer than {_LEAST_FALSE_MATCHES} false matches would stand for the rate; more pictures tell it."


def _some(lead: str, pictures: Sequence[str]) -> Iterator[str]:
    if pictures:
        more = f" and {len(pictures) - _SHOWN_PATHS} more" if len(pictures) > _SHOWN_PATHS else ""
        yield f"- {lead} {', '.join(pictures[:_SHOWN_PATHS])}{more}."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def draw_plot(evaluation: Evaluation, path: Path) -> None:
    """Draw true against false matches, and how similar pairs are.

    Raises:
        click.ClickException: matplotlib is not installed, or cannot write such a file.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional, and slow to import
    except ImportError as cause:
        raise click.ClickException("--plot needs matplotlib: pip install matplotlib") from cause
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    curve, similarity = figure.subplots(1, 2)
    for figures in evaluation.models:
        pairs, edges = figures.pairs, figures.pairs.edges()
        false, true = pairs.share(pairs.other), pairs.share(pairs.same)
        seen = false > 0
        (line,) = curve.step(false[seen], 1 - true[seen], label=figures.name)
        for counts, style in ((pairs.same, "-"), (pairs.other, ":")):
            share = counts.reshape(-1, 200).sum(axis=1) / counts.sum()
            similarity.stairs(share, edges[::200], color=line.get_color(), linestyle=style)
    curve.set(
        xscale="log", xlabel="false matches, share of pairs of two people", ylabel="misses, share of pairs of one"
    )
    curve.legend()
    similarity.set(xlim=(-0.5, 1), xlabel="similarity; dotted: two people", ylabel="share of pairs")
    try:
        figure.savefig(path)
    except (OSError, ValueError) as cause:
        raise click.ClickException(f"{path} cannot be drawn: {cause}") from cause


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--models", "names", metavar="A,B,...", help="Recognizers, by name; default: the one that serves.")
@click.option(
    "--rotations", type=click.Choice(["none", "auto"]), default="none", show_default=True,
    help="auto: look at pictures without a sure face in their other three quarter turns, too.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of Markdown.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, writable=True, path_type=Path), metavar="FILE",
    help="Draw true against false matches, and similarities, as the file's ending says; needs matplotlib.",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit code 1 when files of the folder were skipped.")
def evaluate(
    *,
    folder: Path,
    names: str | None,
    rotations: Literal["none", "auto"],
    as_json: bool,
    plot: Path | None,
    strict: bool,
) -> None:
    """Judge recognizers on pictures of people you know: FOLDER holds a folder for each person.

    Every picture is compared with every other by its largest face, as `/compare` takes it. Prints how often the most
    similar other picture is of the same person (rank-1), how many pairs of one person are found at a false-match rate
    (TAR), where false matches and misses are equal (EER), faces that were missed, thresholds for your pictures, speed.
    """
    settings = read_settings()
    configure_quiet_logs(settings)
    wanted = [name.strip() for name in names.split(",") if name.strip()] if names else []
    evaluation = evaluate_models(settings, folder, wanted, rotations)
    if as_json:
        click.echo(json.dumps(evaluation.as_dict(), indent=2))
    else:
        click.echo("\n".join(to_markdown(evaluation)))
    if plot is not None:
        draw_plot(evaluation, plot)
    tell_skipped(evaluation.skipped, strict=strict)
