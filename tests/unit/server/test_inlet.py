"""What a body is kept in until it is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from jetface.server.protocol import Pieces


@given(st.lists(st.binary()))
def test_it_is_what_came(given_pieces: list[bytes]) -> None:
    """Whole and in order; by length, as a bytearray would be."""
    pieces, gathered = Pieces(), bytearray()
    for piece in given_pieces:
        pieces += piece
        gathered += piece
        assert (len(pieces), bool(pieces)) == (len(gathered), bool(gathered))
    assert bytes(pieces) == bytes(gathered)


def test_a_piece_alone_is_not_copied() -> None:
    pieces = Pieces()
    only = bytes(1000)
    pieces += only
    assert bytes(pieces) is only
