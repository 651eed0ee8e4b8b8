"""`/api/v1`: as CompreFace has it, so that its SDKs and what is built on them keep working.

A subject is a person whose id and name are the subject's; they live in one collection, whichever key asks. Detection
and verification need no gallery. Similarities are CompreFace's kind of number: see `similarity_of`.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, MaxLen
from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field

from jetface.api.collections import check_may_write, count_outcomes, note, people_of
from jetface.api.requests import AnswerFormat, CompareFields, Images, PicturesBody, Score, comma_list
from jetface.api.services import Services
from jetface.domain import ExtractOptions, Face, PictureResult
from jetface.errors import NoFaceError, NotFoundError, RequestError, ServiceError, UnauthorizedError
from jetface.gallery.people import EnrolWish, People
from jetface.gallery.records import Match, Query, check_id
from jetface.server.context import context_of
from jetface.server.encoding import small_answer, status_of

NO_FACE_CODE = 28
"""CompreFace's number of the one error that its clients look for; all others have 0 here."""
SIMILARITY_AT_THRESHOLD = 0.98
"""What the recognizer's match threshold becomes: users of CompreFace are advised to set theirs to 0.97 to 0.99."""
_LEAST_THRESHOLD = 0.05
_MAX_PAGE = 1000

Subject = Annotated[str, MaxLen(4096)]
Plugins = Annotated[frozenset[str], BeforeValidator(comma_list)]


class FaceFields(AnswerFormat):
    """Query wherever a picture goes."""

    limit: Annotated[int, Ge(0), Le(2**31 - 1)] = 0
    det_prob_threshold: Score | None = None
    face_plugins: Plugins = frozenset()
    status: bool = False
    prediction_count: Annotated[int, Ge(1), Le(100)] = 1
    subject: Subject = ""


class FaceBody(PicturesBody, FaceFields):
    """Body with one picture: `{"file": base64}`."""


class VerifyFields(FaceFields, CompareFields):
    """Query of a comparison of two pictures."""


class VerifyBody(PicturesBody, VerifyFields):
    """Body with two pictures: `{"source_image": base64, "target_image": base64}`."""

    others: Images | None = None


class SubjectBody(AnswerFormat):
    """Body that names a subject."""

    subject: Subject


class IdsBody(AnswerFormat):
    """Body that is a list of ids."""

    ids: Annotated[list[Subject], Field(fail_fast=True), MaxLen(1000)]


class ListFields(AnswerFormat):
    """Query of the list of faces."""

    page: Annotated[int, Ge(0), Le(10**6)] = 0
    size: Annotated[int, Ge(1), Le(_MAX_PAGE)] = 20
    subject: Subject = ""


_ATTRIBUTE_BY_PLUGIN = {"age": "gender_age", "gender": "gender_age", "mask": "mask"}


def similarity_of(cosine: float, threshold: float) -> float:
    """Return what CompreFace's clients take for similarity: a sigmoid of the cosine, 0 to 1.

    The recognizer's threshold becomes 0.98, a cosine of 0, which strangers have, 0.5. Monotonic, so the order stays.

    Args:
        cosine: [-1, 1].
        threshold: Least cosine of one person.
    """
    logit = math.log(SIMILARITY_AT_THRESHOLD / (1 - SIMILARITY_AT_THRESHOLD))
    return 1 / (1 + math.exp(-logit * cosine / max(threshold, _LEAST_THRESHOLD)))


def compreface_router(services: Services, collection: str, *, keys: Sequence[str]) -> APIRouter:  # noqa: C901, PLR0915 - a route each
    """Return the routes.

    Args:
        services: As all routes have them.
        collection: Where subjects live; made when the first one comes.
        keys: Accepted in the path of pictures, which browsers ask for without a header; empty: none is needed.
    """
    # Described by CompreFace itself.
    router = APIRouter(prefix="/api/v1", include_in_schema=False)
    digests = [hashlib.sha256(key.strip().encode()).digest() for key in keys]

    def similar(cosine: float) -> float:
        return round(similarity_of(cosine, services.match_threshold()), 5)

    def options_of(fields: FaceFields, *, with_embedding: bool = True, with_crop: bool = False) -> ExtractOptions:
        score = fields.det_prob_threshold
        return ExtractOptions(
            score_threshold=services.defaults["det_thresh"] if score is None else score,
            limit_faces=fields.limit,
            with_embedding=with_embedding or "calculator" in fields.face_plugins,
            with_quality=with_crop or "pose" in fields.face_plugins,
            with_crop=with_crop,
            attributes=frozenset(_ATTRIBUTE_BY_PLUGIN[name] for name in fields.face_plugins & {*_ATTRIBUTE_BY_PLUGIN}),
        )

    async def found_in(request: Request, options: ExtractOptions) -> PictureResult:
        """Return the faces of a request's one picture; no face is an error here."""
        context = context_of(request)
        asked = await services.bodies.read(request, FaceFields, FaceBody)
        if len(asked.pictures) != 1:
            raise RequestError("One picture is wanted.")
        (result,) = await services.extractor.extract(asked.pictures, options, deadline=context.deadline)
        context.add_results([result])
        return _with_faces(result)

    async def subjects_of() -> tuple[People, str]:
        people = people_of(services)
        made, _ = await people.create_collection(collection, {})
        return people, made.name

    async def subjects_there() -> tuple[People, str | None]:
        """Return None for a collection that nobody has made yet: who reads makes none."""
        people = people_of(services)
        try:
            return people, (await people.collection(check_id("name", collection))).name
        except NotFoundError:
            return people, None

    def answered(
        function: Callable[..., Awaitable[dict[str, Any] | Response]], *, status: int = 200
    ) -> Callable[[Request], Awaitable[Response]]:
        """Answer what a function returns, and its errors, in CompreFace's words."""

        async def answer(request: Request) -> Response:
            context = context_of(request)
            try:
                value = await function(request, **request.path_params)
            except ServiceError as error:
                services.metrics.refusals.labels(error.code).inc()
                said = status_of(type(error))
                said = HTTPStatus.BAD_REQUEST if said == HTTPStatus.UNPROCESSABLE_ENTITY else said
                code = NO_FACE_CODE if isinstance(error, NoFaceError) else 0
                return small_answer(context, {"message": error.message, "code": code}, status=said)
            return value if isinstance(value, Response) else small_answer(context, value, status=status)

        return answer

    def add(method: str, path: str, function: Callable[..., Awaitable[Any]], *, status: int = 200) -> None:
        answer = answered(function, status=status)
        router.add_api_route(path, answer, methods=[method], name=f"compreface_{function.__name__}")

    # Subjects

    async def add_subject(request: Request) -> dict[str, Any]:
        """Add a subject."""
        check_may_write(context_of(request))
        fields = await services.bodies.read_fields(request, SubjectBody)
        subject = check_id("subject", fields.subject)
        people, name = await subjects_of()
        await people.gallery.add_person(name, subject, subject, {})
        note(services, context_of(request), "add person", name, person=subject)
        return {"subject": subject}

    async def list_subjects(_request: Request) -> dict[str, Any]:
        """List all subjects."""
        people, name = await subjects_there()
        subjects: list[str] = []
        after: str | None = ""
        while name is not None and after is not None:
            page = await people.gallery.persons(name, after=after, limit=_MAX_PAGE)
            subjects += [person.id for person in page.items]
            after = page.next
        return {"subjects": subjects}

    async def rename_subject(request: Request, subject: str) -> dict[str, Any]:
        """Rename a subject; one that has the new name already takes its faces in."""
        check_may_write(context_of(request))
        fields = await services.bodies.read_fields(request, SubjectBody)
        people, name = await subjects_of()
        new = check_id("subject", fields.subject)
        await people.gallery.rename_person(name, check_id("subject", subject), new)
        note(services, context_of(request), "rename person", name, person=new)
        return {"updated": True}

    async def delete_subject(request: Request, subject: str) -> dict[str, Any]:
        """Delete a subject and its faces, for good."""
        check_may_write(context_of(request))
        people, name = await subjects_of()
        (deleted,) = await people.gallery.delete_persons(name, check_id("subject", subject))
        note(
            services, context_of(request), "delete person", name,
            person=deleted.id, persons_deleted=1, faces_deleted=deleted.num_faces,
        )  # fmt: skip
        return {"subject": deleted.id}

    async def delete_subjects(request: Request) -> dict[str, Any]:
        """Delete all subjects and their faces, for good."""
        check_may_write(context_of(request))
        people, name = await subjects_of()
        deleted = await people.gallery.delete_persons(name, None)
        note(
            services, context_of(request), "delete all persons", name,
            persons_deleted=len(deleted), faces_deleted=sum(person.num_faces for person in deleted),
        )  # fmt: skip
        return {"deleted": len(deleted)}

    # Faces

    async def add_face(request: Request) -> dict[str, Any]:
        """Enrol a picture that shows one face; the subject is added if new."""
        context = context_of(request)
        check_may_write(context)
        fields = services.bodies.read_query(request, FaceFields)
        subject = check_id("subject", fields.subject)
        people, name = await subjects_of()
        result = await found_in(request, options_of(fields, with_crop=True))
        (outcome,) = await people.enrol(
            name, subject, [result], EnrolWish(), group=id(context), deadline=context.deadline
        )
        note(services, context, "enrol", name, person=subject, **count_outcomes([outcome]))
        if outcome.stored is None:
            raise outcome.error or ServiceError("The service failed; the log says why.")
        return {"image_id": outcome.stored.id, "subject": subject}

    async def list_faces(request: Request) -> dict[str, Any]:
        """List enrolled faces, a page at a time."""
        fields = services.bodies.read_query(request, ListFields)
        people, name = await subjects_there()
        subject = check_id("subject", fields.subject) if fields.subject else None
        if name is None:
            total = 0
        elif subject is None:
            total = (await people.gallery.collection(name)).num_faces
        else:
            total = (await people.gallery.person(name, subject)).num_faces
        listed: list[dict[str, Any]] = []
        skipped, after = 0, ""
        while name is not None and len(listed) < fields.size:
            left = fields.page * fields.size - skipped
            page = await people.gallery.faces(name, subject, after=after, limit=min(left or fields.size, _MAX_PAGE))
            if left:
                skipped += len(page.items)
            else:
                listed += [{"image_id": face.id, "subject": face.person_id} for face in page.items]
            if page.next is None:
                break
            after = page.next
        return {
            "faces": listed[: fields.size],
            "page_number": fields.page,
            "page_size": fields.size,
            "total_pages": -(-total // fields.size),
            "total_elements": total,
        }

    async def delete_faces_of_subject(request: Request) -> dict[str, Any]:
        """Delete the faces of a subject, or of all, for good; subjects stay."""
        check_may_write(context_of(request))
        fields = services.bodies.read_query(request, ListFields)
        people, name = await subjects_of()
        subject = check_id("subject", fields.subject) if fields.subject else None
        num_deleted = 0
        while page := (await people.gallery.faces(name, subject, after="", limit=_MAX_PAGE)).items:
            num_deleted += len(await people.gallery.delete_faces(name, [face.id for face in page]))
        note(services, context_of(request), "delete faces", name, person=subject, faces_deleted=num_deleted)
        return {"deleted": num_deleted}

    async def delete_face(request: Request, image: str) -> dict[str, Any]:
        """Delete a face, for good."""
        check_may_write(context_of(request))
        people, name = await subjects_of()
        deleted = await people.gallery.delete_faces(name, [check_id("image_id", image)])
        if not deleted:
            raise NotFoundError("No face of that id is in the collection.")
        note(services, context_of(request), "delete face", name, person=deleted[0].person_id, faces_deleted=1)
        return {"image_id": deleted[0].id, "subject": deleted[0].person_id}

    async def delete_faces(request: Request) -> Response:
        """Delete several faces, for good; the body is a list of their ids."""
        context = context_of(request)
        check_may_write(context)
        fields = await services.bodies.read_fields(request, IdsBody, list_as="ids")
        people, name = await subjects_of()
        deleted = await people.gallery.delete_faces(name, fields.ids)
        note(services, context, "delete faces", name, faces_deleted=len(deleted))
        return small_answer(context, [{"image_id": face.id, "subject": face.person_id} for face in deleted])

    async def read_picture(request: Request, image: str) -> Response:
        """Return the aligned face as JPEG; nothing where it was not kept."""
        people, name = await subjects_there()
        if name is None:
            raise NotFoundError("No face of that id is in the collection.")
        kept = await people.gallery.crop(name, check_id("image_id", image))
        note(services, context_of(request), "read crop", name)
        return Response(kept or b"", media_type="image/jpeg", headers={"cache-control": "private, no-store"})

    async def read_static_picture(request: Request, key: str, image: str) -> Response:
        """Return the aligned face as JPEG to a browser, whose key is in the path."""
        given = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        if digests and not any([hmac.compare_digest(given, digest) for digest in digests]):  # noqa: C419 - as the door
            raise UnauthorizedError("An API key is needed in the path.")
        return await read_picture(request, image)

    # Who is it

    async def recognize(request: Request) -> dict[str, Any]:
        """Tell of every face of a picture which subjects are most alike."""
        context = context_of(request)
        fields = services.bodies.read_query(request, FaceFields)
        people, name = await subjects_there()
        result = await found_in(request, options_of(fields))
        queries = [
            Query(vector=face.embedding.vector, top_k=fields.prediction_count, threshold=-1.0)
            for face in result.faces
            if face.embedding is not None
        ]
        found: Sequence[Sequence[Match]] = [[] for _ in queries]
        if name is not None:
            found = await people.gallery.search(name, queries, group=id(context), deadline=context.deadline)
        note(services, context, "search", collection, faces=len(queries), found=sum(map(bool, found)))
        described = [
            _described(face, fields, result)
            | {
                "subjects": [
                    {"subject": match.person_id, "similarity": similar(match.similarity)}
                    for match in matches[: fields.prediction_count]
                ]
            }
            for face, matches in zip(result.faces, found, strict=True)
        ]
        return {"result": described, **_versions(services, fields)}

    async def verify_face(request: Request, image: str) -> dict[str, Any]:
        """Compare every face of a picture with one that is enrolled."""
        fields = services.bodies.read_query(request, FaceFields)
        people, name = await subjects_there()
        if name is None:
            raise NotFoundError("No face of that id is in the collection.")
        enrolled = await people.gallery.vector(name, check_id("image_id", image))
        result = await found_in(request, options_of(fields))
        note(services, context_of(request), "verify", name, faces=len(result.faces))
        described = [
            _described(face, fields, result) | {"similarity": similar(_cosine(face, enrolled))} for face in result.faces
        ]
        return {"result": described, **_versions(services, fields)}

    async def detect(request: Request) -> dict[str, Any]:
        """Find the faces of a picture."""
        fields = services.bodies.read_query(request, FaceFields)
        result = await found_in(request, options_of(fields, with_embedding=False))
        return {"result": [_described(face, fields, result) for face in result.faces], **_versions(services, fields)}

    async def verify(request: Request) -> dict[str, Any]:
        """Compare the largest face of one picture with every face of another."""
        context = context_of(request)
        fields = services.bodies.read_query(request, VerifyFields)
        asked = await services.bodies.read(request, VerifyFields, VerifyBody)
        if len(asked.pictures) != 1 or len(asked.others or ()) != 1:
            raise RequestError("source_image, target_image: one picture each is wanted.")
        results = await services.extractor.extract(
            [*asked.pictures, *(asked.others or ())], options_of(fields), deadline=context.deadline
        )
        context.add_results(results)
        source, target = map(_with_faces, results)
        face = max(source.faces, key=lambda face: float(np.prod(face.box[2:] - face.box[:2])))
        vector = np.zeros(1, np.float32) if face.embedding is None else face.embedding.vector
        matches = [
            _described(other, fields, target) | {"similarity": similar(_cosine(other, vector))}
            for other in target.faces
        ]
        compared = {"source_image_face": _described(face, fields, source), "face_matches": matches}
        return {"result": [compared], **_versions(services, fields)}

    add("POST", "/recognition/subjects", add_subject, status=201)
    add("GET", "/recognition/subjects", list_subjects)
    add("PUT", "/recognition/subjects/{subject}", rename_subject)
    add("DELETE", "/recognition/subjects/{subject}", delete_subject)
    add("DELETE", "/recognition/subjects", delete_subjects)
    add("POST", "/recognition/faces", add_face, status=201)
    add("GET", "/recognition/faces", list_faces)
    add("DELETE", "/recognition/faces", delete_faces_of_subject)
    add("POST", "/recognition/faces/delete", delete_faces)
    add("DELETE", "/recognition/faces/{image}", delete_face)
    add("GET", "/recognition/faces/{image}/img", read_picture)
    add("GET", "/static/{key}/images/{image}", read_static_picture)
    add("POST", "/recognition/recognize", recognize)
    add("POST", "/recognition/faces/{image}/verify", verify_face)
    add("POST", "/detection/detect", detect)
    add("POST", "/verification/verify", verify)
    return router


def _with_faces(result: PictureResult) -> PictureResult:
    """Return a picture that shows somebody.

    Raises:
        NoFaceError: It shows nobody.
        ServiceError: It cannot be read.
    """
    if result.error is not None:
        raise result.error
    if not result.faces:
        raise NoFaceError("No face is found in the given image")
    return result


def _cosine(face: Face, vector: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    if face.embedding is None:  # pragma: no cover - embeddings were asked for
        return -1.0
    return float(face.embedding.vector @ vector / np.linalg.norm(vector))


def _described(face: Face, fields: FaceFields, result: PictureResult) -> dict[str, Any]:
    """Return a face with what plugins ask for, as far as there is a model for it."""
    x_min, y_min, x_max, y_max = face.box.round().astype(int).tolist()
    box = {"probability": round(face.score, 5), "x_min": x_min, "y_min": y_min, "x_max": x_max, "y_max": y_max}
    described: dict[str, Any] = {"box": box}
    plugins = fields.face_plugins
    known, mask = face.attributes.get("gender_age"), face.attributes.get("mask")
    if "age" in plugins and known is not None:
        described["age"] = {"probability": None, "low": known["age"], "high": known["age"]}
    if "gender" in plugins and known is not None:
        described["gender"] = {"probability": None, "value": "male" if known["gender"] else "female"}
    if "mask" in plugins and mask is not None:
        value, told = ("with_mask", "mask") if mask["mask"] else ("without_mask", "no_mask")
        described["mask"] = {"probability": round(float(mask["mask_probs"][told]), 5), "value": value}
    if "landmarks" in plugins:
        described["landmarks"] = face.landmarks.round().astype(int).tolist()
    if "calculator" in plugins and face.embedding is not None:
        described["embedding"] = np.ascontiguousarray(face.embedding.vector)
    if "pose" in plugins and face.quality is not None:
        pose = face.quality.pose
        described["pose"] = {"pitch": round(pose.pitch, 3), "roll": round(pose.roll, 3), "yaw": round(pose.yaw, 3)}
    if fields.status:
        times = result.times
        described["execution_time"] = {
            "detector": round(times.detect_s * 1e3, 3),
            "calculator": round(times.recognize_s * 1e3, 3),
        }
    return described


def _versions(services: Services, fields: FaceFields) -> dict[str, Any]:
    if not fields.status:
        return {}
    names = {facts["task"]: facts["name"] for facts in services.models.models() if facts["is_active"]}
    return {"plugins_versions": {"detector": names.get("detection"), "calculator": names.get("recognition")}}
