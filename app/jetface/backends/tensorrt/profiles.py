"""Which shapes an engine is built for."""

from __future__ import annotations

from collections.abc import Sequence

from jetface.backends.engines.kit import Profile


def usual_bucket(buckets: Sequence[int]) -> int:
    """Return the batch size an engine is tuned for: the smallest bucket not below the root of the largest.

    Kernels chosen for n items lose with the ratio to n, up and down; the root is as far from one item alone as from a
    full batch, and a group photo or a few waiting pictures are near it. So 32 is tuned for 8, 4 for 2. One item is
    the usual one only where no more are allowed.

    Args:
        buckets: Batch sizes a model is run with, at least one.
    """
    return min(bucket for bucket in buckets if bucket**2 >= max(buckets))


def profiles_for(
    item_shapes: Sequence[tuple[int, ...]],
    buckets: Sequence[int],
    *,
    bounds: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
) -> tuple[Profile, ...]:
    """Return a profile for each usual shape, tuned for it alone, and a last one for whatever else may come.

    Args:
        item_shapes: Of one item, without the batch, axes as the graph has them; one each, most usual first.
        buckets: Batch sizes a model is run with, at least one.
        bounds: Smallest and largest item that may come besides the usual ones, axis by axis; None: none may.
            The last profile is tuned for the first of `item_shapes`, brought within the bounds.
    """
    if not item_shapes or not buckets:
        raise ValueError("at least one shape and one bucket")
    sizes = (min(buckets), usual_bucket(buckets), max(buckets))
    profiles = [
        Profile(least=(sizes[0], *shape), usual=(sizes[1], *shape), most=(sizes[2], *shape))
        for shape in dict.fromkeys(item_shapes)
    ]
    if bounds is not None:
        least, most = bounds
        usual = tuple(
            min(max(wanted, low), high) for wanted, low, high in zip(item_shapes[0], least, most, strict=True)
        )
        profiles.append(Profile(least=(sizes[0], *least), usual=(sizes[1], *usual), most=(sizes[2], *most)))
    return tuple(profiles)


def misfit(profile: Profile, shape: Sequence[int]) -> str | None:
    """Say why a profile does not fit the input of a graph; None when it does.

    Args:
        profile: What is to be built for.
        shape: Of the input, -1 where an axis is free.
    """
    ranks = {len(profile.least), len(profile.usual), len(profile.most), len(shape)}
    if len(ranks) != 1:
        return f"the graph's input has {len(shape)} axes, the profile {len(profile.usual)}"
    for axis, (least, usual, most, fixed) in enumerate(
        zip(profile.least, profile.usual, profile.most, shape, strict=True)
    ):
        if not 1 <= least <= usual <= most:
            return f"the lengths {least}, {usual} and {most} of axis {axis} are not in order"
        if fixed >= 0 and not least == most == fixed:
            return f"axis {axis} is fixed to {fixed} in the graph, not {least} to {most}"
    return None


def static_shape(profile: Profile) -> bool:
    """Tell whether a profile is for one shape only: what a deep learning accelerator needs."""
    return profile.least == profile.most
