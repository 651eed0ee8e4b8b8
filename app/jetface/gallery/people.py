"""From faces to people and back: which face of a picture is enrolled, who each face is, and by which recognizer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Crop, Face, PictureResult
from jetface.errors import (
    FaceRefusedError,
    ModelError,
    ModelMismatchError,
    NoFaceError,
    PoorFaceError,
    ServiceError,
    SeveralFacesError,
)
from jetface.gallery.protocol import NO_DEADLINE, Gallery
from jetface.gallery.records import (
    LIKENESS_OF_DUPLICATES,
    Collection,
    Match,
    ModelPin,
    NewFace,
    Query,
    StoredFace,
    check_id,
    made_up_id,
    unit_rows,
)

CROP_QUALITY = 95
"""JPEG quality of kept crops, as `facedata` has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolWish:
    """How pictures are enrolled."""

    min_quality: float = 0.0
    """Least `Quality.score` of a face, [0, 1]."""
    takes_largest: bool = False
    """Of several faces the largest is the person; otherwise the picture is refused."""
    skips_duplicates: bool = False
    """A face that is stored already, under whatever id and person, is not stored again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Nearest:
    """The face most like a new one that was there before, where it reaches the recognizer's threshold."""

    person_id: str
    face_id: str
    similarity: float

    @property
    def is_duplicate(self) -> bool:
        """Whether both are taken to be of one picture."""
        return self.similarity >= LIKENESS_OF_DUPLICATES


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """What came of one picture or vector that was to be enrolled."""

    stored: StoredFace | None
    """None where it was refused or skipped."""
    face: Face | None = None
    """The face that was meant, in the picture."""
    nearest: Nearest | None = None
    error: ServiceError | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a face may be."""

    matches: Sequence[Match]
    """Persons of at least the threshold, most alike first."""
    margin: float | None
    """How much more alike the first is than the next person, whether or not that reaches the threshold; None where
    nobody was found or there is nobody else."""


class People:
    """Enrols and searches faces that the service's recognizer has embedded. Belongs to one event loop."""

    def __init__(
        self,
        gallery: Gallery,
        *,
        model: Callable[[], ModelPin | None],
        match_threshold: Callable[[], float],
        keeps_crops: bool = False,
    ) -> None:
        """Take a gallery.

        Args:
            gallery: Open.
            model: Returns the recognizer that serves; None where none does.
            match_threshold: Returns the least similarity of one person where a request names none.
            keeps_crops: Whether aligned crops are stored with the faces.
        """
        self.gallery = gallery
        self.match_threshold = match_threshold
        self.keeps_crops = keeps_crops
        self._model = model

    def model(self) -> ModelPin:
        """Return the recognizer that serves.

        Raises:
            ModelError: None does.
        """
        model = self._model()
        if model is None:
            raise ModelError("No recognizer is configured: REC_MODEL is none.")
        return model

    async def create_collection(self, name: str, metadata: Mapping[str, Any]) -> tuple[Collection, bool]:
        """Return a collection of the recognizer that serves, and whether it is new.

        Raises:
            ModelMismatchError: One of that name is there, of another recognizer.
        """
        name = check_id("name", name)
        for there in await self.gallery.collections():
            if there.name == name:
                return self._checked(there), False
        return await self.gallery.create_collection(name, self.model(), metadata)

    async def collection(self, name: str) -> Collection:
        """Return a collection whose embeddings the recognizer that serves has made.

        Raises:
            NotFoundError: There is none of that name.
            ModelMismatchError: Another recognizer has.
        """
        return self._checked(await self.gallery.collection(name))

    def _checked(self, collection: Collection) -> Collection:
        model = self.model()
        if collection.model.sha256 != model.sha256:
            raise ModelMismatchError(
                f"The collection holds embeddings of {collection.model.name}, the service has {model.name}: they "
                "cannot be compared. Serve that recognizer, or move the collection: `jetface gallery reembed` where "
                "crops are kept, else enrol its people anew.",
                pinned={"model": collection.model.name, "sha256": collection.model.sha256},
                serving={"model": model.name, "sha256": model.sha256},
            )
        return collection

    async def enrol(
        self,
        collection: str,
        person_id: str,
        results: Sequence[PictureResult],
        wish: EnrolWish,
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
        group: Hashable = None,
        deadline: float = NO_DEADLINE,
    ) -> list[Enrolled]:
        """Store the face of each picture as one of a person's, who is added if new.

        Args:
            collection: Of the recognizer that made the embeddings.
            person_id: Checked.
            results: Pictures with the embedding, quality and crop of each face.
            wish: Which faces are taken.
            name: Of a person who is new; None: the id.
            face_ids: One a picture, checked; None: made up.
            group: The request, for the queue of searches.
            deadline: `loop.time()` after which the answer is of no use.

        Returns:
            One outcome a picture, in order; what is wrong with one is its own.
        """
        drafts: list[Enrolled] = [_drafted(result, wish) for result in results]
        new = {
            number: NewFace(
                vector=draft.face.embedding.vector,
                quality=None if draft.face.quality is None else draft.face.quality.score,
                crop=_encoded(draft.face.crop) if self.keeps_crops and draft.face.crop is not None else None,
                id=made_up_id() if face_ids is None else face_ids[number],
            )
            for number, draft in enumerate(drafts)
            if draft.face is not None and draft.face.embedding is not None and draft.error is None
        }
        return await self._store(collection, person_id, drafts, new, wish, name=name, group=group, deadline=deadline)

    async def enrol_vectors(
        self,
        collection: Collection,
        person_id: str,
        vectors: Sequence[Sequence[float] | NDArray[Any]],
        wish: EnrolWish,
        *,
        name: str | None = None,
        face_ids: Sequence[str] | None = None,
        group: Hashable = None,
        deadline: float = NO_DEADLINE,
    ) -> list[Enrolled]:
        """Store embeddings as faces of a person; arguments and answer are those of `enrol`.

        Raises:
            RequestError: A vector cannot be an embedding of the collection's recognizer; nothing is stored.
        """
        rows = unit_rows(vectors, collection.model.embedding_length)
        new = {
            number: NewFace(vector=row, id=made_up_id() if face_ids is None else face_ids[number])
            for number, row in enumerate(rows)
        }
        drafts = [Enrolled(stored=None) for _ in rows]
        return await self._store(
            collection.name, person_id, drafts, new, wish, name=name, group=group, deadline=deadline
        )

    async def _store(
        self,
        collection: str,
        person_id: str,
        drafts: list[Enrolled],
        new: dict[int, NewFace],
        wish: EnrolWish,
        *,
        name: str | None,
        group: Hashable,
        deadline: float,
    ) -> list[Enrolled]:
        """Fill the drafts in: what is nearest to each, what was stored."""
        if not new:
            return drafts
        nearest = await self._nearest(collection, person_id, list(new.values()), group, deadline)
        for number, found in zip(list(new), nearest, strict=True):
            drafts[number] = replace(drafts[number], nearest=found)
            if wish.skips_duplicates and found is not None and found.is_duplicate:
                del new[number]
        if not new:
            return drafts
        outcomes = await self.gallery.add_faces(collection, person_id, list(new.values()), name=name, deadline=deadline)
        for number, outcome in zip(new, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                drafts[number] = replace(drafts[number], error=outcome)
            else:
                drafts[number] = replace(drafts[number], stored=outcome)
        return drafts

    async def _nearest(
        self, collection: str, person_id: str, faces: Sequence[NewFace], group: Hashable, deadline: float
    ) -> list[Nearest | None]:
        """Return what is most like each face: stored before, or before it in this call."""
        threshold = self.match_threshold()
        queries = [Query(vector=face.vector, top_k=1, threshold=threshold) for face in faces]
        found = await self.gallery.search(collection, queries, group=group, deadline=deadline)
        rows = np.stack([face.vector for face in faces])
        among = np.tril(rows @ rows.T, -1)
        nearest: list[Nearest | None] = []
        for number, (face, matches) in enumerate(zip(faces, found, strict=True)):
            # What is stored under the face's own id is that face, sent again.
            best = next(
                (
                    Nearest(person_id=match.person_id, face_id=match.face_id, similarity=match.similarity)
                    for match in matches
                    if match.face_id != face.id and match.similarity >= threshold
                ),
                None,
            )
            before = int(among[number].argmax())
            alike = min(1.0, float(among[number, before]))
            if before < number and alike >= threshold and (best is None or alike > best.similarity):
                best = Nearest(person_id=person_id, face_id=faces[before].id, similarity=alike)
            nearest.append(best)
        return nearest

    async def identify(
        self,
        collection: str,
        vectors: Sequence[NDArray[np.float32]],
        *,
        top_k: int,
        threshold: float | None,
        group: Hashable = None,
        deadline: float = NO_DEADLINE,
    ) -> list[Identity]:
        """Tell of each face who it may be.

        Args:
            collection: Of the recognizer that made the embeddings.
            vectors: Of unit length.
            top_k: Most persons a face, >= 1.
            threshold: Least similarity of one person; None: the recognizer's own.
            group: The request, for the queue of searches.
            deadline: `loop.time()` after which the answer is of no use.
        """
        least = self.match_threshold() if threshold is None else threshold
        queries = [Query(vector=vector, top_k=top_k, threshold=least) for vector in vectors]
        found = await self.gallery.search(collection, queries, group=group, deadline=deadline)
        return [_identity(matches, top_k, least) for matches in found]


def _identity(found: Sequence[Match], top_k: int, threshold: float) -> Identity:
    matches = [match for match in found[:top_k] if match.similarity >= threshold]
    has_next = bool(matches) and len(found) > 1
    return Identity(matches, found[0].similarity - found[1].similarity if has_next else None)


def _drafted(result: PictureResult, wish: EnrolWish) -> Enrolled:
    """Choose the face that is meant, or say why there is none."""
    if result.error is not None:
        return Enrolled(stored=None, error=result.error)
    error: FaceRefusedError | None = None
    face = max(result.faces, key=_area, default=None)
    if face is None:
        error = NoFaceError("No face was found in the picture.")
    elif len(result.faces) > 1 and not wish.takes_largest:
        error = SeveralFacesError(
            f"{len(result.faces)} faces were found in the picture; one person's is wanted.", faces=len(result.faces)
        )
    elif face.quality is not None and face.quality.score < wish.min_quality:
        error = PoorFaceError(
            f"The face's quality is {face.quality.score:.2f}; at least {wish.min_quality:g} is wanted.",
            quality=round(face.quality.score, 4),
        )
    return Enrolled(stored=None, face=face, error=error)


def _area(face: Face) -> float:
    x1, y1, x2, y2 = face.box.tolist()
    return float((x2 - x1) * (y2 - y1))


def _encoded(crop: Crop) -> bytes:
    return cv2.imencode(".jpg", crop, [cv2.IMWRITE_JPEG_QUALITY, CROP_QUALITY])[1].tobytes()
