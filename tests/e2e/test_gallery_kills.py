"""What the gallery said is stored, is there: after kills at any moment, and on a disk that is full for real."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jetface.gallery.records import NewFace
from jetface.gallery.store import Store
from tests.support.gallery_faces import PIN, vectors_of

NUM_KILLS = 200


def store_until_killed(path: Path, number: int, told: int) -> None:
    """Store faces and delete some, and tell of each when that has returned."""
    vectors = vectors_of(8, seed=number)[:, 0]
    with Store(path, is_writer=True) as store:
        collection, _ = store.create_collection("people", PIN, "{}")
        for step in range(10**6):
            faces = [
                NewFace(vector=vector, id=f"{number}-{step}-{place}", crop=b"jpeg" * 500)
                for place, vector in enumerate(vectors[: 1 + step % 8])
            ]
            store.add_faces(collection, f"p{step % 5}", None, faces)
            os.write(told, "".join(f"+{face.id}\n" for face in faces).encode())
            if step % 3 == 2:
                os.write(told, f"?{faces[0].id}\n".encode())
                store.delete_faces(collection, [faces[0].id])
                store.erase()
                os.write(told, f"-{faces[0].id}\n".encode())


def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "gallery.sqlite3"
    chance = random.Random(18)
    kept: set[str] = set()
    deleted: set[str] = set()
    may_be_deleted: set[str] = set()
    for number in range(NUM_KILLS):
        read, write = os.pipe()
        child = os.fork()
        if not child:  # pragma: no cover - killed before it could write what it covered
            try:
                os.close(read)
                store_until_killed(path, number, write)
            finally:
                os._exit(1)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.readline()  # it is at work
            time.sleep(chance.random() * 0.03)
            os.kill(child, signal.SIGKILL)
            said += pipe.read()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        for line in said.decode().splitlines(keepends=True):
            if line.endswith("\n"):
                {"+": kept, "-": deleted, "?": may_be_deleted}[line[0]].add(line[1:-1])
    with Store(path, is_writer=True) as store:
        assert store.faults() == []
        (collection, _) = store.collections()["people"]
        there = {face.id for face in store.faces(collection, None, after=0, limit=10**9).items}
        assert len(kept) > NUM_KILLS
        assert kept - may_be_deleted - there == set()
        assert deleted & there == set()
        # Nothing is torn either: each vector is whole.
        for rows in store.rows():
            np.testing.assert_allclose(np.linalg.norm(rows.vectors.astype(np.float32), axis=1), 1, atol=1e-3)


FILL = """
import sys
from pathlib import Path
from jetface.errors import StorageFullError
from jetface.gallery.store import Store
from tests.support.gallery_faces import PIN, new_faces, vectors_of

folder = Path(sys.argv[1])
with Store(folder / "gallery.sqlite3", is_writer=True) as store:
    collection, _ = store.create_collection("people", PIN, "{}")
    stored = 0
    try:
        for number in range(10_000):
            store.add_faces(collection, f"p{number}", None, new_faces(vectors_of(5, seed=number)[:, 0]))
            stored += 5
    except StorageFullError as error:
        print("full:", error.code)
    there = store.collections()["people"][1].num_faces
    print("stored", stored, "there", there, "faults", store.faults())
    # Room is made, and the same process goes on.
    (folder / "ballast").unlink()
    store.add_faces(collection, "after", None, new_faces(vectors_of(1)[0]))
with Store(folder / "gallery.sqlite3", is_writer=True) as store:
    print("again", store.collections()["people"][1].num_faces - there, store.faults())
"""


def test_a_disk_that_is_full_is_told_and_tears_nothing(tmp_path: Path) -> None:
    """On a file system of 4 MiB that a namespace of its own may mount."""
    mount = f"mount -t tmpfs -o size=4m none {tmp_path} && head -c 1000000 /dev/zero > {tmp_path}/ballast"
    unshare = shutil.which("unshare")
    if (
        unshare is None
        or subprocess.run([unshare, "-Urm", "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("no file system can be mounted here")
    fill = f'{mount} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        [unshare, "-Urm", "sh", "-c", fill, sys.executable, FILL], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )  # fmt: skip
    full, stored, again = done.stdout.splitlines()
    assert full == "full: storage_full"
    words = stored.split()
    assert int(words[1]) == int(words[3]) >= 100
    assert words[5:] == ["[]"]
    assert again == "again 1 []"
