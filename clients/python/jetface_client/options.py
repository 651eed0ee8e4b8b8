"""What a caller may wish for; what is not given has the service's default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Rotations = Literal["none", "auto"]
"""Which turns of a picture are looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractOptions:
    """Options of `extract` and of folders."""

    threshold: float | None = None
    """Least detector score, [0, 1]; None: the service's default."""
    limit_faces: int = 0
    """Keep the N largest faces, largest first; 0 keeps all, best score first."""
    min_face_size: int = 0
    """Drop faces whose box is narrower, source pixels."""
    rotations: Rotations = "none"
    """`auto`: a picture without a sure face is looked at in its other three quarter turns, too."""
    embeddings: bool = True
    landmarks: bool = True
    min_quality: float = 0.0
    """Drop faces whose quality score is less, [0, 1], before they are embedded or counted."""
    gender_age: bool = False
    """Gender and age; None while the service has no model for them. So with masks and liveness."""
    masks: bool = False
    liveness: bool = False
    attributes: tuple[str, ...] = ()
    """What else models tell of a face, by the names that `Info.attributes` has."""
    quality: bool = False
    """How well each face can be recognized; needs no model."""
    crops: bool = False
    """The aligned crop of each face as JPEG."""

    def fields(self) -> dict[str, Any]:
        """Return the options as `/extract` names them."""
        return {
            "threshold": self.threshold,
            "limit_faces": self.limit_faces,
            "min_face_size": self.min_face_size,
            "rotations": self.rotations,
            "extract_embedding": self.embeddings,
            "return_landmarks": self.landmarks,
            "landmarks_precise": self.landmarks,
            "min_quality": self.min_quality,
            "extract_ga": self.gender_age,
            "detect_masks": self.masks,
            "detect_liveness": self.liveness,
            **({"attributes": list(self.attributes)} if self.attributes else {}),
            "return_quality": self.quality,
            "return_face_data": self.crops,
            # Text of 4 bytes for 3: msgpack's numbers take 5 for 4, and each would become an object in Python first.
            "embedding_format": "base64",
        }
