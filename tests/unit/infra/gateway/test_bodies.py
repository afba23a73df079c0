from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import BadInput
from infra.gateway.wire.bodies import TooLarge, Unpacking


def unpacked(encoding: str, data: bytes, most: int = 10_000) -> bytes:
    unpacking = Unpacking(encoding, most)
    pieces = [unpacking.add(data[place : place + 7]) for place in range(0, len(data), 7)]
    return b"".join([*pieces, unpacking.finish()])


@given(st.binary(max_size=300))
def test_a_body_is_what_it_was_before_it_was_packed(data: bytes) -> None:
    assert unpacked("identity", data) == data
    assert unpacked("gzip", gzip.compress(data)) == data
    assert unpacked("deflate", zlib.compress(data)) == data


@given(
    st.sampled_from(["gzip", "deflate"]), st.binary(max_size=100).filter(lambda x: x[:1] != b"x")
)
def test_bytes_that_are_not_so_packed_are_the_callers_fault(encoding: str, data: bytes) -> None:
    with pytest.raises(BadInput, match=encoding):
        unpacked(encoding, data)


def test_a_small_body_that_holds_a_large_one_is_refused_before_it_is_unpacked() -> None:
    bomb = gzip.compress(bytes(10_000_000))
    with pytest.raises(TooLarge, match="larger than 10000 bytes"):
        unpacked("gzip", bomb)


def test_an_encoding_that_is_not_read_is_named() -> None:
    with pytest.raises(BadInput, match="the body is of br"):
        Unpacking("br", 10)
