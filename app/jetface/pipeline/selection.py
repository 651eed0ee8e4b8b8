"""Which of the detected faces a request wants; decided before anything is aligned or embedded."""

from __future__ import annotations

import numpy as np

from jetface.domain import Detections, ExtractOptions
from jetface.geometry.boxes import largest_first


def select_faces(detections: Detections, options: ExtractOptions, *, max_faces: int) -> Detections:
    """Keep the faces a request asked for.

    Args:
        detections: Best score first, source pixels.
        options: `min_face_width_px` drops narrower boxes; `limit_faces` N > 0 keeps the N largest by area, largest
            first (as InsightFace-REST orders them); otherwise the order stays by score.
        max_faces: Upper bound whatever the request says; the best scores stay.

    Returns:
        The kept faces: a copy, a view, or `detections` itself where nothing is dropped.
    """
    if options.min_face_width_px <= 0 and options.limit_faces <= 0:
        return detections if len(detections) <= max_faces else detections.take(slice(max_faces))
    boxes = detections.boxes
    kept = np.flatnonzero(boxes[:, 2] - boxes[:, 0] >= options.min_face_width_px)[:max_faces]
    if options.limit_faces > 0:
        kept = kept[largest_first(boxes[kept])[: options.limit_faces]]
    return detections.take(kept)
