"""`jetface group`: the faces of a folder of pictures by person, without knowing anybody."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jetface.cli.find import Asked, FaceIndex, FolderFaces, folder_options, look_at
from jetface.cli.pictures import readable_name
from jetface.cli.quiet import configure_quiet_logs
from jetface.service import open_service
from jetface.settings import read_settings

_NEIGHBOURS = 32
"""Groups that are looked at as the ones to join, the nearest of each."""

_QUERIES_AT_ONCE = 64


def group_faces(vectors: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """Group faces so that those of a group are alike on average: one bridge between two people does not join them.

    Greedy agglomerative clustering with average linkage: the most alike groups are joined first, as long as the mean
    similarity of a face of one and a face of the other reaches the threshold; then again with the groups there are,
    until none is joined.

    Args:
        vectors: (N, L) of unit length.
        threshold: Least mean similarity of two groups that become one.

    Returns:
        (N,) the group of each face, counted from 0.
    """
    labels = np.arange(len(vectors))
    sums, counts = vectors.astype(np.float32), np.ones(len(vectors), np.int64)
    while len(counts) > 1:
        joined = _join(sums, counts, threshold)
        if len(np.unique(joined)) == len(counts):
            break
        _, joined = np.unique(joined, return_inverse=True)
        labels = joined[labels]
        counts = np.bincount(labels)
        sums = np.zeros((len(counts), vectors.shape[1]), np.float32)
        np.add.at(sums, labels, vectors)
    return labels


def _join(sums: NDArray[np.float32], counts: NDArray[np.int64], threshold: float) -> NDArray[np.int64]:
    """Return for each group, told by its sum of vectors and its faces, which group it becomes part of."""
    means = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    index = FaceIndex(means)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(means), _QUERIES_AT_ONCE):
        for group, near in enumerate(index.nearest(means[start : start + _QUERIES_AT_ONCE], _NEIGHBOURS), start=start):
            pairs += [(min(group, other.id), max(group, other.id)) for other in near if other.id != group]
    first, second = np.unique(np.array(pairs, np.int64).reshape(-1, 2), axis=0).T
    similarity = np.einsum("ij,ij->i", sums[first], sums[second]) / (counts[first] * counts[second])
    order = np.argsort(-similarity, kind="stable")
    order = order[similarity[order] >= threshold]
    parents = list(range(len(means)))

    def root(group: int) -> int:
        while parents[group] != group:
            parents[group] = parents[parents[group]]
            group = parents[group]
        return group

    sums, counts = sums.copy(), counts.copy()
    for one, other in zip(first[order].tolist(), second[order].tolist(), strict=True):
        into, gone = root(one), root(other)
        if into != gone and sums[into] @ sums[gone] >= threshold * counts[into] * counts[gone]:
            parents[gone] = into
            sums[into] += sums[gone]
            counts[into] += counts[gone]
    return np.array([root(group) for group in range(len(means))])


def name_people(labels: NDArray[np.int64], min_faces: int) -> Mapping[str, list[int]]:
    """Return the rows of each group by the name it gets, those with most faces first."""
    groups: dict[int, list[int]] = {}
    for row, label in enumerate(labels.tolist()):
        groups.setdefault(label, []).append(row)
    largest = sorted((rows for rows in groups.values() if len(rows) >= min_faces), key=len, reverse=True)
    digits = max(3, len(str(len(largest))))
    return {f"person-{number:0{digits}d}": rows for number, rows in enumerate(largest, start=1)}


def write_folders(out: Path, people: Mapping[str, Sequence[Path]], folder: Path, *, is_copy: bool) -> None:
    """Write a folder for each person with links to the pictures, or copies; all of it appears at once.

    Raises:
        click.ClickException: `out` is there already, or cannot be written.
    """
    part = out.with_name(f".{out.name}.part")
    try:
        if part.exists():
            shutil.rmtree(part)  # of a run that was killed
        for name, pictures in people.items():
            for picture in pictures:
                place = part / name / picture.relative_to(folder)
                place.parent.mkdir(parents=True, exist_ok=True)
                if is_copy:
                    shutil.copy2(picture, place)
                else:
                    place.symlink_to(picture)
        part.mkdir(parents=True, exist_ok=True)
        part.rename(out)
    except OSError as cause:
        raise click.ClickException(f"{readable_name(out)} cannot be written: {cause.strerror or cause}") from cause


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="New folder: one a person, with links to pictures."
)
@click.option("--copy", "is_copy", is_flag=True, help="Copy pictures to --out, do not link them.")
@click.option("--min-faces", type=click.IntRange(1), default=2, show_default=True, help="Fewer make no person.")
@folder_options
def group(*, folder: Path, out: Path | None, is_copy: bool, min_faces: int, **asked: Any) -> None:
    """Group the faces of FOLDER, and of all below it, by person.

    A picture that shows several people is in the folder of each. CSV and JSON tell each face's person, and how similar
    it is to the mean of that person's faces. The faces of the folder are kept: a second run, or one after an
    interruption, looks only at pictures that are new or were changed. Exit code 1 when a picture failed.
    """
    wanted = Asked(**asked)
    settings = read_settings()
    configure_quiet_logs(settings)
    if out is not None and (out.exists() or out.is_symlink()):
        raise click.ClickException(f"{readable_name(out)} is there already: name a new folder")

    async def look() -> FolderFaces:
        async with open_service(settings) as service:
            return await look_at(service, folder, wanted)

    there = asyncio.run(look())
    vectors, paths = there.vectors, there.table["path"].to_pylist()
    people = name_people(group_faces(vectors, there.threshold), min_faces)
    person_of = {row: name for name, rows in people.items() for row in rows}
    similarity_of: dict[int, float] = {}
    for rows in people.values():
        mean = vectors[rows].sum(axis=0)
        similarity_of.update(zip(rows, (vectors[rows] @ mean / np.linalg.norm(mean)).tolist(), strict=True))
    if out is not None:
        pictures = {name: sorted({there.pictures[paths[row]] for row in rows}) for name, rows in people.items()}
        write_folders(out, pictures, folder.absolute(), is_copy=is_copy)
    if wanted.form is not None:
        order = [*person_of, *(row for row in range(len(vectors)) if row not in person_of)]
        there.show(
            order,
            wanted.form,
            person=pa.array(map(person_of.get, order), pa.string()),
            similarity=pa.array(map(similarity_of.get, order), pa.float32()),
        )
    else:
        for name, rows in people.items():
            typical = there.shown(paths[max(rows, key=similarity_of.__getitem__)])
            click.echo(f"{name}: {len(rows)} faces in {len({paths[row] for row in rows})} pictures, such as {typical}")
    there.end(f"{len(people)} persons, {len(vectors) - len(person_of)} faces of nobody else", strict=wanted.strict)
