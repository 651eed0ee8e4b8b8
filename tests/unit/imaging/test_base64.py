"""Base64 text to bytes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetface.errors import ImageDecodeError
from jetface.imaging.sources import decode_base64


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


@given(st.binary(), st.sampled_from(["", " ", "\n", "\t \r\n"]), st.booleans(), st.booleans(), st.booleans())
def test_every_dialect_comes_back(
    data: bytes, blank: str, is_padded: bool, is_url_safe: bool, has_prefix: bool
) -> None:
    """URL-safe alphabet, no padding, white space anywhere, `DATA:` in capitals, each with each."""
    text = (base64.urlsafe_b64encode(data) if is_url_safe else base64.b64encode(data)).decode()
    text = text if is_padded else text.rstrip("=")
    text = blank + blank.join(text) + blank
    assert decode_base64(f"{blank}DATA:image/JPEG;{blank}Base64,{text}" if has_prefix else text) == data


@pytest.mark.parametrize(
    "text",
    ["!!!!", "A", "AA=A", "A=AA", "AAAAA", "äöü=", "AAAA\0", "data:image/png,AAAA", "data:AAAA",
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
