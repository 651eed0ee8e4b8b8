"""A client as people wrote them for InsightFace-REST 0.9.5, from the wire contract alone.

It knows nothing of this project: not its code, not its additions to the contract. What it reads of an answer, it reads
by the names and types that server had, so that an answer of another shape fails here as it would at its owner's.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
import ormsgpack
from numpy.typing import NDArray

Format = Literal["json", "msgpack"]


@dataclass(frozen=True)
class OldFace:
    """A face as that server told it."""

    bbox: tuple[int, int, int, int]
    prob: float
    size: int
    norm: float | None = None
    vec: NDArray[np.float32] | None = None
    landmarks: list[list[int]] | None = None
    facedata: bytes | None = None
    gender: int | None = None
    age: int | None = None
    mask: bool | None = None
    num_det: int | None = None
    scale: float | None = None


@dataclass(frozen=True)
class OldPicture:
    """A picture's slot as that server told it."""

    status: str
    faces: list[OldFace]
    took_ms: float
    traceback: str | None = None


@dataclass(frozen=True)
class OldRequest:
    """What is sent, whoever sends it."""

    fields: dict[str, Any]
    format: Format
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        """The body in its format."""
        return ormsgpack.packb(self.fields) if self.format == "msgpack" else _json_bytes(self.fields)


def extract_request(
    *,
    files: Sequence[Path] = (),
    urls: Sequence[str] = (),
    body_format: Format = "json",
    **options: Any,
) -> OldRequest:
    """Write a request: files travel as base64 in JSON and as bytes in msgpack, URLs as they are."""
    images: dict[str, Any] = {"data": None, "urls": None}
    if urls:
        images["urls"] = list(urls)
    else:
        contents = [path.read_bytes() for path in files]
        images["data"] = (
            contents if body_format == "msgpack" else [base64.b64encode(c).decode("ascii") for c in contents]
        )
    headers = {"Content-Type": f"application/{body_format}", "Accept": f"application/{body_format}, */*"}
    return OldRequest({"images": images, **options}, body_format, headers)


def read_answer(answer: httpx.Response) -> list[OldPicture]:
    """Read an answer by its Content-Type."""
    answer.raise_for_status()
    is_msgpack = answer.headers["content-type"].startswith("application/x-msgpack")
    body = ormsgpack.unpackb(answer.content) if is_msgpack else answer.json()
    if "took" in body:
        float(body["took"]["total_ms"])
    else:
        float(body["took_ms"])
    return [
        OldPicture(slot["status"], [_face(face) for face in slot["faces"]], slot["took_ms"], slot.get("traceback"))
        for slot in body["data"]
    ]


def _face(face: Mapping[str, Any]) -> OldFace:
    x1, y1, x2, y2 = face["bbox"]
    vec, facedata = face.get("vec"), face.get("facedata")
    return OldFace(
        bbox=(x1, y1, x2, y2),
        prob=face["prob"],
        size=face["size"],
        norm=face.get("norm"),
        vec=None if vec is None else np.array(vec, np.float32),
        landmarks=face.get("landmarks"),
        facedata=None if facedata is None else base64.b64decode(facedata),
        gender=face.get("gender"),
        age=face.get("age"),
        mask=face.get("mask"),
        num_det=face.get("num_det"),
        scale=face.get("scale"),
    )


def _json_bytes(value: object) -> bytes:
    return httpx.Request("POST", "http://unused", json=value).content


class OldClient:
    """The sync one."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60, trust_env=False)

    def extract(self, **options: Any) -> list[OldPicture]:
        """Call `/extract`."""
        request = extract_request(**options)
        return read_answer(self._http.post("/extract", content=request.content, headers=request.headers))

    def draw(self, picture: Path, **options: Any) -> bytes:
        """Call `/draw_detections`; returns a JPEG."""
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        answer = self._http.post("/draw_detections", json={"images": {"data": [data]}, **options})
        return answer.raise_for_status().content

    def draw_multipart(self, picture: Path, **options: Any) -> bytes:
        """Call `/multipart/draw_detections`; returns a JPEG."""
        with picture.open("rb") as file:
            answer = self._http.post("/multipart/draw_detections", files={"file": file}, data=options)
        return answer.raise_for_status().content

    def info(self) -> dict[str, Any]:
        """Call `/info`."""
        found: dict[str, Any] = self._http.get("/info").raise_for_status().json()
        return found

    def health(self) -> dict[str, Any]:
        """Call `/health`."""
        found: dict[str, Any] = self._http.get("/health").raise_for_status().json()
        return found

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class OldAsyncClient:
    """The async one."""

    def __init__(self, url: str) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)

    async def extract(self, **options: Any) -> list[OldPicture]:
        """Call `/extract`."""
        request = extract_request(**options)
        return read_answer(await self._http.post("/extract", content=request.content, headers=request.headers))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()
