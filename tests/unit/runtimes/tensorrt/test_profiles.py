"""Which shapes engines are built for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.runtimes.backend import buckets_up_to
from jetface.runtimes.engine_kit import Profile, profiles_for, usual_bucket


@pytest.mark.parametrize(
    ("most", "usual"), [(1, 1), (2, 2), (3, 2), (4, 2), (8, 4), (16, 4), (32, 8), (48, 8), (64, 8), (128, 16)]
)
def test_the_usual_batch_is_the_middle_between_one_item_and_a_full_batch(most: int, usual: int) -> None:
    assert usual_bucket(buckets_up_to(most)) == usual


@given(most=st.integers(1, 1024))
def test_one_item_is_the_usual_batch_only_where_no_more_are_allowed(most: int) -> None:
    buckets = buckets_up_to(most)
    usual = usual_bucket(buckets)
    assert usual in buckets
    assert (usual == 1) == (most == 1)


sizes = st.tuples(st.just(3), st.integers(1, 1024), st.integers(1, 1024))


@given(shapes=st.lists(sizes, min_size=1, max_size=4), most=st.integers(1, 64))
def test_each_usual_shape_has_a_profile_tuned_for_it_alone(shapes: list[tuple[int, ...]], most: int) -> None:
    buckets = buckets_up_to(most)
    profiles = profiles_for(shapes, buckets)
    assert [profile.usual[1:] for profile in profiles] == list(dict.fromkeys(shapes))
    for profile in profiles:
        assert (profile.least[0], profile.most[0]) == (1, most)
        assert profile.least[1:] == profile.usual[1:] == profile.most[1:]
        assert profile.misfit((-1, 3, -1, -1)) is None
        assert profile.is_static == (most == 1)


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (Profile(least=(1, 3), usual=(1, 3), most=(1, 3, 3)), "has 2 axes"),
        (Profile(least=(2, 3), usual=(1, 3), most=(4, 3)), "of axis 0 are not in order"),
        (Profile(least=(0, 3), usual=(1, 3), most=(4, 3)), "of axis 0 are not in order"),
        (Profile(least=(1, 3), usual=(1, 3), most=(1, 4)), "axis 1 is fixed to 3 in the graph, not 3 to 4"),
    ],
)
def test_a_profile_that_does_not_fit_is_told_why(profile: Profile, told: str) -> None:
    assert told in (profile.misfit((-1, 3)) or "")
