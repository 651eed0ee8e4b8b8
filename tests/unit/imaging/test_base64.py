"""Base64 text to bytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ImageDecodeError
from app.imaging.base64 import decode_base64


@given(st.binary())
def test_what_was_encoded_comes_back(data: bytes) -> None:
    text = base64.b64encode(data).decode()
    assert decode_base64(text) == data
    assert decode_base64(f"data:image/jpeg;base64,{text}") == data
    assert decode_base64(f"data:image/jpeg;charset=utf-8;base64,{text}") == data


@given(st.binary(min_size=60))
def test_line_breaks_are_passed_over(data: bytes) -> None:
    """`base64 FILE` breaks lines at 76 characters."""
    assert decode_base64(base64.encodebytes(data).decode().replace("\n", "\r\n")) == data


@pytest.mark.parametrize(
    "text",
    ["!!!!", "AAA", "A", "AAAA====", "AA=A", "AAA-", "AA_A", "äöü=", "AAAA\0", "data:image/png,AAAA", "data:AAAA",
     "data:" + "x" * 300 + ";base64,AAAA", "data:image/png;base64,data:image/png;base64,AAAA"],
)  # fmt: skip
def test_all_else_is_refused(text: str) -> None:
    with pytest.raises(ImageDecodeError, match=r"^The picture is not base64\.$"):
        decode_base64(text)


@given(st.text())
def test_any_text_gives_bytes_or_our_error(text: str) -> None:
    try:
        decoded = decode_base64(text)
    except ImageDecodeError:
        return
    assert isinstance(decoded, bytes)


def test_nothing_is_nothing() -> None:
    assert not decode_base64("")
    assert not decode_base64("data:;base64,")
