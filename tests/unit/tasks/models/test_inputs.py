"""From payloads to feeds: nothing is lost, reordered or padded into the answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from infra.errors import BadInput
from tasks.models.batches import BATCH
from tasks.models.inputs import ImageInputs, TextInputs, open_inputs, run_all
from tasks.specs.spec import load_spec

EXAMPLES = Path(__file__).parents[4] / "examples"
WORDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {f"w{i}": i + 3 for i in range(50)}


def tokenizer(*, special: bool = True) -> bytes:
    built = Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    if special:
        ends = [("[CLS]", 1), ("[SEP]", 2)]
        built.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=ends
        )
    return bytes(built.to_str().encode())


def text(length: int, start: int = 0) -> str:
    return " ".join(f"w{(start + i) % 50}" for i in range(length))


class SumOfTokens:
    """An engine that answers each text's sum of real token ids, and how many there were."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        ids, mask = (
            np.asarray(feeds[name], np.float32) for name in ("input_ids", "attention_mask")
        )
        return {
            "sentence_embedding": np.stack([(ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1)
        }


@given(st.lists(st.integers(0, 40), max_size=60))
def test_answers_come_back_in_the_order_of_the_payloads(lengths: list[int]) -> None:
    payloads = [text(length, start) for start, length in enumerate(lengths)]
    found = run_all(SumOfTokens(), TextInputs(tokenizer(), 64), payloads)
    wanted = [
        (3 + sum((start + i) % 50 + 3 for i in range(n)), n + 2) for start, n in enumerate(lengths)
    ]
    assert found.reshape(-1, 2).tolist() == [list(map(float, pair)) for pair in wanted]


def test_every_text_is_in_exactly_one_batch_with_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    batches = list(TextInputs(tokenizer(), 64).batches([text(int(n)) for n in lengths]))
    assert sorted(int(case) for batch in batches for case in batch.cases) == list(range(100))
    assert all(len(batch.cases) <= BATCH for batch in batches)
    padded = sum(batch.feeds["input_ids"].size for batch in batches)
    assert padded < 1.15 * (lengths + 2).sum()


def test_the_mask_is_true_exactly_where_a_token_is_real() -> None:
    (batch,) = TextInputs(tokenizer(), 64).batches([text(1), text(5)])
    assert batch.mask is not None
    assert batch.mask.sum(axis=1).tolist() == [3, 7]
    assert (batch.mask == batch.feeds["attention_mask"].astype(bool)).all()
    assert (batch.feeds["input_ids"][~batch.mask] == 0).all()


@pytest.mark.parametrize("length", [3, 8])
def test_long_texts_are_cut_to_the_longest_length_and_keep_their_ends(length: int) -> None:
    (batch,) = TextInputs(tokenizer(), length).batches([text(30)])
    ids = batch.feeds["input_ids"]
    assert ids.shape == (1, length)
    assert (ids[0, 0], ids[0, -1]) == (1, 2)


@pytest.mark.parametrize("length", [1, 2])
def test_a_length_that_the_tokenizers_own_tokens_use_up_is_bad_input(length: int) -> None:
    with pytest.raises(BadInput, match=f"max_length is {length}, and 2 of these"):
        TextInputs(tokenizer(), length)


def test_an_empty_text_still_fits_the_engines_profile() -> None:
    inputs = TextInputs(tokenizer(special=False), 8)
    (batch,) = inputs.batches([""])
    smallest = inputs.profile["input_ids"].smallest
    assert batch.feeds["input_ids"].shape >= smallest
    assert not batch.feeds["attention_mask"].any()


@given(st.integers(3, 200), st.lists(st.integers(0, 80), min_size=1, max_size=40))
def test_every_batch_lies_within_the_profile(length: int, lengths: list[int]) -> None:
    inputs = TextInputs(tokenizer(), length)
    shapes = inputs.profile["input_ids"]
    assert shapes.smallest <= shapes.common
    for batch in inputs.batches([text(n) for n in lengths]):
        for low, found, high in zip(
            shapes.smallest, batch.feeds["input_ids"].shape, shapes.largest, strict=True
        ):
            assert low <= found <= high


def test_a_tensor_given_to_a_text_model_is_bad_input() -> None:
    with pytest.raises(BadInput, match="given a tensor"):
        list(TextInputs(tokenizer(), 8).batches(["w1", np.zeros(3, np.float32)]))


def test_a_text_that_is_no_unicode_is_bad_input() -> None:
    with pytest.raises(BadInput, match="could not read a text"):
        list(TextInputs(tokenizer(), 8).batches(["\ud800"]))


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff\xfe\x00", b"not json"])
def test_a_broken_tokenizer_is_bad_input(data: bytes) -> None:
    with pytest.raises(BadInput, match="not a tokenizers JSON file"):
        TextInputs(data, 8)


def test_a_missing_tokenizer_is_bad_input() -> None:
    with pytest.raises(BadInput, match="tokenizer is missing"):
        open_inputs(load_spec(EXAMPLES / "minilm" / "model.yaml"), None)


# --- Images ---------------------------------------------------------------------------------------
# --------------------


class Means:
    """An engine whose answer for each image is its mean."""

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        return {"logits": np.asarray(feeds["image"], np.float32).mean(axis=(1, 2, 3))[:, None]}


@pytest.mark.parametrize("count", [0, 1, BATCH, BATCH + 1, 50])
def test_images_come_back_in_order(count: int) -> None:
    images = [np.full((1, 2, 2), i, np.float32) for i in range(count)]
    assert run_all(Means(), ImageInputs((1, 2, 2)), images).reshape(-1).tolist() == list(
        range(count)
    )


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        ("a text", "was given a text"),
        (np.zeros((3, 2, 2), np.float32), r"shape \(3, 2, 2\)"),
        (np.zeros((2, 2), np.float32), r"shape \(2, 2\)"),
    ],
)
def test_another_payload_than_an_image_of_the_shape_is_bad_input(
    payload: object, says: str
) -> None:
    with pytest.raises(BadInput, match=says):
        list(ImageInputs((1, 2, 2)).batches([payload]))  # type: ignore[list-item]  # wrong on purpose


class Answering:
    """An engine that answers whatever it was told to."""

    def __init__(self, outputs: dict[str, NDArray[np.float32]]) -> None:
        self._outputs = outputs

    def run(self, feeds: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        return self._outputs


@pytest.mark.parametrize("outputs", [{"other": np.zeros((1, 2))}, {"logits": np.zeros((3, 2))}])
def test_an_engine_without_one_row_a_case_is_bad_input(
    outputs: dict[str, NDArray[np.float32]],
) -> None:
    with pytest.raises(BadInput, match="one row of 'logits' a case"):
        run_all(Answering(outputs), ImageInputs((1, 2, 2)), [np.zeros((1, 2, 2), np.float32)])
