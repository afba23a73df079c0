"""One input, to Parquet's four columns and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from infra.errors import BadInput
from tasks.payloads import decode, encode, fingerprint

TENSORS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))


@given(st.text())
def test_a_text_comes_back_as_it_was(text: str) -> None:
    assert decode(encode(text)) == text


@given(TENSORS)
def test_a_tensor_comes_back_with_its_bits_and_its_shape(tensor: np.ndarray) -> None:
    back = decode(encode(tensor))
    assert isinstance(back, np.ndarray)
    assert back.shape == tensor.shape
    assert back.dtype == np.float32
    np.testing.assert_array_equal(back.view(np.uint32), tensor.view(np.uint32))


def test_layout_in_memory_does_not_matter() -> None:
    tensor = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert encode(np.asfortranarray(tensor)) == encode(tensor)
    assert fingerprint(np.asfortranarray(tensor)) == fingerprint(tensor)


@given(TENSORS)
def test_equal_content_has_equal_fingerprints_and_another_shape_another_one(
    tensor: np.ndarray,
) -> None:
    assert fingerprint(tensor.copy()) == fingerprint(tensor)
    assert fingerprint(tensor[None]) != fingerprint(tensor)


def test_a_text_and_a_tensor_never_share_a_fingerprint() -> None:
    assert fingerprint("") != fingerprint(np.zeros(0, np.float32))


GOOD = {"text": None, "tensor": b"\0" * 8, "shape": [2], "dtype": "float32"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensor": None}, "neither a text nor a tensor"),
        ({"text": "both"}, "neither a text nor a tensor"),
        ({"shape": None}, "neither a text nor a tensor"),
        ({"dtype": "float64"}, "'float64': 'float32' and 'safetensors' are allowed"),
        ({"shape": [3]}, "8 bytes, but shape \\[3\\] of float32 needs 12"),
        ({"shape": [-1, -2]}, "only sizes of 0 and more"),
        ({"shape": [None]}, "only sizes of 0 and more"),
        ({"shape": [2**31 - 1] * 4, "tensor": b""}, "float32 needs"),
    ],
)
def test_a_malformed_row_says_what_is_wrong(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        decode({**GOOD, **change})
