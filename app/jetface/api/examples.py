"""One example for each route of the OpenAPI description: a body to send, or, where none is sent, an answer."""

from __future__ import annotations

from typing import Any

_JPEG_BASE64 = "/9j/4AAQSkZJRgABAQAAAQABAAD"
"""How a JPEG begins."""

PARAMETERS = {"collection": "people", "person": "ada", "face": "b1946ac92492d234", "name": "det_500m"}
"""Of paths."""

_PICTURES = {"data": [_JPEG_BASE64]}
_PERSON = {"id": "ada", "name": "Ada Lovelace", "metadata": {"team": "analysts"}, "created": 1764547200.0, "faces": 2}
_FACE = {"id": PARAMETERS["face"], "person": "ada", "quality": 0.71, "created": 1764547200.0, "has_crop": True}
_COLLECTION = {
    "name": "people",
    "model": {"name": "w600k_mbf", "sha256": "9cc6e4a75f0e2bf0b1aed94578f144d15175f357bdc05e815e5c4a02b319eb4f",
              "embedding_length": 512},
    "metadata": {},
    "created": 1764547200.0,
    "persons": 1,
    "faces": 2,
}  # fmt: skip
_MODEL = {
    "name": "det_500m", "task": "detection", "family": "scrfd", "license": "non-commercial research",
    "source": "https://github.com/deepinsight/insightface", "state": "serving", "is_active": True, "reason": None,
    "backend": "onnxruntime-cpu", "engine": None, "is_batch_free": True, "sha256": None, "cpu_nodes": [],
    "input_hw": None, "embedding_length": None, "match_threshold": None, "false_match_rate": None,
}  # fmt: skip
_LINE = '{"person":{"id":"ada","name":"Ada Lovelace","metadata":{"team":"analysts"}}}\n'
_DRAWN = {"images": _PICTURES, "threshold": 0.6, "draw_landmarks": True}

EXAMPLES: dict[str, Any] = {
    "extract": {"images": _PICTURES, "threshold": 0.6, "return_landmarks": True, "embedding_format": "base64"},
    "detect": {"images": _PICTURES, "threshold": 0.6, "limit_faces": 1},
    "recognize": {"images": _PICTURES, "boxes": [[[745.1, 342.5, 847.2, 480.0]]]},
    "compare": {"images": {"data": [_JPEG_BASE64, _JPEG_BASE64]}},
    "draw_detections": _DRAWN,
    "multipart_draw_detections": _DRAWN,
    "read_plates": {"images": _PICTURES, "min_width": 40},
    "create_collection": {"name": "people"},
    "add_person": {"id": "ada", "name": "Ada Lovelace", "metadata": {"team": "analysts"}},
    "change_person": {"name": "Ada King"},
    "enrol_person": {"images": _PICTURES, "name": "Ada Lovelace", "largest": True},
    "delete_faces": {"ids": [PARAMETERS["face"]]},
    "export_collection": _LINE,
    "import_collection": _LINE,
    "search_faces": {"images": _PICTURES, "top_k": 3},
    "identify_faces": {"images": _PICTURES},
    "list_collections": {"collections": [_COLLECTION]},
    "get_collection": _COLLECTION,
    "delete_collection": _COLLECTION,
    "list_persons": {"persons": [_PERSON], "next": None},
    "get_person": _PERSON,
    "delete_person": _PERSON,
    "list_faces": {"faces": [_FACE], "next": None},
    "delete_face": {"deleted": [PARAMETERS["face"]]},
    "list_models": {"models": [_MODEL]},
    "get_model": _MODEL,
    "load_model": _MODEL,
    "unload_model": _MODEL | {"state": "unloaded", "backend": None},
    "reload_model": _MODEL,
    "health": {"status": "ok"},
    "health_live": {"status": "alive"},
    "health_ready": {"status": "ready", "models": {"det_500m": {"state": "serving", "backend": "onnxruntime-cpu"}}},
    "metrics": 'jetface_requests_total{route="/extract",method="POST",status="200"} 12.0\n',
    "info": {
        "version": "1.0.0",
        "commit": "0c15418f2f9e1a3b5d7c9e0f2a4b6c8d0e1f3a5b",
        "tensorrt_version": None,
        "log_level": "INFO",
        "models": {
            "inference_backend": "onnx", "det_name": "det_500m", "rec_name": "w600k_mbf", "match_threshold": 0.3,
            "false_match_rate": 0.0001, "ga_name": None, "mask_detector": None, "liveness": [], "attributes": [],
            "max_size": [640, 640], "rec_batch_size": 32, "det_batch_size": 4, "force_fp16": True, "triton_uri": None,
            "tried": [], "backends": {"det_500m": "onnxruntime-cpu", "w600k_mbf": None},
        },
        "defaults": {
            "det_thresh": 0.6, "extract_embedding": True, "return_face_data": False, "return_landmarks": False,
            "extract_ga": False, "detect_masks": False, "img_req_headers": {}, "sslv3_hack": False,
        },
        "notice": None,
        "gallery": False,
        "plates": False,
        "device": {
            "module": None, "l4t_release": None, "power_mode": None, "gpu": None, "gpu_driver": None,
            "cores_present": 8, "telemetry": "nothing readable", "age_s": None, "readings": {}, "unreadable": {},
        },
    },
}  # fmt: skip
"""By operation id. `get_crop` answers with a JPEG alone; the example of its path has to do."""
