"""How well `jetface group` sorts a folder of a folder a person, by thresholds; each picture by its largest face.

python -m tests.bench.grouping ../shared/faces
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import numpy as np

from jetface.cli.find import Asked, FolderFaces, look_at
from jetface.cli.group import group_faces
from jetface.service import open_service
from jetface.settings import read_settings


async def look(folder: Path, faces: Path | None) -> FolderFaces:
    """Return the faces of a folder, by the models of the settings."""
    async with open_service(read_settings()) as service:
        return await look_at(
            service, folder, Asked(threshold=None, min_quality=0, faces=faces, form=None, strict=False)
        )


def main() -> None:
    """Print, for thresholds about the recognizer's own, which pairs of pictures are put together and should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--faces", type=Path)
    args = parser.parse_args()
    there = asyncio.run(look(args.folder, args.faces))
    boxes = np.array(there.table["box"].to_pylist())
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    largest: dict[str, int] = {}
    for row, path in enumerate(there.table["path"].to_pylist()):
        if path not in largest or areas[row] > areas[largest[path]]:
            largest[path] = row
    people = np.array([Path(path).parts[0] for path in largest])
    rows = list(largest.values())
    pairs = np.triu_indices(len(rows), 1)
    is_same = (people[:, None] == people)[pairs]
    sys.stdout.write(f"{len(people)} pictures of {len(set(people))} people, {len(boxes)} faces\n")
    for threshold in there.threshold + np.array([-0.1, -0.05, 0, 0.05, 0.1]):
        labels = group_faces(there.vectors, float(threshold))[rows]
        is_together = (labels[:, None] == labels)[pairs]
        right = (is_same & is_together).sum()
        sys.stdout.write(
            f"threshold {threshold:.2f}: of the pairs put together {right / is_together.sum():.4f} are of one person, "
            f"of those of one person {right / is_same.sum():.4f} are put together; {len(set(labels))} groups\n"
        )


if __name__ == "__main__":
    main()
