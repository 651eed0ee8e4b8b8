"""The wire contract's part that is compatible with InsightFace-REST, one test per sentence."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import ormsgpack
import pytest

from jetface.api.requests import RequestDefaults
from jetface.errors import InferenceError
from jetface.imaging.sources import Base64Picture, EncodedPicture, RemotePicture
from jetface.server.limits import Access
from tests.contract.insightface_rest_shapes import FIXTURE, misfits
from tests.support.fakes import Harness, jpeg_of, model_answer
from tests.support.pictures import decode_image

PICTURE = base64.b64encode(jpeg_of()).decode()
RECOGNITION_KEYS = {"norm", "vec", "gender", "age", "mask", "mask_probs"}
FLOAT32, FLOAT64 = 0xCA, 0xCB


async def extract(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    answer = await client.post("/extract", json={"images": {"data": [PICTURE]}, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def first_face(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = (await extract(client, **fields))["data"][0]["faces"][0]
    return found


class TestRequest:
    async def test_json_carries_base64(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client)
        assert harness.extractor.sources == [Base64Picture(PICTURE)]

    async def test_a_data_url_prefix_is_accepted(self, client: httpx.AsyncClient) -> None:
        found = await extract(client, images={"data": [f"data:image/jpeg;base64,{PICTURE}"]})
        assert found["data"][0]["status"] == "ok"

    @pytest.mark.parametrize("media_type", ["application/msgpack", "application/x-msgpack"])
    async def test_msgpack_carries_raw_bytes(
        self, client: httpx.AsyncClient, harness: Harness, media_type: str
    ) -> None:
        body = ormsgpack.packb({"images": {"data": [jpeg_of()]}})
        answer = await client.post("/extract", content=body, headers={"content-type": media_type})
        assert answer.status_code == 200
        assert harness.extractor.sources == [EncodedPicture(jpeg_of())]

    async def test_urls_are_fetched(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, images={"urls": ["http://a/b.jpg", "faces/c.jpg"]})
        assert harness.extractor.sources == [RemotePicture("http://a/b.jpg"), RemotePicture("faces/c.jpg")]

    async def test_data_is_ignored_when_urls_are_given(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, images={"data": [PICTURE], "urls": ["http://a"]})
        assert harness.extractor.sources == [RemotePicture("http://a")]

    async def test_headers_for_downloads_travel_with_the_url(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, images={"urls": ["http://a"]}, img_req_headers={"Cookie": "x"})
        assert harness.extractor.sources == [RemotePicture("http://a", {"Cookie": "x"})]

    @pytest.mark.parametrize(("threshold", "expected"), [(0.3, 0.3), (None, 0.6), (1, 1.0)])
    async def test_threshold_is_a_number_or_null(
        self, client: httpx.AsyncClient, harness: Harness, threshold: float | None, expected: float
    ) -> None:
        await extract(client, threshold=threshold)
        assert harness.extractor.options is not None
        assert harness.extractor.options.score_threshold == expected

    @pytest.mark.parametrize(("threshold", "expected"), [(1.5, 1.5), (-1, 0.0), (1e300, 2.0)])
    async def test_any_number_is_a_threshold(
        self, client: httpx.AsyncClient, harness: Harness, threshold: float, expected: float
    ) -> None:
        """Above 1 nothing is a face; below 0 everything is, as at 0."""
        await extract(client, threshold=threshold)
        assert harness.extractor.options is not None
        assert harness.extractor.options.score_threshold == expected

    @pytest.mark.parametrize("images", [{}, {"data": None, "urls": None}, {"data": []}])
    async def test_no_picture_is_no_error(self, client: httpx.AsyncClient, images: dict[str, Any]) -> None:
        for embed_only in (False, True):
            assert (await extract(client, images=images, embed_only=embed_only))["data"] == []

    @pytest.mark.parametrize("lead", [b"", b"\r\n \t"])
    async def test_json_may_have_no_content_type(self, client: httpx.AsyncClient, lead: bytes) -> None:
        body = lead + json.dumps({"images": {"data": [PICTURE]}}).encode()
        answer = await client.post("/extract", content=body)
        assert answer.json()["data"][0]["status"] == "ok"
        drawn = await client.post("/draw_detections", content=body)
        assert drawn.headers["content-type"] == "image/jpeg"

    async def test_json_without_content_type_may_come_in_pieces(self, client: httpx.AsyncClient) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield b" "
            yield b'\n{"images": {"data": ['
            yield b'"' + PICTURE.encode() + b'"]}}'

        answer = await client.post("/extract", content=pieces())
        assert answer.json()["data"][0]["status"] == "ok"

    async def test_faces_come_by_score_when_limit_faces_is_0_or_null(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        for limit in (0, None):
            await extract(client, limit_faces=limit)
            assert harness.extractor.options is not None
            assert harness.extractor.options.limit_faces == 0

    async def test_limit_faces_keeps_n(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.num_faces = 3
        found = await extract(client, limit_faces=2)
        assert [face["num_det"] for face in found["data"][0]["faces"]] == [0, 1]

    @pytest.mark.parametrize(("given", "expected"), [(40, 40), (None, 0)])
    async def test_min_face_size_is_in_source_pixels(
        self, client: httpx.AsyncClient, harness: Harness, given: int | None, expected: int
    ) -> None:
        await extract(client, min_face_size=given)
        assert harness.extractor.options is not None
        assert harness.extractor.options.min_face_width_px == expected

    async def test_null_flags_have_their_defaults(self, client: httpx.AsyncClient) -> None:
        flags = (
            "embed_only", "return_face_data", "return_landmarks", "extract_embedding", "extract_ga", "detect_masks",
            "verbose_timings", "msgpack", "img_req_headers",
        )  # fmt: skip
        assert (await first_face(client, **dict.fromkeys(flags))).keys() == (await first_face(client)).keys()

    async def test_unknown_fields_are_ignored(self, client: httpx.AsyncClient) -> None:
        await extract(client, use_rotation=True, version=7)

    async def test_the_services_defaults_hold_where_a_request_says_nothing(self) -> None:
        defaults = RequestDefaults(
            det_thresh=0.1, extract_embedding=False, return_face_data=True, return_landmarks=True, extract_ga=False,
            detect_masks=True,
        )  # fmt: skip
        harness = Harness(defaults=defaults)
        async with harness.client() as client:
            face = await first_face(client)
        assert {"facedata", "landmarks"} <= face.keys()
        assert face["vec"] is None
        assert harness.extractor.options is not None
        assert harness.extractor.options.score_threshold == 0.1
        assert not harness.extractor.options.with_embedding


class TestNegotiation:
    @pytest.mark.parametrize(
        "accept",
        [
            "application/x-msgpack",
            "application/msgpack",
            "text/html, application/x-msgpack;q=0.5",
            "*/*,APPLICATION/MSGPACK",
        ],
    )
    async def test_accept_names_msgpack_anywhere_in_its_list(self, client: httpx.AsyncClient, accept: str) -> None:
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}}, headers={"accept": accept})
        assert answer.headers["content-type"] == "application/x-msgpack"
        assert ormsgpack.unpackb(answer.content)["data"][0]["status"] == "ok"

    async def test_the_msgpack_field_asks_for_msgpack(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}, "msgpack": True})
        assert answer.headers["content-type"] == "application/x-msgpack"

    @pytest.mark.parametrize("accept", [None, "*/*", "text/html"])
    async def test_otherwise_the_answer_is_json(self, client: httpx.AsyncClient, accept: str | None) -> None:
        headers = {} if accept is None else {"accept": accept}
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}}, headers=headers)
        assert answer.headers["content-type"] == "application/json"

    async def test_msgpack_floats_are_single_precision(self, client: httpx.AsyncClient) -> None:
        """No float64 marker anywhere: every value is walked with its marker."""
        answer = await client.post(
            "/extract",
            json={"images": {"data": [PICTURE]}, "msgpack": True, "return_landmarks": True, "verbose_timings": True},
        )
        markers = float_markers(answer.content)
        assert markers.count(FLOAT64) == 0
        assert markers.count(FLOAT32) == 3 + 1 + 2 * (512 + 3)

    async def test_json_and_msgpack_say_the_same(self, client: httpx.AsyncClient) -> None:
        as_json = await extract(client, return_landmarks=True, return_face_data=True)
        answer = await client.post(
            "/extract",
            json={"images": {"data": [PICTURE]}, "msgpack": True, "return_landmarks": True, "return_face_data": True},
        )
        as_msgpack = ormsgpack.unpackb(answer.content)
        for one, other in zip(as_json["data"][0]["faces"], as_msgpack["data"][0]["faces"], strict=True):
            assert one.keys() == other.keys()
            np.testing.assert_allclose(one["vec"], other["vec"])
            assert one["landmarks"] == other["landmarks"]
            assert one["facedata"] == other["facedata"]


def float_markers(packed: bytes) -> list[int]:  # noqa: C901 - one branch a kind of marker
    """List the marker bytes of all floats in a msgpack value of maps, arrays, strings, numbers and null."""
    markers: list[int] = []

    def walk(at: int) -> int:
        marker = packed[at]
        if marker in {FLOAT32, FLOAT64}:
            markers.append(marker)
            return at + (5 if marker == FLOAT32 else 9)
        if marker <= 0x7F or marker >= 0xE0 or marker in {0xC0, 0xC2, 0xC3}:
            return at + 1
        if 0xA0 <= marker <= 0xBF:
            return at + 1 + (marker & 0x1F)
        if marker in {0xD9, 0xDA, 0xDB}:
            width = {0xD9: 1, 0xDA: 2, 0xDB: 4}[marker]
            return at + 1 + width + int.from_bytes(packed[at + 1 : at + 1 + width], "big")
        if marker in {0xCC, 0xCD, 0xCE, 0xCF, 0xD0, 0xD1, 0xD2, 0xD3}:
            return at + 1 + (1 << (marker & 3))
        if 0x80 <= marker <= 0x8F:
            count, at = 2 * (marker & 0xF), at + 1
        elif 0x90 <= marker <= 0x9F:
            count, at = marker & 0xF, at + 1
        elif marker in {0xDC, 0xDE}:
            count, at = struct.unpack_from(">H", packed, at + 1)[0] * (2 if marker == 0xDE else 1), at + 3
        else:
            raise AssertionError(hex(marker))
        for _ in range(count):
            at = walk(at)
        return at

    assert walk(0) == len(packed)
    return markers


class TestAnswer:
    async def test_shape_of_a_face(self, client: httpx.AsyncClient) -> None:
        face = await first_face(client)
        vec = face.pop("vec")
        assert len(vec) == 512
        assert vec[0] == 1
        assert face == {
            "bbox": [87, 32, 145, 111], "prob": 0.7986, "num_det": 0, "scale": 1.6654, "size": 57, "norm": 26.68,
            "gender": None, "age": None, "mask": None, "mask_probs": None,
        }  # fmt: skip

    async def test_bbox_and_landmarks_are_rounded_to_ints(self, client: httpx.AsyncClient) -> None:
        face = await first_face(client, return_landmarks=True)
        assert all(isinstance(value, int) for value in face["bbox"])
        assert face["landmarks"] == [[96, 61], [120, 60], [108, 80], [98, 95], [118, 94]]

    async def test_took_holds_one_timing(self, client: httpx.AsyncClient) -> None:
        assert (await extract(client))["took"].keys() == {"total_ms"}

    async def test_verbose_timings_adds_two(self, client: httpx.AsyncClient) -> None:
        took = (await extract(client, verbose_timings=True))["took"]
        assert took.keys() == {"total_ms", "read_imgs_ms", "embed_all_ms"}
        assert all(isinstance(value, float) for value in took.values())

    async def test_a_picture_says_its_status_and_time(self, client: httpx.AsyncClient) -> None:
        slot = (await extract(client))["data"][0]
        assert slot.keys() == {"status", "took_ms", "faces"}
        assert (slot["status"], slot["took_ms"]) == ("ok", 21.3)

    async def test_landmarks_and_facedata_only_when_asked_for(self, client: httpx.AsyncClient) -> None:
        assert not {"landmarks", "facedata"} & (await first_face(client)).keys()
        assert {"landmarks", "facedata"} <= (
            await first_face(client, return_landmarks=True, return_face_data=True)
        ).keys()

    async def test_facedata_is_the_crop_as_base64_jpeg(self, client: httpx.AsyncClient) -> None:
        face = await first_face(client, return_face_data=True)
        crop = decode_image(base64.b64decode(face["facedata"]))
        assert crop.shape == (112, 112, 3)

    async def test_recognition_keys_are_absent_when_nothing_of_it_is_asked_for(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        face = await first_face(client, extract_embedding=False, extract_ga=False, detect_masks=False)
        assert not RECOGNITION_KEYS & face.keys()
        assert harness.extractor.options is not None
        assert not harness.extractor.options.with_embedding

    @pytest.mark.parametrize(
        ("flag", "known"),
        [
            ("extract_ga", {"gender": 0, "age": 31}),
            ("detect_masks", {"mask": True, "mask_probs": {"mask": 0.75, "no_mask": 0.25}}),
        ],
    )
    async def test_otherwise_they_are_present_and_null_where_unknown(
        self, client: httpx.AsyncClient, harness: Harness, flag: str, known: dict[str, object]
    ) -> None:
        face = await first_face(client, extract_embedding=False, **{flag: True})
        assert {key: face[key] for key in RECOGNITION_KEYS} == {**dict.fromkeys(RECOGNITION_KEYS), **known}
        assert harness.extractor.options is not None
        assert not harness.extractor.options.with_embedding

    async def test_gender_is_0_for_women_and_1_for_men(self, client: httpx.AsyncClient) -> None:
        faces = (await extract(client, extract_ga=True))["data"][0]["faces"]
        assert [(face["gender"], face["age"]) for face in faces] == [(0, 31), (1, 32)]

    @pytest.mark.parametrize(("flag", "told"), [("extract_ga", "gender_age"), ("detect_masks", "mask")])
    async def test_attributes_are_computed_only_when_asked_for(
        self, client: httpx.AsyncClient, harness: Harness, flag: str, told: str
    ) -> None:
        for wanted in (False, True):
            await extract(client, **{flag: wanted})
            options = harness.extractor.options
            assert options is not None
            assert options.attributes == ({told} if wanted else set())

    async def test_a_failed_picture_keeps_its_place(self, client: httpx.AsyncClient) -> None:
        data = (await extract(client, images={"data": [PICTURE, "%%%", PICTURE]}))["data"]
        assert [slot["status"] for slot in data] == ["ok", "failed", "ok"]
        assert data[1] == {"status": "failed", "took_ms": 0.4, "faces": [], "traceback": "The picture is not base64."}

    async def test_a_picture_without_faces_is_ok(self, client: httpx.AsyncClient, harness: Harness) -> None:
        harness.extractor.num_faces = 0
        assert (await extract(client))["data"][0] == {"status": "ok", "took_ms": 21.3, "faces": []}


class TestEmbedOnly:
    async def test_shape(self, client: httpx.AsyncClient) -> None:
        found = await extract(client, embed_only=True)
        assert found.keys() == {"took_ms", "status", "data"}
        assert found["status"] == "ok"
        (slot,) = found["data"]
        assert slot.keys() == {"status", "took_ms", "faces"}
        (face,) = slot["faces"]
        assert face.keys() == RECOGNITION_KEYS | {"bbox", "size", "prob", "status"}
        assert (face["bbox"], face["size"], face["prob"], face["status"]) == ([0, 0, 112, 112], 112, 1.0, "ok")
        assert len(face["vec"]) == 512

    async def test_nothing_is_detected(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, embed_only=True)
        assert harness.extractor.options is None

    async def test_attributes_are_told_of_crops_too(self, client: httpx.AsyncClient, harness: Harness) -> None:
        found = await extract(client, embed_only=True, extract_embedding=False, extract_ga=True, detect_masks=True)
        (face,) = found["data"][0]["faces"]
        assert (face["gender"], face["age"], face["mask"], face["vec"]) == (0, 31, True, None)
        options = harness.extractor.crop_options
        assert options is not None
        assert (options.with_embedding, {*options.attributes}) == (False, {"gender_age", "mask"})

    async def test_nothing_is_computed_when_nothing_is_asked_for(
        self, client: httpx.AsyncClient, harness: Harness
    ) -> None:
        """All keys are there, and null."""
        found = await extract(client, embed_only=True, extract_embedding=False)
        (face,) = found["data"][0]["faces"]
        assert {key: face[key] for key in RECOGNITION_KEYS} == dict.fromkeys(RECOGNITION_KEYS)
        assert (face["bbox"], face["status"]) == ([0, 0, 112, 112], "ok")
        options = harness.extractor.crop_options
        assert options is not None
        assert (options.with_embedding, {*options.attributes}) == (False, set())

    async def test_a_failed_crop_is_a_face_that_failed(self, client: httpx.AsyncClient) -> None:
        """Its slot is ok, as are its neighbors."""
        broken, whole = (await extract(client, embed_only=True, images={"data": ["%", PICTURE]}))["data"]
        assert broken == {
            "status": "ok",
            "took_ms": 0.4,
            "faces": [{"status": "failed", "traceback": "The picture is not base64."}],
        }
        assert (whole["status"], whole["faces"][0]["status"]) == ("ok", "ok")


class TestOursInAddition:
    async def test_answers_carry_an_id_and_timings(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            "/extract", json={"images": {"data": [PICTURE]}}, headers={"x-request-id": "Abc-1._"}
        )
        assert answer.headers["x-request-id"] == "Abc-1._"
        names = [part.split(";")[0] for part in answer.headers["server-timing"].split(", ")]
        assert names == ["decode", "queue", "detect", "recognize", "serialise", "total"]

    async def test_embedding_format_base64_is_little_endian_float32(self, client: httpx.AsyncClient) -> None:
        face = await first_face(client, embedding_format="base64")
        vec = np.frombuffer(base64.b64decode(face["vec"]), "<f4")
        assert vec.shape == (512,)
        assert vec[0] == 1

    @pytest.mark.parametrize("fields", [["bbox", "vec"], "bbox, vec"])
    async def test_fields_select_what_is_returned(self, client: httpx.AsyncClient, fields: object) -> None:
        assert (await first_face(client, fields=fields, return_landmarks=True)).keys() == {"bbox", "vec"}

    async def test_fields_select_what_is_computed(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, fields=["bbox", "facedata"])
        assert harness.extractor.options is not None
        assert not harness.extractor.options.with_embedding
        assert harness.extractor.options.with_crop

    @pytest.mark.parametrize(
        ("field", "flag"),
        [
            ("vec", "embedding"),
            ("age", "gender_age"),
            ("mask_probs", "mask"),
            ("live", "liveness"),
            ("quality", "quality"),
        ],
    )
    async def test_one_field_costs_its_own_stage_only(
        self, client: httpx.AsyncClient, harness: Harness, field: str, flag: str
    ) -> None:
        face = await first_face(client, fields=[field])
        assert face.keys() == {field}
        assert face[field] is not None
        options = harness.extractor.options
        assert options is not None
        stages = [stage for stage in ("embedding", "quality", "crop") if getattr(options, f"with_{stage}")]
        assert [*stages, *options.attributes] == [flag]

    async def test_liveness_is_there_when_asked_for(self, client: httpx.AsyncClient) -> None:
        assert not {"live", "is_live"} & (await first_face(client)).keys()
        face = await first_face(client, detect_liveness=True, extract_embedding=False)
        assert (face["live"], face["is_live"]) == (0.625, True)
        assert not RECOGNITION_KEYS & face.keys()

    async def test_quality_is_there_when_asked_for(self, client: httpx.AsyncClient) -> None:
        assert "quality" not in (await first_face(client))
        face = await first_face(client, return_quality=True)
        assert face["quality"] == {
            "score": 0.5, "sharpness": 25.0, "brightness": 0.5, "size": 57.9,
            "pose": {"yaw": -8.5, "pitch": 4.25, "roll": 1.5},
        }  # fmt: skip

    async def test_min_quality_is_a_share(self, client: httpx.AsyncClient, harness: Harness) -> None:
        await extract(client, min_quality=0.4)
        assert harness.extractor.options is not None
        assert harness.extractor.options.min_quality == 0.4
        answer = await client.post("/extract", json={"images": {"data": [PICTURE]}, "min_quality": 40})
        assert answer.status_code == 422

    async def test_info_names_the_models_of_attributes(self, client: httpx.AsyncClient, harness: Harness) -> None:
        named = (await client.get("/info")).json()["models"]
        assert (named["ga_name"], named["mask_detector"], named["liveness"]) == (None, None, [])
        harness.models.others = tuple(
            model_answer(name, task, is_active=is_active)
            for name, task, is_active in (
                ("ga", "gender_age", True), ("ga2", "gender_age", False), ("mask", "mask", True),
                ("near", "liveness", True), ("far", "liveness", True),
            )
        )  # fmt: skip
        named = (await client.get("/info")).json()["models"]
        assert (named["ga_name"], named["mask_detector"], named["liveness"]) == ("ga", "mask", ["near", "far"])


class TestDraw:
    async def test_json(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(
            "/draw_detections",
            json={"images": {"data": [PICTURE]}, "threshold": 0.5, "draw_landmarks": True, "draw_scores": True,
                  "draw_sizes": True, "limit_faces": 1, "min_face_size": 0},
        )  # fmt: skip
        assert answer.headers["content-type"] == "image/jpeg"
        drawn = decode_image(answer.content)
        assert drawn.shape == (120, 160, 3)
        assert np.ptp(drawn) > 50

    async def test_multipart(self, client: httpx.AsyncClient, harness: Harness) -> None:
        answer = await client.post(
            "/multipart/draw_detections",
            files={"file": ("a.jpg", jpeg_of(), "image/jpeg")},
            data={"threshold": "0.3", "draw_scores": "false", "limit_faces": "1"},
        )
        assert answer.headers["content-type"] == "image/jpeg"
        assert harness.extractor.options is not None
        assert harness.extractor.options.score_threshold == 0.3

    async def test_a_picture_that_cannot_be_read_is_an_error(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/draw_detections", json={"images": {"data": ["%"]}})
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "image_decode"

    async def test_an_error_is_a_sentence_under_detail(self, client: httpx.AsyncClient) -> None:
        answer = await client.post("/draw_detections", json={"images": {"data": ["%"]}})
        assert answer.json()["detail"] == answer.json()["error"]["message"]

    async def test_no_picture_is_an_error(self, client: httpx.AsyncClient) -> None:
        assert (await client.post("/draw_detections", json={"images": {"data": []}})).status_code == 422


class TestInformation:
    async def test_info_has_the_inherited_keys(self, client: httpx.AsyncClient) -> None:
        info = (await client.get("/info")).json()
        assert info.keys() == {
            "version", "commit", "tensorrt_version", "log_level", "models", "defaults", "notice", "gallery", "plates",
            "device"
        }  # fmt: skip
        assert (info["models"]["det_name"], info["models"]["rec_name"]) == ("det_500m", "w600k_mbf")
        assert info["defaults"] == {
            "det_thresh": 0.6, "extract_embedding": True, "return_face_data": False, "return_landmarks": False,
            "extract_ga": False, "detect_masks": False, "img_req_headers": {}, "sslv3_hack": False,
        }  # fmt: skip

    async def test_info_has_every_key_with_its_type(self, client: httpx.AsyncClient) -> None:
        assert misfits((await client.get("/info")).json(), FIXTURE["info"]) == []

    async def test_health_is_ok_after_a_self_check(self, client: httpx.AsyncClient) -> None:
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


class TestNotInherited:
    async def test_no_answer_holds_a_traceback_or_a_path(self, client: httpx.AsyncClient, harness: Harness) -> None:
        for error in (InferenceError("A run failed."), RuntimeError("/secret/path.py exploded")):
            harness.extractor.error = error
            answer = await client.post("/extract", json={"images": {"data": [PICTURE]}})
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert "Traceback" not in answer.text

    async def test_info_holds_no_credentials(self) -> None:
        harness = Harness(access=Access(api_keys=("s3cret",)))
        async with harness.client() as client:
            text = (await client.get("/info", headers={"x-api-key": "s3cret"})).text
        assert "s3cret" not in text
        assert json.loads(text)["version"]
