from __future__ import annotations

import numpy as np

from tasks.serving.comparing import LiveComparison

CLASSES = LiveComparison(("logits",), "agreement", classes=True)
HEAD = LiveComparison(("e",), "cosine", safety_weight=np.array([1.0, 0.0], np.float32))


def test_classes_agree_or_flip() -> None:
    before = {"logits": np.array([[2.0, 1.0], [0.0, 1.0]], np.float32)}
    after = {"logits": np.array([[3.0, 1.0], [1.0, 0.5]], np.float32)}
    fidelity, same = CLASSES.scores(before, after)
    assert fidelity.tolist() == same.tolist() == [1.0, 0.0]


def test_embeddings_have_a_cosine_and_a_safety_heads_decision() -> None:
    fidelity, same = HEAD.scores(
        {"e": np.array([[1.0, 0.0]], np.float32)}, {"e": np.array([[-1.0, 0.0]], np.float32)}
    )
    assert (fidelity.tolist(), same.tolist()) == ([0.0], [0.0])


def test_no_answer_and_one_that_is_no_number_are_the_worst_there_is() -> None:
    before = {"logits": np.array([[2.0, 1.0]], np.float32)}
    for after in (None, {}, {"logits": np.array([[np.nan, 1.0]])}, {"logits": np.zeros((1, 3))}):
        fidelity, same = CLASSES.scores(before, after)
        assert fidelity.tolist() == same.tolist() == [0.0]
