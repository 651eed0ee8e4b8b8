"""Memory of pictures is used again, and never while anybody looks at it."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from jetface.imaging.decode import PictureMemory

SHAPE = (700, 900, 3)


def address(image: np.ndarray) -> int:
    return image.ctypes.data


def test_an_array_is_one_that_decoders_can_fill() -> None:
    image = PictureMemory().take(SHAPE)
    assert (image.shape, image.dtype) == (SHAPE, np.dtype(np.uint8))
    assert image.flags.c_contiguous
    assert image.flags.writeable
    image[:] = 7


def test_memory_is_used_again_by_a_picture_about_as_large() -> None:
    memory = PictureMemory()
    image = memory.take(SHAPE)
    first = address(image)
    del image
    again = memory.take((600, 900, 3))
    assert address(again) == first
    del again
    assert address(memory.take((300, 600, 3))) != first or memory.num_free == 0
    assert address(memory.take(SHAPE)) == first


def test_memory_that_is_looked_at_is_not_used_again() -> None:
    memory = PictureMemory()
    image = memory.take(SHAPE)
    image[:] = 1
    view = image[5:9].transpose(1, 0, 2)
    first = address(image)
    del image
    other = memory.take(SHAPE)
    other[:] = 2
    assert address(other) != first
    assert (view == 1).all()
    del view
    assert address(memory.take(SHAPE)) == first


@pytest.mark.parametrize("shape", [(112, 112, 3), (6300, 6300, 3)])
def test_small_and_huge_pictures_leave_nothing(shape: tuple[int, int, int]) -> None:
    memory = PictureMemory()
    assert memory.take(shape).shape == shape
    assert memory.num_free == 0


def test_what_is_kept_is_bounded() -> None:
    memory = PictureMemory()
    images = [memory.take(SHAPE) for _ in range(30)]
    assert len({address(image) for image in images}) == 30
    images.clear()
    assert memory.num_free == 8


def test_threads_never_share_a_piece() -> None:
    memory = PictureMemory()
    shared: list[int] = []

    def work(number: int) -> None:
        for _ in range(300):
            image = memory.take(SHAPE)
            image[0, 0] = number
            image[-1, -1] = number
            if (image[0, 0] != number).any() or (image[-1, -1] != number).any():
                shared.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shared == []
