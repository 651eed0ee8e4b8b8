"""Five landmarks, or a box, to a crop: whether they are a face's, what the crop shows of the picture, its pixels."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from jetface.domain import Crop, Image, Landmarks

CROP_SIDE_PX = 112
"""Side of an aligned crop."""

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
"""(5, 2) where landmarks come to lie in a crop. Source: `arcface_dst`, insightface `utils/face_align.py`."""
TEMPLATE.setflags(write=False)

_LONGEST_PX = 2**15 - 2
"""Side of what OpenCV before 5, the Jetsons' version among them, warps; of a longer one some pixels are left out."""

SHRINK_BELOW = 0.5
"""Crop pixels per pixel below which bilinear sampling, which sees two pixels each way, leaves some out."""

NOISE_LIMIT = 4.0
"""Noise, grey levels of 255, from which a face that is sampled below `SHRINK_BELOW` is shrunk by area first. Measured
(docs/adr/0019-crops.md): 2.2 on the noisiest such face of the golden pictures; at 6.7 plain sampling costs 0.016 of
cosine, shrinking 0.005."""

MIN_VISIBLE = 0.2
"""Least share of a crop that lies within the picture where the caller says that there is a face. Of 2271 faces that
two detectors found at 0.3 in portraits and groups the least has 0.30."""

_MIN_CROP_PX = 4.0
"""Fewest pixels of a picture, along a side of the crop, that landmarks may span. The smallest face detected in those
pictures spans 10."""

_LEAST_FIT, _GOOD_FIT, _BETTER_BY = 0.4, 0.8, 0.2
"""Share of the variance of landmarks that the template explains: below the first they are no face's; where another
order of the points reaches the second and is better by the third, they were given in a wrong order or mirrored. Of
those 2271 faces none is refused (least fit 0.48, heads in full profile). Of those that score 0.5, 99.4 % are with left
and right, or x and y, swapped; 98.6 % with the eyes alone, and with the corners of the mouth alone."""

_LEAST_WIDTH = 0.1
"""Least ratio of how far landmarks spread across to how far they spread along. Least among those faces: 0.19."""

_NOISE_SAMPLES = 64
"""Places along the shorter side of a face at which its noise is looked at."""

_MARGIN_PX = 2
"""Source pixels kept around what a crop covers, so that interpolation at its edge sees its true neighbours."""


@dataclass(frozen=True, slots=True)
class Similarity:
    """A rotation, a uniform scale and a shift.

    `x, y` goes to `cosine * x - sine * y + shift_x, sine * x + cosine * y + shift_y`.
    """

    cosine: float
    """Times the scale, as is the next."""
    sine: float
    shift_x: float
    shift_y: float

    @property
    def scale(self) -> float:
        """How long a way of length 1 becomes."""
        return math.hypot(self.cosine, self.sine)

    @property
    def matrix(self) -> NDArray[np.float64]:
        """(2, 3) float64 matrix of `cv2.warpAffine`'s kind."""
        return np.array([[self.cosine, -self.sine, self.shift_x], [self.sine, self.cosine, self.shift_y]])


def estimate_similarity(source: NDArray[np.float32], target: NDArray[np.float32] = TEMPLATE) -> Similarity | None:
    """Find the rotation, uniform scale and shift that bring `source` nearest to `target` in the least squares sense.

    Args:
        source: (K, 2) points, K >= 2.
        target: (K, 2) points.

    Returns:
        None where `source` decides nothing: its points all coincide, one is not finite, or they mirror `target` so that
        no turn fits better than another.

    Source: Umeyama 1991, in closed form: in the plane, without reflection, the problem is linear in `scale * cos` and
    `scale * sin`, so no singular value decomposition is needed. Plain floats: a third of NumPy's time for five points.
    """
    x_mean, y_mean, centered = _center(source)
    u_mean, v_mean, wanted = _CENTERED_TEMPLATE if target is TEMPLATE else _center(target)
    spread = cosine = sine = 0.0
    for (x, y), (u, v) in zip(centered, wanted, strict=True):
        spread += x * x + y * y
        cosine += x * u + y * v
        sine += x * v - y * u
    # Points within a millionth of their distance from the origin coincide as far as float32 can tell.
    if not math.isfinite(spread) or spread <= 1e-12 * max(1.0, x_mean * x_mean + y_mean * y_mean):
        return None
    cosine, sine = cosine / spread, sine / spread
    if cosine == 0.0 and sine == 0.0:
        return None
    shift = u_mean - cosine * x_mean + sine * y_mean, v_mean - sine * x_mean - cosine * y_mean
    return Similarity(cosine, sine, *shift)


def visible_pixels(similarity: Similarity, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Return which pixels of a crop show the picture: (112, 112), True within it.

    Args:
        similarity: From the picture to the crop.
        image_hw: Height and width of the picture.
    """
    (top, left), (step_down, step_right) = _inverse(similarity)
    places = np.arange(CROP_SIDE_PX, dtype=np.float64)
    y = top + step_down * places[:, None] + step_right * places[None, :]
    x = left - step_right * places[:, None] + step_down * places[None, :]
    height, width = image_hw
    # A pixel is as wide as its distance to the next: the picture begins and ends half of one beyond their centres.
    inside: NDArray[np.bool_] = (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)
    return inside


def visible_shares(landmarks: Landmarks, image_hw: tuple[int, int]) -> NDArray[np.float32]:
    """Return how much of each crop lies within the picture.

    Args:
        landmarks: (N, 5, 2) float32, pixels of the picture.
        image_hw: Its height and width.

    Returns:
        (N,) float32 in [0, 1]; 0 where the landmarks decide nothing.
    """
    height, width = image_hw
    points = landmarks.astype(np.float64) @ (1, 1j)
    middles = points.sum(axis=1, keepdims=True) / points.shape[1]
    with np.errstate(all="ignore"):  # what decides nothing comes out as NaN, which is not within anything
        away = points - middles
        scales = away.conj() @ _TEMPLATE / np.square(np.abs(away)).sum(axis=1)
        corners = middles + _CORNERS / scales[:, None]
    is_whole = (
        (corners.real >= -0.5) & (corners.real <= width - 0.5) & (corners.imag >= -0.5) & (corners.imag <= height - 0.5)
    ).all(axis=1)
    shares: NDArray[np.float32] = is_whole.astype(np.float32)
    for index in np.flatnonzero(~is_whole).tolist():
        similarity = estimate_similarity(landmarks[index])
        if similarity is not None:
            shares[index] = visible_pixels(similarity, image_hw).mean()
    return shares


def landmarks_fault(landmarks: NDArray[np.float32], image_hw: tuple[int, int]) -> str | None:
    """Say why landmarks that somebody gave cannot be those of a face in a picture.

    Faces in any turn pass, in profile and half beyond an edge too. Points that lie as a face's do pass where there is
    none: only a detector could tell.

    Args:
        landmarks: (5, 2) float32, pixels of the picture; any numbers.
        image_hw: Its height and width.

    Returns:
        What is wrong, as the end of a sentence about them; None where nothing is.
    """
    height, width = image_hw
    size = f"the picture of {width}x{height} pixels"
    if not np.isfinite(landmarks).all():
        return "are not all finite numbers"
    if landmarks.min() >= 0 and landmarks.max() <= 1:
        return "lie between 0 and 1: pixels of the picture are wanted, not fractions of its sides"
    if not ((landmarks > -1) & (landmarks < (width, height))).all(axis=1).any():
        return f"lie outside {size}"
    fault = _shape_fault(landmarks)
    if fault is None and (visible := float(visible_shares(landmarks[None], image_hw)[0])) < MIN_VISIBLE:
        fault = f"put {1 - visible:.0%} of the aligned face outside {size}"
    return fault


def _shape_fault(landmarks: NDArray[np.float32]) -> str | None:
    """Say why five finite points, wherever they lie, are not those of a face; None where they may be."""
    points = landmarks.astype(np.float64) @ (1, 1j)
    points -= points.mean()
    spread = float(np.square(np.abs(points)).sum())
    # The side of the crop, were the fit perfect; a poor fit makes it larger.
    if math.sqrt(spread) * CROP_SIDE_PX < _MIN_CROP_PX * _TEMPLATE_SPREAD:
        return "lie within less than a few pixels, where no face can be seen"
    # The length of a shape's complex second moment is what its spread along exceeds that across by.
    excess = float(abs(np.square(points).sum()))
    if math.sqrt(max(0.0, spread - excess)) < _LEAST_WIDTH * math.sqrt(spread + excess):
        return "lie on one line"
    fits = np.square(np.abs(_ORDERS @ points.conj())) / spread
    if fits[1:].max() >= max(_GOOD_FIT, fits[0] + _BETTER_BY):
        return (
            "are mirrored or in a wrong order: [x, y] of the left eye as seen in the picture, the right eye, the nose, "
            "the left and the right corner of the mouth are wanted"
        )
    return "do not lie as those of a face do" if fits[0] < _LEAST_FIT else None


def align(image: Image, landmarks: NDArray[np.float32]) -> Crop:
    """Cut out one face, turned and resized so that its landmarks lie on the template.

    Where a noisy picture shows the face more than twice as large as its crop, it is shrunk by area first: noise that is
    sampled, not averaged, makes another face of it (docs/adr/0019-crops.md).

    Args:
        image: (H, W, 3) uint8 BGR, full resolution.
        landmarks: (5, 2) float32, its pixels; they may lie outside of it.

    Returns:
        (112, 112, 3) uint8 BGR, bilinear, black beyond the picture; all black where the landmarks decide nothing.

    Source: `norm_crop` of insightface 2.1, which never shrinks by area. Only the part of the picture the crop covers is
    handed to OpenCV.
    """
    similarity = estimate_similarity(landmarks)
    outline = None if similarity is None else _outline(similarity)
    region = None if outline is None else _covered_region(outline, image.shape[0], image.shape[1])
    if similarity is None or outline is None or region is None:
        return np.zeros((CROP_SIDE_PX, CROP_SIDE_PX, 3), np.uint8)
    top, bottom, left, right = region
    part = image[top:bottom, left:right]
    matrix = similarity.matrix
    matrix[:, 2] += matrix[:, :2] @ (left, top)
    scale = similarity.scale
    if scale < SHRINK_BELOW and _noise(image, outline) >= NOISE_LIMIT:
        part, matrix = _shrink(part, matrix, int(1 / scale))
    if (step := -(-max(part.shape[:2]) // _LONGEST_PX)) > 1:
        part = part[::step, ::step]
        matrix[:, :2] *= step
    crop = cv2.warpAffine(part, matrix, (CROP_SIDE_PX, CROP_SIDE_PX), flags=cv2.INTER_LINEAR, borderValue=0.0)
    return np.asarray(crop, np.uint8)


def _noise(image: Image, outline: tuple[float, float, float, float]) -> float:
    """Estimate the standard deviation of the noise in the middle of a face, levels of its green; 0 beyond the picture.

    Source: Donoho & Johnstone 1994, "Ideal spatial adaptation by wavelet shrinkage": the median of the finest diagonal
    Haar coefficients, which skin and hair hardly have. Of a few thousand places: it is the same noise everywhere.
    """
    # Half of what surrounds a crop lies within it, however it is turned.
    y_low, y_high, x_low, x_high = outline
    top, bottom = max(0, math.floor((3 * y_low + y_high) / 4)), max(0, math.floor((y_low + 3 * y_high) / 4))
    left, right = max(0, math.floor((3 * x_low + x_high) / 4)), max(0, math.floor((x_low + 3 * x_high) / 4))
    green = image[top:bottom, left:right, 1]
    green = green[: green.shape[0] // 2 * 2, : green.shape[1] // 2 * 2]
    if not green.size:
        return 0.0
    step_px = max(2, min(green.shape) // _NOISE_SAMPLES // 2 * 2)
    corners = [green[y::step_px, x::step_px].astype(np.int16) for y in (0, 1) for x in (0, 1)]
    doubled = np.abs(corners[0] - corners[1] - corners[2] + corners[3]).ravel()
    # The median of small whole numbers by their counts: selection takes longer, and ten times so where many are equal.
    num_up_to = np.bincount(doubled).cumsum()
    low, high = num_up_to.searchsorted([(doubled.size + 1) // 2, doubled.size // 2 + 1]).tolist()
    return float(low + high) / 4 / 0.6745


def _shrink(part: Image, matrix: NDArray[np.float64], divisor: int) -> tuple[Image, NDArray[np.float64]]:
    """Shrink a part of a picture by area, and make `matrix`, (2, 3), map the pixels of what came out."""
    height, width = part.shape[:2]
    small = cv2.resize(part, (-(-width // divisor), -(-height // divisor)), interpolation=cv2.INTER_AREA)
    steps = np.array([width / small.shape[1], height / small.shape[0]])
    # The middle of a small pixel is the middle of those it was made of.
    shrunk = matrix.copy()
    shrunk[:, 2] += matrix[:, :2] @ ((steps - 1) / 2)
    shrunk[:, :2] *= steps
    return np.asarray(small, np.uint8), shrunk


def _center(points: NDArray[np.float32]) -> tuple[float, float, list[tuple[float, float]]]:
    """Return the mean of (K, 2) points, `x` and `y`, and where they lie from there."""
    pairs = points.tolist()
    x_mean = sum([x for x, _ in pairs]) / len(pairs)
    y_mean = sum([y for _, y in pairs]) / len(pairs)
    return x_mean, y_mean, [(x - x_mean, y - y_mean) for x, y in pairs]


def _inverse(similarity: Similarity) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return `y, x` in the picture of a crop's first pixel, and how `y` grows with each pixel down and to the right."""
    # The inverse of a similarity is its transpose over its squared scale.
    squared_scale = similarity.cosine * similarity.cosine + similarity.sine * similarity.sine
    cosine, sine = similarity.cosine / squared_scale, similarity.sine / squared_scale
    y = sine * similarity.shift_x - cosine * similarity.shift_y
    x = -cosine * similarity.shift_x - sine * similarity.shift_y
    return (y, x), (cosine, -sine)


def _outline(similarity: Similarity) -> tuple[float, float, float, float]:
    """Return `top, bottom, left, right` of what a crop covers, in the picture: the centres of its outermost pixels."""
    (y, x), (step_down, step_right) = _inverse(similarity)
    down, right = step_down * (CROP_SIDE_PX - 1), step_right * (CROP_SIDE_PX - 1)
    return (
        y + min(down, 0.0) + min(right, 0.0),
        y + max(down, 0.0) + max(right, 0.0),
        x + min(down, 0.0) - max(right, 0.0),
        x + max(down, 0.0) - min(right, 0.0),
    )


def _covered_region(
    outline: tuple[float, float, float, float], height: int, width: int
) -> tuple[int, int, int, int] | None:
    """Return `top, bottom, left, right` of the part of a picture that a crop shows; None when it shows none of it."""
    y_low, y_high, x_low, x_high = outline
    top, bottom = max(0, math.floor(y_low) - _MARGIN_PX), min(height, math.ceil(y_high) + _MARGIN_PX)
    left, right = max(0, math.floor(x_low) - _MARGIN_PX), min(width, math.ceil(x_high) + _MARGIN_PX)
    return None if top >= bottom or left >= right else (top, bottom, left, right)


_CENTERED_TEMPLATE = _center(TEMPLATE)
_TEMPLATE = TEMPLATE.astype(np.float64) @ (1, 1j)
_CORNERS = np.array([-0.5 - 0.5j, 111.5 - 0.5j, -0.5 + 111.5j, 111.5 + 111.5j]) - _TEMPLATE.mean()
"""Of a crop, from the middle of the template, as complex numbers; so is the template itself."""
_TEMPLATE -= _TEMPLATE.mean()
_TEMPLATE_SPREAD = float(np.linalg.norm(_TEMPLATE))
_ORDERS = _TEMPLATE[list(itertools.permutations(range(len(_TEMPLATE))))] / _TEMPLATE_SPREAD
"""(120, 5) the template at length 1 in every order of its points, its own first."""


def cut_out(image: Image, box: NDArray[np.float32], *, enlargement: float, output_hw: tuple[int, int]) -> Image:
    """Cut out an enlarged box, upright and unpadded, and resize it.

    The window keeps the box's shape and centre. Where it would leave the picture it is moved inside; where it is larger
    than the picture it shrinks to what fits.

    Args:
        image: (H, W, 3) uint8 BGR, any size from 1x1.
        box: (4,) float32 `x1, y1, x2, y2`, its pixels; parts of it may lie outside.
        enlargement: How many times as wide and high as the box the window is.
        output_hw: Height and width of the cut-out; the window is stretched to it.

    Returns:
        (*output_hw, 3) uint8 BGR, bilinear.

    Source: `AffineCrop` of minivision-ai/Silent-Face-Anti-Spoofing at 11730bcc, src/generate_patches.py.
    """
    sides = np.array([image.shape[1], image.shape[0]], np.float64)
    low, high = box[:2].astype(np.float64), box[2:].astype(np.float64)
    box_sides = np.maximum(high - low, 1e-3)
    window = box_sides * min(enlargement, float(((sides - 1) / box_sides).min()))
    left, top = np.clip((low + high - window) / 2, 0, sides - window)
    columns = _span(left, window[0], image.shape[1])
    rows = _span(top, window[1], image.shape[0])
    resized = cv2.resize(image[rows, columns], output_hw[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)


def _span(start: float, length: float, limit: int) -> slice:
    """Return the whole pixels of a stretch, at least one of the `limit` there are."""
    first = min(int(start), limit - 1)
    return slice(first, max(int(start + length), first + 1))
