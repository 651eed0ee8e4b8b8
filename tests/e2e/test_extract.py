"""Pictures in, faces out, over HTTP and with real weights."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import orjson
import ormsgpack
import pytest

from tests.support.pictures import read_image

NUM_HEALTH_CALLS = 100


def test_t1_has_six_faces(client: httpx.Client, body_of: Callable[..., Any]) -> None:
    """The first thing a newcomer does: a picture as JSON, six faces with embeddings of unit length."""
    answer = client.post("/extract", json=body_of("t1.jpg"))
    assert answer.status_code == 200
    (picture,) = answer.json()["data"]
    assert picture["status"] == "ok"
    assert len(picture["faces"]) == 6
    for face in picture["faces"]:
        assert len(face["vec"]) == 512
        assert np.linalg.norm(face["vec"]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"not a picture", id="text"),
        pytest.param(b"\xff\xd8\xff\xe0" + bytes(16), id="twenty-byte-jpeg"),
    ],
)
def test_a_bad_picture_fails_alone(client: httpx.Client, body_of: Callable[..., Any], bad: bytes) -> None:
    """The pictures before and after it are answered; what went wrong is one safe sentence."""
    answer = client.post("/extract", json=body_of("ifrest_Stallone.jpg", bad, "ifrest_Stallone.jpg"))
    assert answer.status_code == 200
    first, broken, last = answer.json()["data"]
    assert (first["status"], broken["status"], last["status"]) == ("ok", "failed", "ok")
    assert len(first["faces"]) == len(last["faces"]) == 1
    assert broken["faces"] == []
    assert "Traceback" not in broken["traceback"]
    assert "/" not in broken["traceback"]


@pytest.mark.parametrize("route", ["/extract", "/detect", "/compare", "/draw_detections", "/recognize"])
def test_turned_pictures_are_found_by_all_four_bodies(client: httpx.Client, shared_images: Path, route: str) -> None:
    """With `rotations=auto`, which says so; without it nothing is said, and nobody found."""
    upright = read_image(shared_images / "ifrest_Stallone.jpg")
    turned = cv2.imencode(".png", np.rot90(upright, 2))[1].tobytes()
    boxes = [[[1, 1, upright.shape[1] - 1, upright.shape[0] - 1]]]
    num_pictures = 2 if route == "/compare" else 1
    for rotations in ("auto", "none"):
        options = {"rotations": rotations}
        if route == "/recognize":
            options["boxes"] = json.dumps(boxes)
        texts = [base64.b64encode(turned).decode()] * num_pictures
        packed = ormsgpack.packb({"images": {"data": [turned] * num_pictures}, **options})
        answers = [
            client.post(route, json={"images": {"data": texts}, **options}),
            client.post(route, content=packed, headers={"content-type": "application/msgpack"}),
            client.post(route, files=[("file", turned)] * num_pictures, data=options),
            client.post(route, content=turned, params=options, headers={"content-type": "image/png"}),
        ]
        for answer in answers[: 3 if route == "/compare" else 4]:
            assert answer.status_code == 200, answer.text
            if route == "/draw_detections":
                continue
            value = answer.json()
            picture = value["data"][0] if route == "/extract" else value["pictures"][0]
            assert picture.get("rotation") == (180 if rotations == "auto" else None)
            assert len(picture["faces"]) == (rotations == "auto" or route == "/recognize")
    refused = client.post(route, json={"images": {"data": []}, "rotations": "all"})
    assert refused.status_code == 422
    assert "rotations" in refused.json()["error"]["message"]


def test_a_given_box_is_answered_with_the_score_of_its_face(client: httpx.Client, shared_images: Path) -> None:
    """What tells that a face lies on its side, and that the landmarks seen in it are wrong."""
    picture = cv2.imencode(".png", np.rot90(read_image(shared_images / "bbt1.jpg")))[1].tobytes()

    def ask(route: str, **options: str) -> list[dict[str, Any]]:
        (told,) = client.post(route, files={"file": picture}, data=options).json()["pictures"]
        return list(told["faces"])

    found = ask("/detect", rotations="auto")
    boxes = json.dumps([[face["box"] for face in found] + [[2, 2, 40, 40]]])
    *known, nobody = ask("/recognize", boxes=boxes, rotations="auto")
    assert [face["score"] for face in known] == [face["score"] for face in found]
    assert (nobody["landmarks_from"], nobody["score"]) == ("box", 0)
    lying = ask("/recognize", boxes=boxes)[:-1]
    for face, upright in zip(lying, known, strict=True):
        assert np.dot(face["embedding"], upright["embedding"]) < 0.9
        assert face["score"] < 0.6 <= upright["score"]
    (given,) = ask("/recognize", landmarks=json.dumps([[found[0]["landmarks"]]]))
    assert "score" not in given


def test_many_pictures_keep_their_faces(client: httpx.Client, body_of: Callable[..., Any]) -> None:
    """Each picture's faces come under that picture, also when small ones are dropped."""
    names = ["t1.jpg", "ifrest_Stallone.jpg", "bbt1.jpg", "ifrest_Stallone.jpg"]
    together = client.post("/extract", json=body_of(*names, min_face_size=60)).json()["data"]
    for name, picture in zip(names, together, strict=True):
        (alone,) = client.post("/extract", json=body_of(name, min_face_size=60)).json()["data"]
        assert [face["bbox"] for face in picture["faces"]] == [face["bbox"] for face in alone["faces"]]


def test_health_answers_while_a_crowd_is_processed(client: httpx.Client, body_of: Callable[..., Any]) -> None:
    """A hundred health calls made while a 113-face picture is in work all return before it does."""
    crowd = body_of("ifrest_lumia.jpg", threshold=0.5)
    client.post("/extract", json=body_of("t1.jpg")).raise_for_status()
    finished: list[float] = []

    def extract() -> httpx.Response:
        answer = httpx.post(f"{client.base_url}/extract", json=crowd, timeout=60, trust_env=False)
        finished.append(time.monotonic())
        return answer

    def is_in_work() -> bool:
        gauge = client.get("/metrics").text.split("\njetface_requests_in_flight ")[1].split("\n")[0]
        return float(gauge) >= 1

    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(extract)
        while not is_in_work():
            time.sleep(0.005)
        for _ in range(NUM_HEALTH_CALLS):
            assert client.get("/health/live").status_code == 200
        calls_done = time.monotonic()
        (picture,) = answer.result().raise_for_status().json()["data"]
    assert len(picture["faces"]) >= 110
    assert calls_done < finished[0]


def test_callers_at_once_get_their_own_answers(client: httpx.Client, body_of: Callable[..., Any]) -> None:
    """Batches are made of several requests' items; answers are not mixed."""
    names = ["t1.jpg", "ifrest_Stallone.jpg", "bbt3.jpg", "ifrest_TH1.jpg"] * 3
    bodies = {name: body_of(name) for name in set(names)}
    alone = {name: client.post("/extract", json=body).json()["data"][0] for name, body in bodies.items()}
    start = threading.Barrier(len(names))

    def extract(name: str) -> Any:
        start.wait()
        answer = httpx.post(f"{client.base_url}/extract", json=bodies[name], timeout=60, trust_env=False)
        return answer.raise_for_status().json()["data"][0]

    with ThreadPoolExecutor(len(names)) as pool:
        for name, picture in zip(names, pool.map(extract, names), strict=True):
            assert [face["bbox"] for face in picture["faces"]] == [face["bbox"] for face in alone[name]["faces"]]
            for face, expected in zip(picture["faces"], alone[name]["faces"], strict=True):
                assert np.dot(face["vec"], expected["vec"]) > 0.999


LEFT_RIGHT = [1, 0, 2, 4, 3]


def test_what_can_be_no_face_fails_its_own_picture_in_every_body(
    client: httpx.Client, body_of: Callable[..., Any], shared_images: Path
) -> None:
    """Landmarks as `/detect` gave them pass; swapped, as fractions or beyond the picture they do not."""
    data = (shared_images / "ifrest_Stallone.jpg").read_bytes()
    (found,) = client.post("/detect", json=body_of("ifrest_Stallone.jpg")).json()["pictures"]
    points = np.array(found["faces"][0]["landmarks"])
    assert (found["faces"][0]["landmarks_from"], found["faces"][0]["visible"]) == ("detector", 1.0)
    height, width = found["image_hw"]
    faults = {
        "mirrored or in a wrong order": points[LEFT_RIGHT],
        "fractions": points / [width, height],
        "outside the picture": points + np.array([width, 0]),
        "few pixels": points * 0 + 50,
    }
    for words, wrong in faults.items():
        for landmarks, is_right in ((points, True), (wrong, False)):
            faces = [[landmarks.tolist()]]
            text = orjson.dumps(faces).decode()
            answers = [
                client.post("/recognize", json=body_of("ifrest_Stallone.jpg", landmarks=faces)),
                client.post(
                    "/recognize",
                    content=ormsgpack.packb({"images": {"data": [data]}, "landmarks": faces}),
                    headers={"content-type": "application/msgpack"},
                ),
                client.post("/recognize", files={"file": ("a.jpg", data)}, data={"landmarks": text}),
                client.post(
                    "/recognize", params={"landmarks": text}, content=data, headers={"content-type": "image/jpeg"}
                ),
            ]
            for answer in answers:
                assert answer.status_code == 200, answer.text
                (slot,) = answer.json()["pictures"]
                if is_right:
                    assert slot["faces"][0]["landmarks_from"] == "given"
                else:
                    assert (slot["status"], slot["faces"]) == ("failed", [])
                    assert words in slot["error"]["message"]


def test_a_number_that_is_none_fails_its_own_picture(client: httpx.Client, shared_images: Path) -> None:
    data = (shared_images / "ifrest_Stallone.jpg").read_bytes()
    boxes = [[[float("nan"), 0, 10, 10]], [[0, 0, 200, 200]]]
    answer = client.post(
        "/recognize",
        content=ormsgpack.packb({"images": {"data": [data, data]}, "boxes": boxes}),
        headers={"content-type": "application/msgpack"},
    )
    assert answer.status_code == 200
    bad, good = answer.json()["pictures"]
    assert "finite" in bad["error"]["message"]
    assert good["status"] == "ok"
