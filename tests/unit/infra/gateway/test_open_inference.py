"""Bodies of the Open Inference Protocol: every valid one is read back, every other told."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from infra.errors import BadInput
from infra.gateway.wire.bodies import MOST_NESTED
from infra.gateway.wire.datatypes import (
    LITTLE_ENDIAN,
    MOST_LISTED,
    MOST_TEXTS,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
)
from infra.gateway.wire.open_inference import (
    InferenceAnswer,
    InferenceRequest,
    parse_request,
    render_answer,
)

DTYPES = [code for name, code in LITTLE_ENDIAN.items() if name != "BF16"]
TENSORS = st.sampled_from(DTYPES).flatmap(
    lambda code: arrays.arrays(
        code,
        arrays.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=3),
        elements=arrays.from_dtype(np.dtype(code), allow_nan=False, allow_infinity=False),
    )
)


def body(values: np.ndarray, binary: bool) -> tuple[bytes, int | None]:
    """Write a request of one tensor as a client does."""
    entry = {"name": "x", "shape": list(values.shape), "datatype": datatype_of(values.dtype)}
    if not binary:
        return json.dumps({"inputs": [{**entry, "data": values.tolist()}]}).encode(), None
    raw = to_bytes(values)
    entry["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [entry]}).encode()
    return head + raw, len(head)


@given(TENSORS, st.booleans())
def test_a_tensor_comes_back_bit_for_bit_in_json_and_in_bytes(
    values: np.ndarray, binary: bool
) -> None:
    asked = parse_request(*body(values, binary))
    assert asked.inputs["x"].dtype == values.dtype
    assert np.array_equal(asked.inputs["x"], values)
    answer = InferenceAnswer("", "m", "1", {"release": "d" * 64}, {"y": values})
    wanted = InferenceRequest("", asked.inputs, {"y": binary}, False, {})
    written, length = render_answer(answer, wanted)
    document = orjson.loads(written[:length])
    (output,) = document["outputs"]
    assert output["datatype"] == datatype_of(values.dtype)
    assert output["shape"] == list(values.shape)
    if binary:
        assert written[length:] == to_bytes(values)
    else:
        assert np.array_equal(np.asarray(output["data"], values.dtype), values.ravel())


@given(st.lists(st.text(max_size=9), min_size=1, max_size=5), st.booleans())
def test_texts_come_back_in_both_forms(texts: list[str], binary: bool) -> None:
    values = np.asarray(texts, dtype=object)
    assert parse_request(*body(values, binary)).inputs["x"].tolist() == texts


@given(st.binary(max_size=200), st.none() | st.integers(-5, 300))
def test_bytes_that_are_no_request_are_told_and_nothing_else_is_raised(
    data: bytes, length: int | None
) -> None:
    with pytest.raises(BadInput):
        parse_request(data, length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries(
        {"name": JSON, "shape": JSON, "datatype": st.sampled_from([*LITTLE_ENDIAN, "BYTES"])},
        optional={"data": JSON, "parameters": JSON},
    )
)
def test_any_json_in_a_tensors_place_is_read_or_told(entry: dict[str, object]) -> None:
    with suppress(BadInput):
        asked = parse_request(json.dumps({"inputs": [entry]}).encode())
        assert list(asked.inputs) == [entry["name"]]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "not a JSON object"),
        ({}, "has no inputs"),
        ({"inputs": [{"shape": [1]}]}, "has no name"),
        ({"inputs": [{"name": "x", "shape": [1], "data": [1]}]}, "no datatype"),
        (
            {"inputs": [{"name": "x", "shape": [-1], "datatype": "FP32", "data": [1]}]},
            "has no shape",
        ),
        ({"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1]}]}, "1 elements"),
        (
            {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [[1], [1, 2]]}]},
            "ragged",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1], "datatype": "INT8", "data": [300]}]},
            "numbers that INT8 has not",
        ),
        (
            {"inputs": [{"name": "x", "shape": [1], "datatype": "INT4", "data": [1]}]},
            "datatype INT4: known are",
        ),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, "has no data"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(document: object, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence.replace("[", r"\[")):
        parse_request(json.dumps(document).encode())


@pytest.mark.parametrize("stale", [1, 40, 9999])
def test_the_length_of_an_earlier_call_does_not_cut_a_body_of_json(stale: int) -> None:
    values = np.arange(3, dtype=np.float32)
    written, _ = body(values, binary=False)
    assert np.array_equal(parse_request(written, stale).inputs["x"], values)


def test_an_unknown_output_is_told_with_those_that_there_are() -> None:
    answer = InferenceAnswer("", "m", "1", {"release": "d"}, {"y": np.zeros(1, np.float32)})
    asked = InferenceRequest("", {}, {"z": False}, False, {})
    with pytest.raises(BadInput, match="no output z: the model has y"):
        render_answer(answer, asked)


def test_what_is_no_number_becomes_null() -> None:
    answer = InferenceAnswer(
        "", "m", "1", {"release": "d"}, {"y": np.array([np.nan, np.inf], np.float32)}
    )
    asked = InferenceRequest("", {}, None, False, {})
    (output,) = orjson.loads(render_answer(answer, asked)[0])["outputs"]
    assert output["data"] == [None, None]


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "INT64"])
@pytest.mark.parametrize("binary", [True, False])
def test_a_shape_of_nothing_with_endless_sizes_is_the_callers_fault(
    datatype: str, binary: bool
) -> None:
    shape = [0, *[2**31 - 1] * 7]

    def read() -> object:
        if binary:
            return from_bytes("x", datatype, shape, b"")
        return from_json("x", datatype, shape, [])

    with pytest.raises(BadInput, match="too large"):
        read()


@pytest.mark.parametrize(("datatype", "number"), [("FP16", 1e6), ("FP32", 1e300), ("INT8", 200)])
def test_a_number_that_the_datatype_has_not_is_told_and_never_made_infinite(
    datatype: str, number: float
) -> None:
    with pytest.raises(BadInput, match=f"numbers that {datatype} has not"):
        from_json("x", datatype, [1], [number])


@pytest.mark.parametrize(
    ("tensor", "tail", "sentence"),
    [
        (b'"datatype":"FP32","data":[%s1]' % (b"1," * MOST_LISTED), b"", "elements in JSON"),
        (b'"datatype":"FP32","data":[[%s1],[1]]' % (b"1," * MOST_LISTED), b"", "elements in JSON"),
        (b'"datatype":"BYTES","data":[%s""]' % (b'"",' * MOST_TEXTS), b"", "elements in JSON"),
        (b'"datatype":"FP32","data":[%s[]]' % (b"[]," * MOST_NESTED), b"", "lists and objects"),
        (b'"datatype":"BYTES","parameters":{"binary_data_size":800}', bytes(800), "texts"),
    ],
)
def test_what_would_keep_others_waiting_is_not_read(
    tensor: bytes, tail: bytes, sentence: str
) -> None:
    size = MOST_TEXTS * 42  # fits none of them but by its number
    head = b'{"inputs":[{"name":"x","shape":[%d],%s}]}' % (size, tensor)
    with pytest.raises(BadInput) as refused:
        parse_request(head + tail, len(head) if tail else None)
    assert sentence in str(refused.value)


def test_elements_come_once_in_json_or_behind_it() -> None:
    head = (
        b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT8","data":[1],'
        b'"parameters":{"binary_data_size":1}}]}'
    )
    with pytest.raises(BadInput, match="come once"):
        parse_request(head + b"\x01", len(head))
