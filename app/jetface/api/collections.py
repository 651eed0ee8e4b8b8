"""`/v1/collections`: people and their faces, and who a face is. Off until the gallery has a place."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import orjson
import structlog
from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from jetface.api.answers import detect_picture, milliseconds, num_faces
from jetface.api.bodies import LINES_TYPES
from jetface.api.collection_schemas import (
    CollectionAnswer,
    CollectionBody,
    CollectionsAnswer,
    DeletedAnswer,
    DeleteFacesBody,
    EnrolAnswer,
    EnrolBody,
    EnrolFields,
    FacesAnswer,
    IdentifyAnswer,
    IdentifyBody,
    IdentifyFields,
    ImportAnswer,
    PageFields,
    PersonAnswer,
    PersonBody,
    PersonChanges,
    PersonsAnswer,
    SearchAnswer,
    SearchBody,
    SearchFields,
)
from jetface.api.openapi import documented, documented_change, documented_fields, documented_lines, documented_list
from jetface.api.services import Services
from jetface.domain import ExtractOptions, PictureResult
from jetface.errors import ForbiddenError, NotFoundError, RequestError
from jetface.gallery.people import Enrolled, EnrolWish, Identity, People
from jetface.gallery.records import Collection, Match, Person, StoredFace, check_id, made_up_id, unit_rows
from jetface.gallery.transfer import CollectionLine, export_lines, parse_line, persons_and_faces
from jetface.imaging.sources import PictureSource
from jetface.server.context import RequestContext, context_of
from jetface.server.encoding import small_answer

_KEYS = frozenset({"box", "score", "landmarks", "landmarks_from", "visible"})
_log = structlog.get_logger("jetface.gallery")


def people_of(services: Services) -> People:
    """Return the gallery.

    Raises:
        NotFoundError: It is off.
    """
    if services.people is None:
        raise NotFoundError("The gallery is off: the operator turns it on with GALLERY_DIR.")
    return services.people


def check_may_write(context: RequestContext) -> None:
    """Refuse a key that may only read.

    Raises:
        ForbiddenError: The request's may.
    """
    if not context.may_write:
        raise ForbiddenError("This API key may read only.")


def note(services: Services, context: RequestContext, action: str, collection: str, **facts: object) -> None:
    """Write a line of the audit log: who did what with whom, without pictures and vectors."""
    _log.info("gallery", action=action, collection=collection, caller=context.caller, **facts)
    for change in ("stored", "refused", "faces_deleted", "persons_deleted"):
        if count := facts.get(change):
            services.metrics.gallery_changes.labels(change).inc(float(str(count)))


def search_options(services: Services, fields: IdentifyFields) -> ExtractOptions:
    """Return how the faces of a picture are found that are searched for."""
    score = fields.detection_threshold
    return ExtractOptions(
        score_threshold=services.defaults["det_thresh"] if score is None else score,
        limit_faces=fields.limit_faces,
        min_face_width_px=fields.min_face_size,
        min_quality=fields.min_quality,
        rotations=fields.rotations,
    )


def count_outcomes(outcomes: Sequence[Enrolled]) -> dict[str, int]:
    """Return how many faces were stored and refused, for `note`."""
    stored = sum(outcome.stored is not None for outcome in outcomes)
    return {"stored": stored, "refused": sum(outcome.error is not None for outcome in outcomes)}


def collections_router(services: Services) -> APIRouter:  # noqa: C901, PLR0915 - a route each
    """Return the routes."""
    router = APIRouter(prefix="/v1/collections", tags=["gallery"])

    @router.get("", **documented_list(CollectionsAnswer))
    async def list_collections(request: Request) -> Response:
        """List the collections, each with the recognizer it is pinned to and what it holds."""
        found = await people_of(services).gallery.collections()
        return small_answer(context_of(request), {"collections": [_collection(each) for each in found]})

    @router.post("", **documented_fields(CollectionBody, CollectionAnswer, created=True))
    async def create_collection(request: Request) -> Response:
        """Make a collection, pinned to the recognizer that serves. One that is there already is returned, 200."""
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        fields = await services.bodies.read_fields(request, CollectionBody)
        made, is_new = await people.create_collection(fields.name, fields.metadata)
        note(services, context, "create collection", made.name, is_new=is_new)
        return small_answer(context, _collection(made), status=201 if is_new else 200)

    @router.get("/{collection}", **documented_list(CollectionAnswer))
    async def get_collection(request: Request, collection: str) -> Response:
        """Tell of a collection."""
        found = await people_of(services).gallery.collection(check_id("collection", collection))
        return small_answer(context_of(request), _collection(found))

    @router.delete("/{collection}", **documented_change(CollectionAnswer))
    async def delete_collection(request: Request, collection: str) -> Response:
        """Delete a collection with all persons and faces in it, for good."""
        context = context_of(request)
        check_may_write(context)
        deleted = await people_of(services).gallery.delete_collection(check_id("collection", collection))
        note(
            services, context, "delete collection", deleted.name,
            persons_deleted=deleted.num_persons, faces_deleted=deleted.num_faces,
        )  # fmt: skip
        return small_answer(context, _collection(deleted))

    @router.get("/{collection}/export", **documented_lines(None))
    async def export_collection(request: Request, collection: str) -> Response:
        """Return all of a collection as lines of JSON, embeddings and crops among them; for keys that may write."""
        context = context_of(request)
        check_may_write(context)
        gallery = people_of(services).gallery
        found = await gallery.collection(check_id("collection", collection))
        lines: AsyncIterable[bytes] | Iterable[bytes] = ()
        if not context.is_head:
            lines = export_lines(gallery, found)
            note(services, context, "export", found.name, persons=found.num_persons, faces=found.num_faces)
            services.metrics.gallery_exports.inc()
        kind = LINES_TYPES[context.header(b"accept") == LINES_TYPES[1]]
        return StreamingResponse(lines, media_type=kind, headers={"cache-control": "private, no-store"})

    @router.post("/{collection}/import", **documented_lines(ImportAnswer))
    async def import_collection(request: Request, collection: str) -> Response:
        """Add lines of an export, all of them or none. What is there already stays as it is.

        Where the line of the collection is among them, a collection that is missing is made. Any run of lines can be
        sent by itself; a person's line comes before its faces.
        """
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        collection = check_id("collection", collection)
        model = people.model()
        lines = await services.bodies.read_lines(request, partial(parse_line, model=model))
        persons, faces = persons_and_faces(lines, model, keeps_crops=people.keeps_crops)
        described = next((line for line in lines if isinstance(line, CollectionLine)), None)
        if described is not None:
            await people.create_collection(collection, orjson.loads(described.metadata))
        else:
            await people.collection(collection)
        persons_added, faces_added = await people.gallery.add_all(collection, persons, faces, deadline=context.deadline)
        note(services, context, "import", collection, persons_added=persons_added, stored=faces_added)
        value = {
            "took_ms": milliseconds(context.took_s),
            "persons": len(persons),
            "persons_added": persons_added,
            "faces": len(faces),
            "faces_added": faces_added,
        }
        return small_answer(context, value)

    @router.get("/{collection}/persons", **documented_list(PersonsAnswer, PageFields))
    async def list_persons(request: Request, collection: str) -> Response:
        """List persons, in the order in which they were added, a page at a time."""
        wanted = services.bodies.read_query(request, PageFields)
        page = await people_of(services).gallery.persons(
            check_id("collection", collection), after=wanted.after, limit=wanted.limit
        )
        return small_answer(context_of(request), {"persons": [_person(each) for each in page.items], "next": page.next})

    @router.post("/{collection}/persons", **documented_fields(PersonBody, PersonAnswer, created=True))
    async def add_person(request: Request, collection: str) -> Response:
        """Add a person. One of that id, name and metadata that is there already is returned, 200."""
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        fields = await services.bodies.read_fields(request, PersonBody)
        person_id = fields.id or made_up_id()
        collection = check_id("collection", collection)
        added, is_new = await people.gallery.add_person(
            collection, person_id, fields.name or person_id, fields.metadata
        )
        note(services, context, "add person", collection, person=added.id, is_new=is_new)
        return small_answer(context, _person(added), status=201 if is_new else 200)

    @router.get("/{collection}/persons/{person}", **documented_list(PersonAnswer))
    async def get_person(request: Request, collection: str, person: str) -> Response:
        """Tell of a person."""
        found = await people_of(services).gallery.person(check_id("collection", collection), check_id("person", person))
        return small_answer(context_of(request), _person(found))

    @router.patch("/{collection}/persons/{person}", **documented_fields(PersonChanges, PersonAnswer))
    async def change_person(request: Request, collection: str, person: str) -> Response:
        """Change the name or the metadata of a person."""
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        fields = await services.bodies.read_fields(request, PersonChanges)
        collection = check_id("collection", collection)
        changed = await people.gallery.change_person(
            collection, check_id("person", person), name=fields.name, metadata=fields.metadata
        )
        note(services, context, "change person", collection, person=changed.id)
        return small_answer(context, _person(changed))

    @router.delete("/{collection}/persons/{person}", **documented_change(PersonAnswer))
    async def delete_person(request: Request, collection: str, person: str) -> Response:
        """Delete a person and all of its faces, for good: their rows are overwritten."""
        context = context_of(request)
        check_may_write(context)
        collection = check_id("collection", collection)
        (deleted,) = await people_of(services).gallery.delete_persons(collection, check_id("person", person))
        note(
            services, context, "delete person", collection,
            person=deleted.id, persons_deleted=1, faces_deleted=deleted.num_faces,
        )  # fmt: skip
        return small_answer(context, _person(deleted))

    @router.post(
        "/{collection}/persons/{person}/faces", **documented(EnrolBody, EnrolFields, EnrolAnswer, in_gallery=True)
    )
    async def enrol_person(request: Request, collection: str, person: str) -> Response:
        """Enrol pictures of a person, who is added if new. Each picture is stored or refused by itself.

        A picture shows one face, or with `largest` the largest is meant. `nearest` tells of a face that was there
        before and may be the same person: the same picture where `is_duplicate`, somebody else's where `person` is.
        """
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        asked = await services.bodies.read(request, EnrolFields, EnrolBody)
        fields = asked.options
        vectors = getattr(fields, "vectors", None)
        _check_one_kind(asked.pictures, vectors)
        num_wanted = len(asked.pictures) + len(vectors or ())
        if fields.ids is not None and (len(fields.ids) != num_wanted or len(set(fields.ids)) != num_wanted):
            raise RequestError("ids: one for each picture, no two alike.", pictures=num_wanted)
        person_id = check_id("person", person)
        there = await people.collection(check_id("collection", collection))
        wish = EnrolWish(
            min_quality=fields.min_quality, takes_largest=fields.largest, skips_duplicates=fields.skip_duplicates
        )
        results: list[PictureResult | None]
        if vectors is not None:
            results = [None] * len(vectors)
            outcomes = await people.enrol_vectors(
                there, person_id, vectors, wish,
                name=fields.name, face_ids=fields.ids, group=id(context), deadline=context.deadline,
            )  # fmt: skip
        else:
            score = fields.detection_threshold
            options = ExtractOptions(
                score_threshold=services.defaults["det_thresh"] if score is None else score,
                rotations=fields.rotations,
                with_quality=True,
                with_crop=people.keeps_crops,
            )
            found = await services.extractor.extract(asked.pictures, options, deadline=context.deadline)
            context.add_results(found)
            results = [*found]
            outcomes = await people.enrol(
                there.name, person_id, found, wish,
                name=fields.name, face_ids=fields.ids, group=id(context), deadline=context.deadline,
            )  # fmt: skip
        note(services, context, "enrol", there.name, person=person_id, **count_outcomes(outcomes))
        value = {
            "took_ms": milliseconds(context.took_s),
            "person": person_id,
            "pictures": [_enrolled(*each) for each in zip(outcomes, results, strict=True)],
        }
        return await services.answers.write(context, value)

    @router.get("/{collection}/persons/{person}/faces", **documented_list(FacesAnswer, PageFields))
    async def list_faces(request: Request, collection: str, person: str) -> Response:
        """List the faces of a person, in the order in which they were enrolled, a page at a time."""
        wanted = services.bodies.read_query(request, PageFields)
        page = await people_of(services).gallery.faces(
            check_id("collection", collection), check_id("person", person), after=wanted.after, limit=wanted.limit
        )
        return small_answer(context_of(request), {"faces": [_face(each) for each in page.items], "next": page.next})

    @router.delete("/{collection}/faces/{face}", **documented_change(DeletedAnswer))
    async def delete_face(request: Request, collection: str, face: str) -> Response:
        """Delete a face for good; its person stays."""
        context = context_of(request)
        check_may_write(context)
        collection = check_id("collection", collection)
        deleted = await people_of(services).gallery.delete_faces(collection, [check_id("face", face)])
        if not deleted:
            raise NotFoundError("No face of that id is in the collection.")
        note(services, context, "delete face", collection, person=deleted[0].person_id, faces_deleted=1)
        return small_answer(context, {"deleted": [deleted[0].id]})

    @router.post("/{collection}/faces/delete", **documented_fields(DeleteFacesBody, DeletedAnswer))
    async def delete_faces(request: Request, collection: str) -> Response:
        """Delete several faces for good; those that are not there are passed over."""
        context = context_of(request)
        check_may_write(context)
        people = people_of(services)
        fields = await services.bodies.read_fields(request, DeleteFacesBody)
        collection = check_id("collection", collection)
        deleted = await people.gallery.delete_faces(collection, fields.ids)
        note(services, context, "delete faces", collection, faces_deleted=len(deleted))
        return small_answer(context, {"deleted": [face.id for face in deleted]})

    @router.get("/{collection}/faces/{face}/crop", **documented_list(None))
    async def get_crop(request: Request, collection: str, face: str) -> Response:
        """Return the aligned crop of a face, where crops are kept."""
        context = context_of(request)
        collection = check_id("collection", collection)
        found = await people_of(services).gallery.crop(collection, check_id("face", face))
        if found is None:
            raise NotFoundError("The crop of this face was not kept: GALLERY_KEEP_CROPS was off when it was enrolled.")
        note(services, context, "read crop", collection)
        return Response(found, media_type="image/jpeg", headers={"cache-control": "private, no-store"})

    @router.post("/{collection}/search", **documented(SearchBody, SearchFields, SearchAnswer, in_gallery=True))
    async def search_faces(request: Request, collection: str) -> Response:
        """Tell of every face of each picture, or of each vector, who it may be: the persons most alike, best first."""
        asked = await services.bodies.read(request, SearchFields, SearchBody)

        def shaped(identity: Identity) -> dict[str, Any]:
            return {
                "matches": [_match(match) for match in identity.matches],
                "margin": None if identity.margin is None else np.float32(identity.margin),
            }

        return await _identified(request, collection, asked.pictures, asked.options, asked.options.top_k, shaped)

    @router.post("/{collection}/identify", **documented(IdentifyBody, IdentifyFields, IdentifyAnswer, in_gallery=True))
    async def identify_faces(request: Request, collection: str) -> Response:
        """Tell of every face of each picture, or of each vector, who it is: one person, or null."""
        asked = await services.bodies.read(request, IdentifyFields, IdentifyBody)

        def shaped(identity: Identity) -> dict[str, Any]:
            best = _match(identity.matches[0]) if identity.matches else {"person": None, "similarity": None}
            return {**best, "margin": None if identity.margin is None else np.float32(identity.margin)}

        return await _identified(request, collection, asked.pictures, asked.options, 1, shaped)

    async def _identified(
        request: Request,
        collection: str,
        pictures: Sequence[PictureSource],
        fields: IdentifyFields,
        top_k: int,
        shaped: Callable[[Identity], dict[str, Any]],
    ) -> Response:
        context = context_of(request)
        people = people_of(services)
        vectors = getattr(fields, "vectors", None)
        _check_one_kind(pictures, vectors)
        there = await people.collection(check_id("collection", collection))
        threshold = people.match_threshold() if fields.threshold is None else fields.threshold
        results: list[PictureResult] = []
        if vectors is not None:
            rows = list(unit_rows(vectors, there.model.embedding_length))
        else:
            results = await services.extractor.extract(
                pictures, search_options(services, fields), deadline=context.deadline
            )
            context.add_results(results)
            rows = [face.embedding.vector for each in results for face in each.faces if face.embedding is not None]
        identities = await people.identify(
            there.name, rows, top_k=top_k, threshold=threshold, group=id(context), deadline=context.deadline
        )
        note(
            services, context, "search", there.name,
            faces=len(rows), found=sum(bool(identity.matches) for identity in identities),
        )  # fmt: skip
        value: dict[str, Any] = {"took_ms": milliseconds(context.took_s), "threshold": np.float32(threshold)}
        if vectors is not None:
            value["vectors"] = [shaped(identity) for identity in identities]
        else:
            found = iter(identities)
            value["pictures"] = [detect_picture(result, _KEYS) for result in results]
            for picture in value["pictures"]:
                for face in picture["faces"]:
                    face.update(shaped(next(found)))
        return await services.answers.write(context, value, num_faces=num_faces(results))

    return router


def _check_one_kind(pictures: Sequence[object], vectors: Sequence[object] | None) -> None:
    if bool(pictures) == bool(vectors):
        raise RequestError("Either images or vectors are wanted.")


def _collection(collection: Collection) -> dict[str, Any]:
    return {
        "name": collection.name,
        "model": {
            "name": collection.model.name,
            "sha256": collection.model.sha256,
            "embedding_length": collection.model.embedding_length,
        },
        "metadata": collection.metadata,
        "created": collection.created_s,
        "persons": collection.num_persons,
        "faces": collection.num_faces,
    }


def _person(person: Person) -> dict[str, Any]:
    return {
        "id": person.id,
        "name": person.name,
        "metadata": person.metadata,
        "created": person.created_s,
        "faces": person.num_faces,
    }


def _face(face: StoredFace) -> dict[str, Any]:
    return {
        "id": face.id,
        "person": face.person_id,
        "quality": None if face.quality is None else np.float32(face.quality),
        "created": face.created_s,
        "has_crop": face.has_crop,
    }


def _match(match: Match) -> dict[str, Any]:
    return {
        "person": {"id": match.person_id, "name": match.name, "metadata": match.metadata},
        "similarity": np.float32(match.similarity),
        "face": match.face_id,
    }


def _enrolled(outcome: Enrolled, result: PictureResult | None) -> dict[str, Any]:
    """Return the slot of one picture or vector."""
    if outcome.error is not None:
        slot: dict[str, Any] = {"status": "failed"}
    else:
        slot = {"status": "skipped" if outcome.stored is None else "ok"}
    if result is not None:
        slot |= {"took_ms": milliseconds(result.took_s), "image_hw": result.image_hw}
    slot["face"] = None if outcome.stored is None else _face(outcome.stored)
    if outcome.face is not None:
        slot |= {"box": np.ascontiguousarray(outcome.face.box), "score": np.float32(outcome.face.score)}
    near = outcome.nearest
    slot["nearest"] = near and {
        "face": near.face_id,
        "person": near.person_id,
        "similarity": np.float32(near.similarity),
        "is_duplicate": near.is_duplicate,
    }
    if outcome.error is not None:
        error = outcome.error
        slot["error"] = {"code": error.code, "message": error.message, "details": error.details}
    return slot
