"""Pictures drawn by code stand in for pictures that nobody gave."""

from __future__ import annotations

import numpy as np
import pytest

from jetface.geometry.boxes import suppress_overlaps
from jetface.geometry.letterbox import Letterbox
from jetface.graphs.prepare import prepare_graph
from jetface.heads.canvases import DetectorItem
from jetface.heads.families import read_known
from jetface.heads.scrfd import Scrfd
from jetface.judging.agreement import Trial
from jetface.judging.drawings import PLATES, draw_for, draw_pictures, draw_traffic
from jetface.registry import default_registry_dir, read_registry
from jetface.runtimes.onnx import open_onnx_backends

pytestmark = pytest.mark.weights  # the starter models


def test_they_are_the_same_each_time() -> None:
    for draw in (draw_pictures, draw_traffic):
        first, second = draw(), draw()
        for one, other in zip((*first.pictures, *first.crops), (*second.pictures, *second.crops), strict=True):
            np.testing.assert_array_equal(one, other)


def test_crops_are_crops_and_differ() -> None:
    crops = draw_pictures().crops
    assert {(crop.shape, crop.dtype) for crop in crops} == {((112, 112, 3), np.dtype(np.uint8))}
    assert len({crop.tobytes() for crop in crops}) == len(crops)


def test_a_detector_finds_every_face_where_it_was_drawn() -> None:
    registry_dir = default_registry_dir()
    spec = read_registry([registry_dir])["starter_det"]
    backend = open_onnx_backends(prepare_graph(registry_dir / spec.file_name, spec).model)[0]
    head = Scrfd.probe(spec, backend, (128, 128))
    counts = []
    for picture in draw_pictures().pictures:
        letterbox = Letterbox.fit((picture.shape[0], picture.shape[1]), (640, 640), rectangular=True)
        (found,) = head.run(backend, [DetectorItem(letterbox.apply(picture), 0.6)])
        counts.append(len(found))
    assert counts == [1, 1, 1, 1, 4, 4]


def test_models_of_plates_are_shown_cars_whose_plates_are_found() -> None:
    registry_dir = default_registry_dir()
    spec = read_known([registry_dir])["starter_plate"]
    graph = prepare_graph(registry_dir / spec.file_name, spec)
    (backend,) = open_onnx_backends(graph.model)
    pictures = draw_for(spec.task).pictures
    found = Trial(spec, lambda: pictures, ((640, 640),)).answers(backend)
    kept = [boxes.take(suppress_overlaps(boxes.boxes, boxes.scores)) for boxes in found]
    assert [len(boxes) for boxes in kept] == [1, 1, 1, 1, len(PLATES)]
    assert min(boxes.scores.min() for boxes in kept) > spec.least_score
    assert len(draw_for("plate_reading").crops) == 3 * len(PLATES)
