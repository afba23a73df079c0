"""Golden files come back as they were written, and wrong ones are refused in one sentence."""

import io
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors import numpy as safetensors

from infra.errors import BadInput
from tasks.models.golden import SCHEMA, read_golden, write_golden, write_safety_head
from tasks.records import CaseKind, GoldenCase

PLAIN = GoldenCase("p1", "hello", "docs", "en", label="3")
PASSAGE = GoldenCase("a1", "a passage", "docs", "en", CaseKind.PASSAGE)
QUERY = GoldenCase("q1", "a query", "docs", "ja", CaseKind.QUERY, relevant=("a1",))
SAFETY = GoldenCase("s1", "bad words", "safety", "en", CaseKind.SAFETY, label="blocked")
CASES = (PLAIN, PASSAGE, QUERY, SAFETY)


def rewritten(change: Callable[[pa.Table], pa.Table]) -> bytes:
    table = pq.read_table(io.BytesIO(write_golden(CASES)))
    buffer = io.BytesIO()
    pq.write_table(change(table), buffer)
    return buffer.getvalue()


def with_column(name: str, values: pa.Array) -> bytes:
    return rewritten(
        lambda table: table.set_column(table.schema.get_field_index(name), name, values)
    )


def test_what_was_written_is_read_back() -> None:
    golden = read_golden(write_golden(CASES), None, where="golden.parquet")
    assert golden.cases == CASES
    assert golden.safety_weight is None


def test_tensors_keep_shape_and_values() -> None:
    image = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    read = (
        read_golden(write_golden([replace(PLAIN, payload=image)]), None, where="g").cases[0].payload
    )
    np.testing.assert_array_equal(read, image)


def test_the_safety_head_is_read_beside_the_cases() -> None:
    head = write_safety_head(np.array([1, -2], np.float32), 0.5)
    golden = read_golden(write_golden(CASES), head, where="g")
    np.testing.assert_array_equal(golden.safety_weight, np.array([1, -2], np.float32))
    assert golden.safety_bias == 0.5


def test_the_digest_covers_both_files() -> None:
    cases, head = write_golden(CASES), write_safety_head(np.ones(2, np.float32), 0.0)
    other = write_safety_head(np.ones(2, np.float32), 1.0)
    digests = {
        read_golden(cases, None, where="g").digest,
        read_golden(cases, head, where="g").digest,
        read_golden(cases, other, where="g").digest,
        read_golden(write_golden([PLAIN]), head, where="g").digest,
    }
    assert len(digests) == 4
    assert read_golden(cases, head, where="g").digest in digests


def test_more_columns_are_ignored() -> None:
    data = rewritten(lambda table: table.append_column("note", pa.array(["x"] * len(CASES))))
    assert read_golden(data, None, where="g").cases == CASES


@pytest.mark.parametrize("cut", [0, 1, 100, -1])
def test_a_truncated_file_is_refused(cut: int) -> None:
    with pytest.raises(BadInput, match=r"^golden\.parquet is not a readable Parquet file"):
        read_golden(write_golden(CASES)[:cut], None, where="golden.parquet")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            lambda: with_column("label", pa.array([1, 2, 3, 4])),
            "the column label is int64: it must be string",
        ),
        (
            lambda: rewritten(lambda table: table.drop_columns(["kind"])),
            "the column kind is missing",
        ),
        (lambda: rewritten(lambda table: table.replace_schema_metadata({})), "golden version ''"),
        (
            lambda: rewritten(
                lambda table: table.replace_schema_metadata({"requant.golden.version": "2"})
            ),
            "golden version '2'",
        ),
        (
            lambda: with_column("kind", pa.array(["plain", "passage", "query", "odd"])),
            "the kind 'odd' is unknown",
        ),
        (
            lambda: with_column("language", pa.array(["en", None, "en", "en"])),
            "case 'a1': the language is empty",
        ),
        (lambda: with_column("case_id", pa.array(["p1", None, "x", "y"])), "the case_id is empty"),
        (
            lambda: with_column("text", pa.array(["x", None, "y", "z"])),
            "case 'a1': the input is neither",
        ),
    ],
)
def test_wrong_content_is_refused_with_place_and_remedy(
    data: Callable[[], bytes], message: str
) -> None:
    with pytest.raises(BadInput, match=re.escape(message)) as caught:
        read_golden(data(), None, where="golden.parquet")
    assert str(caught.value).startswith("golden.parquet")
    assert "\n" not in str(caught.value)


def test_a_tensor_of_impossible_shape_is_refused() -> None:
    row = {"case_id": "p", "tensor": bytes(16), "shape": [-2, -2], "dtype": "float32"}
    row |= {"domain": "d", "language": "l", "kind": "plain"}
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), buffer)
    with pytest.raises(BadInput, match="case 'p'"):
        read_golden(buffer.getvalue(), None, where="g")


def test_a_tensor_with_nan_is_refused() -> None:
    data = write_golden([replace(PLAIN, payload=np.array([1, np.nan], np.float32))])
    with pytest.raises(BadInput, match="NaN"):
        read_golden(data, None, where="g")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        ((), "holds no cases"),
        ((PLAIN, PLAIN), "holds 'p1' more than once"),
        ((QUERY,), "names 'a1', which is no passage"),
        ((replace(QUERY, relevant=("p1",)), PLAIN), "names 'p1', which is no passage"),
        ((replace(QUERY, relevant=()),), "a query needs at least one"),
        ((replace(PLAIN, relevant=("a1",)), PASSAGE), "`relevant` belongs to queries"),
        ((replace(SAFETY, label=None),), "the label of a safety case is None"),
        ((replace(SAFETY, label="maybe"),), "the label of a safety case is 'maybe'"),
    ],
)
def test_cases_that_contradict_each_other_are_refused(
    cases: tuple[GoldenCase, ...], message: str
) -> None:
    with pytest.raises(BadInput, match=re.escape(message)):
        write_golden(cases)


def test_an_empty_file_is_refused_when_read() -> None:
    with pytest.raises(BadInput, match="holds no cases"):
        read_golden(rewritten(lambda table: table.slice(0, 0)), None, where="g")


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"garbage",
        write_safety_head(np.ones(4, np.float32), 0.0)[:-3],
        safetensors.save({"weight": np.ones(4, np.float32)}),
        safetensors.save({"weight": np.ones((2, 2), np.float32), "bias": np.ones(1, np.float32)}),
        safetensors.save({"weight": np.ones(4, np.float32), "bias": np.ones(2, np.float32)}),
        safetensors.save({"weight": np.ones(4, np.float64), "bias": np.ones(1, np.float32)}),
        write_safety_head(np.array([1, np.inf], np.float32), 0.0),
    ],
)
def test_a_wrong_safety_head_is_refused(head: bytes) -> None:
    with pytest.raises(BadInput, match=r"^the safety head of golden\.parquet"):
        read_golden(write_golden(CASES), head, where="golden.parquet")
