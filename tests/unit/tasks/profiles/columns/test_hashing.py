"""Whole arrays are hashed to what the library gives for each value."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from infra.errors import BadInput
from tasks.profiles.columns.hashing import hash64


@given(
    st.lists(st.binary(max_size=80)),
    st.integers(0, 2**64 - 1),
    st.sampled_from([pa.binary(), pa.large_binary()]),
)
def test_values_of_any_lengths(values: list[bytes], seed: int, kind: pa.DataType) -> None:
    assert hash64(pa.array(values, kind), seed).tolist() == [
        xxh64_intdigest(value, seed) for value in values
    ]


@pytest.mark.parametrize("length", [*range(70), 255, 256, 257, 1000])
def test_many_values_of_one_length_and_slices_of_them(length: int) -> None:
    values = [bytes((n * (k + 3) + k) % 256 for k in range(length)) for n in range(100)]
    expected = [xxh64_intdigest(value, 7) for value in values]
    mixed = pa.array([*values, b"another length"], pa.binary())
    assert hash64(pa.array(values, pa.binary()), 7).tolist() == expected
    assert hash64(mixed, 7)[:-1].tolist() == expected
    assert hash64(mixed[40:60], 7).tolist() == expected[40:60]


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(BadInput, match="1 of 2 keys are missing"):
        hash64(pa.array(["a", None]))
