"""Candidate and full precision, token by token."""

from typing import Any

import numpy as np
import pytest
import torch

from infra.errors import BadInput
from tasks.models.decoding.comparison import compare

TEXTS = ["Quantized models go stale.", "モデル", "def add(x):\n    return x + 1\n", "a"]


class Warped:
    """An engine whose logits are changed."""

    def __init__(self, engine: Any, change: Any) -> None:
        self._engine, self._change = engine, change

    def run(self, feeds: Any) -> Any:
        outputs = dict(self._engine.run(feeds))
        return {**outputs, "logits": self._change(outputs["logits"])}


def test_an_engine_agrees_with_itself(small: Any) -> None:
    made = small("llama")
    found = compare(made.engine, made.engine, made.inputs, TEXTS)
    assert (found.agreement == 1).all()
    assert (found.divergence == 0).all()
    assert (found.reference_loss == found.candidate_loss).all()


def test_the_loss_is_torchs_cross_entropy(small: Any) -> None:
    made = small("llama")
    found = compare(made.engine, made.engine, made.inputs, TEXTS)
    for text, loss in zip(TEXTS, found.reference_loss, strict=True):
        ids = torch.tensor(made.inputs.encode([text]))[:, : made.inputs.max_length]
        with torch.no_grad():
            assert loss == pytest.approx(
                float(made.model(input_ids=ids, labels=ids).loss), abs=1e-4
            )


def test_the_divergence_is_the_formulas(small: Any) -> None:
    made = small("llama")
    halved = Warped(made.engine, lambda logits: logits / 2)
    found = compare(made.engine, halved, made.inputs, TEXTS[:1])
    ids = torch.tensor(made.inputs.encode(TEXTS[:1]))[:, : made.inputs.max_length]
    with torch.no_grad():
        logits = made.model(input_ids=ids).logits[0]
    expected = torch.nn.functional.kl_div(
        (logits / 2).log_softmax(-1), logits.softmax(-1), reduction="none"
    ).sum(-1)
    assert found.divergence[0] == pytest.approx(float(expected.mean()), rel=1e-3)
    assert found.agreement[0] == 1


def test_outputs_that_cannot_be_compared_raise(small: Any) -> None:
    made = small("llama")
    with pytest.raises(BadInput, match="NaN or infinity"):
        compare(
            made.engine, Warped(made.engine, lambda logits: logits * np.nan), made.inputs, TEXTS
        )
    with pytest.raises(BadInput, match="full precision's"):
        compare(
            made.engine, Warped(made.engine, lambda logits: logits[..., :9]), made.inputs, TEXTS
        )


def test_a_tensor_is_no_text(small: Any) -> None:
    with pytest.raises(BadInput, match="was given a tensor"):
        compare(
            small("llama").engine,
            small("llama").engine,
            small("llama").inputs,
            [np.zeros(3, np.float32)],
        )
