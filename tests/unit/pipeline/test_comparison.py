"""How alike faces are."""

from __future__ import annotations

import numpy as np

from jetface.domain import PictureResult
from jetface.pipeline.describer import leading_vector, similarities
from tests.support.fakes import face_number


def test_every_embedding_is_compared_with_every_other() -> None:
    a, b = np.array([1, 0], np.float32), np.array([0.6, 0.8], np.float32)
    np.testing.assert_allclose(similarities([a, b], [a, b, -a]), [[1, 0.6, -1], [0.6, 1, -0.6]], atol=1e-6)


def test_where_a_face_is_missing_there_is_no_similarity() -> None:
    a = np.array([1, 0], np.float32)
    np.testing.assert_array_equal(similarities([a, None], [None, a]), [[np.nan, 1], [np.nan, np.nan]])
    assert np.isnan(similarities([None], [None])).all()


def test_similarity_stays_within_its_range() -> None:
    """Rounding must not make a face more than equal to itself."""
    vector = np.full(512, 512**-0.5, np.float32) * np.float32(1.000001)
    assert similarities([vector], [vector])[0, 0] <= 1


def test_the_leading_face_is_the_first() -> None:
    assert leading_vector(PictureResult(image_index=0)) is None
    result = PictureResult(image_index=0, faces=(face_number(1, 0), face_number(0, 0)))
    vector = leading_vector(result)
    assert vector is not None
    assert vector[1] == 1
