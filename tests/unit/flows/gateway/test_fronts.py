"""What a language model reads by tensors and by texts is bounded by what it reads at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flows.gateway.fronts import LanguageFront
from infra.errors import BadInput
from tasks.models.language import inputs as language_inputs
from tasks.models.language.inputs import LanguageInputs
from tasks.models.language.layout import CacheLayout
from tests.language_folders import tokenizer

ENGINE: Any = None
READ = LanguageInputs(
    tokenizer().to_str().encode(), CacheLayout(((1, 4),), ()), max_length=8, new_tokens=4
)
FRONT = LanguageFront("m", ENGINE, READ)


def ids(new: int, past: int = 0) -> dict[str, Any]:
    return {"input_ids": np.ones((1, new), np.int64), "past_mask": np.ones((1, past), np.int64)}


@pytest.mark.parametrize(("new", "past"), [(13, 0), (1, 12), (100_000, 0)])
def test_tokens_are_no_more_than_the_model_reads_and_writes(new: int, past: int) -> None:
    with pytest.raises(BadInput, match=rf"hold {new + past} tokens: this model reads 8 and writes"):
        FRONT.feeds(ids(new, past))


def test_tokens_that_fit_pass_as_they_are() -> None:
    assert FRONT.feeds(ids(1, 11)).keys() == {"input_ids", "past_mask"}


def test_texts_keep_their_order_however_large_their_logits_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(language_inputs, "LOGITS_AT_ONCE", 1)
    texts = ["the cat sat on the mat", "the cat", "the mat sat"]
    assert len(list(READ.batches(texts))) == 3
    lengths = [len(row) for row in READ.encode(texts)]
    mask = FRONT.feeds({"text": np.asarray(texts, object)})["attention_mask"]
    assert np.asarray(mask).sum(axis=1).tolist() == [min(length, 8) for length in lengths]
    with pytest.raises(BadInput, match="17 texts were sent: send 1 to 16"):
        FRONT.feeds({"text": np.asarray(["the cat"] * 17, object)})
