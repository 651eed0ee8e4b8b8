"""Our own routes: what they ask of the layers below and what they answer."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import numpy as np
import ormsgpack
import pytest

from jetface.api.services import Verdict
from jetface.errors import ModelBuildingError, ModelFileError, QueueFullError
from jetface.imaging.sources import EncodedPicture
from tests.support.fakes import Harness, jpeg_of

PICTURE = base64.b64encode(jpeg_of()).decode()
POINTS = [[1.0, 2.0], [3, 4], [5, 6], [7, 8], [9, 10]]


async def post(client: httpx.AsyncClient, path: str, num_pictures: int = 1, **fields: Any) -> dict[str, Any]:
    answer = await client.post(path, json={"images": {"data": [PICTURE] * num_pictures}, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def _first_face(found: dict[str, Any]) -> dict[str, Any]:
    pictures = found["data"] if "data" in found else found["pictures"]
    face: dict[str, Any] = pictures[0]["faces"][0]
    return face


class TestBodies:
    """The same request in four bodies asks for the same."""

    async def test_a_picture_itself_with_options_in_the_query(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        for media_type in ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/gif; x=y"):
            answer = await client.post(
                "/extract?threshold=0.25&return_landmarks=true&fields=bbox,landmarks",
                content=jpeg_of(),
                headers={"content-type": media_type},
            )
            assert answer.json()["data"][0]["faces"][0].keys() == {"bbox", "landmarks"}
            assert harness.extractor.sources == [EncodedPicture(jpeg_of())]
            assert harness.extractor.options is not None
            assert harness.extractor.options.score_threshold == 0.25

    async def test_a_query_means_the_same_every_time_and_to_each_route_its_own(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        """However many there are, and however long."""
        queries = [f"threshold=0.{number:03}" for number in range(300)] + ["threshold=0.5&fields=" + "bbox," * 500]
        for query in [*queries, *queries[-3:]]:
            for path, fields in (("/extract", 18), ("/detect", 5)):
                asked = query if path == "/extract" else query.partition("&")[0]
                answer = await client.post(f"{path}?{asked}", content=jpeg_of(), headers={"content-type": "image/jpeg"})
                assert answer.status_code == 200
                assert len(_first_face(answer.json())) <= fields
                assert harness.extractor.options is not None
                assert harness.extractor.options.score_threshold == float(asked.partition("&")[0][10:])
        headers = {"content-type": "image/jpeg"}
        for _ in range(2):
            assert (await client.post("/extract?min_quality=2", content=jpeg_of(), headers=headers)).status_code == 422

    async def test_one_or_many_files_with_options_as_fields(self, client: httpx.AsyncClient, harness: Harness) -> None:
        answer = await client.post(
            "/extract",
            files=[("file", ("a.jpg", jpeg_of())), ("file", ("b.jpg", b"second"))],
            data={"threshold": "0.25", "extract_embedding": "false", "msgpack": "1"},
        )
        found = ormsgpack.unpackb(answer.content)
        assert "vec" not in found["data"][0]["faces"][0]
        assert harness.extractor.sources == [EncodedPicture(jpeg_of()), EncodedPicture(b"second")]

    async def test_a_large_body_is_parsed_in_the_pool(self, client: httpx.AsyncClient, harness: Harness) -> None:
        picture = b"x" * 2**20
        answer = await client.post("/detect", json={"images": {"data": [base64.b64encode(picture).decode()] * 2}})
        assert answer.status_code == 200
        answer = await client.post("/detect", files={"file": ("a", picture * 3)})
        assert answer.status_code == 200
        assert harness.extractor.sources == [EncodedPicture(picture * 3)]


class TestDetect:
    async def test_answers_boxes_scores_and_landmarks_as_floats(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        found = await post(client, "/detect", threshold=0.3, limit_faces=1, min_face_size=5)
        (slot,) = found["pictures"]
        assert slot["image_hw"] == [480, 640]
        (face,) = slot["faces"]
        assert face["box"] == pytest.approx([86.7, 32.2, 144.6, 110.9], abs=1e-3)
        assert face["score"] == 0.7986
        assert len(face["landmarks"]) == 5
        assert harness.extractor.options is not None
        assert not harness.extractor.options.with_embedding

    async def test_fields(self, client: httpx.AsyncClient) -> None:
        found = await post(client, "/detect", fields=["score"])
        assert found["pictures"][0]["faces"][0] == {"score": 0.7986}

    async def test_a_failed_picture_tells_code_and_message(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/detect", json={"images": {"data": ["%"]}})
        assert answer.json()["pictures"][0] == {
            "status": "failed", "took_ms": 0.4, "image_hw": None, "faces": [],
            "error": {"code": "image_decode", "message": "The picture is not base64."},
        }  # fmt: skip


class TestRecognize:
    async def test_crops(self, client: httpx.AsyncClient) -> None:
        found = await post(client, "/recognize", 2)
        assert [len(slot["faces"]) for slot in found["pictures"]] == [1, 1]
        face = found["pictures"][0]["faces"][0]
        assert face.keys() == {"embedding", "norm"}
        assert len(face["embedding"]) == 512

    async def test_full_pictures_with_landmarks(self, client: httpx.AsyncClient, harness: Harness) -> None:
        found = await post(client, "/recognize", 2, landmarks=[[POINTS, POINTS], []])
        assert [len(slot["faces"]) for slot in found["pictures"]] == [2, 0]
        first, second = harness.extractor.known
        assert first.landmarks is not None
        assert second.landmarks is not None
        np.testing.assert_array_equal(first.landmarks[1], np.array(POINTS, np.float32))
        assert second.landmarks.shape == (0, 5, 2)

    async def test_full_pictures_with_boxes(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await post(client, "/recognize", boxes=[[[1, 2, 3, 4]]])
        assert harness.extractor.known[0].boxes is not None
        assert harness.extractor.known[0].boxes.tolist() == [[1, 2, 3, 4]]

    async def test_a_form_carries_places_as_json(self, client: httpx.AsyncClient, harness: Harness) -> None:
        answer = await client.post(
            "/recognize", files={"file": ("a", jpeg_of())}, data={"boxes": "[[[1, 2, 3, 4]]]", "fields": "norm"}
        )
        assert answer.json()["pictures"][0]["faces"] == [{"norm": 26.68}]
        assert len(harness.extractor.known) == 1

    async def test_base64(self, client: httpx.AsyncClient) -> None:
        found = await post(client, "/recognize", embedding_format="base64")
        assert len(base64.b64decode(found["pictures"][0]["faces"][0]["embedding"])) == 4 * 512


class TestCompare:
    async def test_two_pictures(self, client: httpx.AsyncClient, harness: Harness) -> None:
        found = await post(client, "/compare", 2, threshold=0.5)
        assert (found["similarity"], found["is_match"], found["threshold"]) == (1.0, True, 0.5)
        assert len(found["pictures"]) == 2
        assert harness.extractor.options is not None
        assert harness.extractor.options.limit_faces == 1

    async def test_what_a_request_leaves_open_is_what_suits_the_recognizer(self) -> None:
        """In every body; null leaves it open, too."""
        harness = Harness(match_threshold=0.42)
        form = [("file", ("a", jpeg_of())), ("file", ("b", jpeg_of()))]
        packed = ormsgpack.packb({"images": {"data": [jpeg_of(), jpeg_of()]}, "threshold": None})
        async with harness.client() as client:
            answers = [
                await client.post("/compare", json={"images": {"data": [PICTURE] * 2}}),
                await client.post("/compare", json={"images": {"data": [PICTURE] * 2}, "threshold": None}),
                await client.post("/compare", files=form),
                await client.post("/compare", content=packed, headers={"content-type": "application/msgpack"}),
            ]
            said = await client.post("/compare", files=form, data={"threshold": "0.2"})
        assert [answer.json()["threshold"] for answer in answers] == [pytest.approx(0.42)] * 4
        assert said.json()["threshold"] == pytest.approx(0.2)

    async def test_a_picture_without_a_face_compares_to_null(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.num_faces = 0
        found = await post(client, "/compare", 2)
        assert (found["similarity"], found["is_match"]) == (None, None)

    async def test_many_to_many(self, client: httpx.AsyncClient) -> None:
        found = await post(client, "/compare", 3, others={"data": [PICTURE, "%"]})
        assert found["similarities"] == [[1.0, None]] * 3
        assert found["matches"] == [[True, False]] * 3
        assert [len(found["pictures"]), len(found["others"])] == [3, 2]

    async def test_a_form_names_the_second_pictures_other(self, client: httpx.AsyncClient) -> None:
        files = [("file", ("a", jpeg_of())), ("other", ("b", jpeg_of())), ("other", ("c", jpeg_of()))]
        found = (await client.post("/compare", files=files, data={"detection_threshold": "0.2"})).json()
        assert found["similarities"] == [[1.0, 1.0]]


class TestService:
    async def test_readiness_tells_the_state_of_the_models_in_use(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        found = (await client.get("/health/ready")).json()
        assert {name: model["state"] for name, model in found["models"].items()} == {
            "det_500m": "serving", "w600k_mbf": "unloaded",
        }  # fmt: skip
        harness.models.ready = Verdict(is_ok=False, reason="The last run failed.")
        answer = await client.get("/health/ready")
        assert (answer.status_code, answer.json()["reason"]) == (503, "The last run failed.")
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/health/live")).status_code == 200

    async def test_a_stuck_model_is_not_live(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.models.live = Verdict(is_ok=False, reason="A run of det_500m is stuck.")
        assert (await client.get("/health/live")).status_code == 503
        assert (await client.get("/health")).status_code == 503

    async def test_health_tries_for_real(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.models.checked = Verdict(is_ok=False, reason="A run failed.")
        assert (await client.get("/health")).status_code == 503
        assert (await client.get("/health/ready")).status_code == 200

    async def test_models_lists_the_registry(self, client: httpx.AsyncClient) -> None:
        found = (await client.get("/models")).json()["models"]
        assert [model["name"] for model in found] == ["det_500m", "glintr100", "w600k_mbf"]
        one = (await client.get("/models/glintr100")).json()
        assert one == found[1]
        assert (one["state"], one["reason"], one["license"]) == ("failed", "The file is missing.", "research")

    async def test_metrics_count_routes_by_template_and_status(self) -> None:
        async with Harness().client() as client:
            await post(client, "/extract")
            await client.get("/models/a")
            await client.get("/models/b")
            await client.get("/made-up-1")
            await client.request("BREW", "/made-up-2")
            text = (await client.get("/metrics")).text
        for line in (
            'jetface_requests_total{method="POST",route="/extract",status="200"} 1.0',
            'jetface_requests_total{method="GET",route="/models/{name}",status="404"} 2.0',
            'jetface_requests_total{method="GET",route="unmatched",status="404"} 1.0',
            'jetface_requests_total{method="other",route="unmatched",status="404"} 1.0',
            'jetface_request_seconds_count{route="/extract",status="200"} 1.0',
            'jetface_stage_seconds_count{stage="serialise"} 1.0',
            'jetface_refusals_total{code="not_found"} 4.0',
        ):
            assert line in text

    async def test_the_documentation_needs_no_other_host(self, client: httpx.AsyncClient) -> None:
        for path in ("/docs", "/redoc"):
            page = (await client.get(path)).text
            assert "https://" not in page
            assert "/static-offline-docs/" in page
        assert (await client.get("/static-offline-docs/swagger-ui.css")).status_code == 200


class TestFailures:
    @pytest.mark.parametrize(
        ("error", "status", "retry_after"),
        [
            (ModelFileError("det_500m.onnx is missing."), 503, None),
            (ModelBuildingError("An engine is being built.", retry_after_s=12.3), 503, "13"),
            (QueueFullError("Full.", retry_after_s=0.2), 429, "1"),
            (RuntimeError("a bug"), 500, None),
        ],
    )
    async def test_an_error_of_the_layers_below_has_its_status(
        self, client: httpx.AsyncClient, harness: Harness, error: Exception, status: int, retry_after: str | None
    ) -> None:
        harness.extractor.error = error
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}})
        assert answer.status_code == status
        assert answer.headers.get("retry-after") == retry_after
        assert "server-timing" in answer.headers

    async def test_a_route_of_the_framework_fails_as_the_others_do(
        self, client: httpx.AsyncClient, harness: Harness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the envelope, with an id and the status counted."""

        def fail() -> None:
            raise RuntimeError("a bug")

        monkeypatch.setattr(harness.models, "models", fail)
        answer = await client.get("/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
        assert answer.headers["x-request-id"] == answer.json()["request_id"]
        line = 'jetface_requests_total{method="GET",route="/models",status="500"} 1.0'
        assert line in (await client.get("/metrics")).text

    async def test_the_msgpack_field_holds_for_errors_too(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.error = QueueFullError("Full.")
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}, "msgpack": True})
        assert ormsgpack.unpackb(answer.content)["error"]["code"] == "queue_full"

    async def test_a_crowd_is_written_in_the_pool(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.num_faces = 100
        assert len((await post(client, "/extract"))["data"][0]["faces"]) == 100

    @pytest.mark.parametrize("given", ["", "a b", "x" * 129, "ä", "a/b"])
    async def test_an_id_that_is_not_sane_is_replaced(self, client: httpx.AsyncClient, given: str) -> None:
        headers = [(b"x-request-id", given.encode("latin-1"))]
        found = (await client.get("/health/live", headers=headers)).headers["x-request-id"]
        assert found != given
        assert len(found) == 16


class TestWhatAnEmbeddingWasMadeFrom:
    """`landmarks_from` and `visible`."""

    async def test_our_own_routes_tell_it_of_every_face(self, client: httpx.AsyncClient) -> None:
        found = _first_face(await post(client, "/detect"))
        assert (found["landmarks_from"], found["visible"]) == ("detector", 1.0)
        known = _first_face(await post(client, "/recognize", landmarks=[[POINTS]]))
        assert (known["landmarks_from"], known["visible"]) == ("given", 1.0)
        compared = _first_face(await post(client, "/compare", 2))
        assert (compared["landmarks_from"], compared["visible"]) == ("detector", 1.0)
        only = _first_face(await post(client, "/recognize", landmarks=[[POINTS]], fields=["visible"]))
        assert only == {"visible": 1.0}

    async def test_a_crop_has_neither(self, client: httpx.AsyncClient) -> None:
        assert _first_face(await post(client, "/recognize")).keys() == {"embedding", "norm"}

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({}, {}),
            ({"visible": 0.96}, {}),
            ({"visible": 0.625}, {"visible": 0.625}),
            ({"landmarks_from": "box"}, {"landmarks_from": "box"}),
            ({"landmarks_from": "box", "visible": 0.5}, {"landmarks_from": "box", "visible": 0.5}),
        ],
    )
    async def test_extract_tells_it_unasked_where_it_matters(
        self, client: httpx.AsyncClient, harness: Harness, changes: dict[str, object], told: dict[str, object]
    ) -> None:
        harness.extractor.face_changes = changes
        face = _first_face(await post(client, "/extract"))
        assert {key: face[key] for key in ("landmarks_from", "visible") if key in face} == told
        assert _first_face(await post(client, "/extract", fields="bbox")).keys() == {"bbox"}

    async def test_extract_tells_it_where_it_is_asked_for(self, client: httpx.AsyncClient) -> None:
        assert _first_face(await post(client, "/extract", return_landmarks=True))["landmarks_from"] == "detector"
        assert _first_face(await post(client, "/extract", return_quality=True))["visible"] == 1.0
        both = _first_face(await post(client, "/extract", fields="landmarks_from,visible"))
        assert both == {"landmarks_from": "detector", "visible": 1.0}


class TestPreciseLandmarks:
    async def test_they_are_floats(self, client: httpx.AsyncClient) -> None:
        precise = _first_face(await post(client, "/extract", landmarks_precise=True))
        assert precise["landmarks"][0] == pytest.approx([95.9, 61.1])
        assert precise["bbox"] == [87, 32, 145, 111]
        chosen = _first_face(await post(client, "/extract", landmarks_precise=True, fields="landmarks"))
        assert chosen == {"landmarks": precise["landmarks"]}

    async def test_otherwise_they_are_rounded(self, client: httpx.AsyncClient) -> None:
        assert _first_face(await post(client, "/extract", return_landmarks=True))["landmarks"][0] == [96, 61]


async def test_numbers_that_are_none_reach_the_picture_they_are_of(client: httpx.AsyncClient, harness: Harness) -> None:
    """They are no fault of the request's structure: the picture's own slot tells what is wrong."""
    bad = [float("nan"), float("inf"), 1e300, 2.0]
    body = ormsgpack.packb({"images": {"data": [jpeg_of()] * 2}, "boxes": [[bad], [[1, 2, 3, 4]]]})
    answer = await client.post("/recognize", content=body, headers={"content-type": "application/msgpack"})
    assert answer.status_code == 200
    assert harness.extractor.known[0].boxes is not None
    odd = np.array([np.nan, np.inf, np.inf, 2], np.float32)
    np.testing.assert_array_equal(harness.extractor.known[0].boxes[0], odd)
