"""Scores of logits where they were computed, beside those that engines of graphs get."""

import numpy as np
import pytest
import torch

from infra.errors import BadInput
from tasks.layerwise.scoring import scores_of_text
from tasks.metrics.next_token import scores_of_logits

VOCABULARY = 50


@pytest.mark.parametrize("tokens", [1, 2, 31, 70])
@pytest.mark.parametrize("counts", [False, True])
def test_both_ways_of_scoring_find_the_same(tokens: int, counts: bool) -> None:
    rng = np.random.default_rng(tokens)
    ids = rng.integers(0, VOCABULARY, (1, tokens))
    sides = rng.normal(size=(2, 1, tokens, VOCABULARY)).astype(np.float32) * 4
    counted = (rng.random(tokens) < 0.5).tolist() if counts else None
    chosen = None if counted is None else np.asarray([counted])
    expected = scores_of_logits(ids, np.ones((1, tokens), bool), *sides, chosen)
    found = scores_of_text(torch.from_numpy(ids), *map(torch.from_numpy, sides), counted)
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_logits_that_are_no_numbers_are_refused() -> None:
    logits = torch.zeros(1, 3, VOCABULARY)
    broken = logits.clone()
    broken[0, 1, 7] = torch.nan
    with pytest.raises(BadInput, match="the logits of the candidate hold NaN"):
        scores_of_text(torch.zeros(1, 3, dtype=torch.long), logits, broken, None)
