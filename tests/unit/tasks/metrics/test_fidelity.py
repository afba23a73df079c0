"""Scores say what they claim on small cases, and outputs that are not numbers have none."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from infra.errors import BadInput
from tasks.metrics.classification import accuracy
from tasks.metrics.embeddings import nearest_passages, recall_at_k, safety_decisions
from tasks.metrics.fidelity import fidelity, fidelity_metric
from tasks.specs.spec import Task

TEXT, IMAGE = Task.TEXT_EMBEDDING, Task.IMAGE_CLASSIFICATION
EYE = np.eye(3, dtype=np.float32)


def test_each_task_has_its_own_fidelity() -> None:
    assert (fidelity_metric(TEXT), fidelity_metric(IMAGE)) == ("cosine", "agreement")


def test_fidelity_of_embeddings_is_their_cosine() -> None:
    found = fidelity(TEXT, [[1, 0], [1, 0], [1, 0], [1, 0]], [[2, 0], [0, 1], [-1, 0], [1, 1]])
    np.testing.assert_allclose(found, [1, 0, -1, np.sqrt(0.5)])


def test_fidelity_of_logits_is_agreement_on_the_class() -> None:
    np.testing.assert_array_equal(fidelity(IMAGE, [[1, 2], [3, 1]], [[5, 9], [0, 1]]), [1, 0])


def test_no_cases_have_no_scores() -> None:
    assert fidelity(TEXT, np.zeros((0, 3)), np.zeros((0, 3))).shape == (0,)


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_an_output_that_is_not_finite_is_never_scored(task: Task, bad: float, side: str) -> None:
    broken = EYE.copy()
    broken[1, 2] = bad
    pair = (broken, EYE) if side == "reference" else (EYE, broken)
    with pytest.raises(
        BadInput, match=rf"the {side} output of case 1 \(1 of 3 cases\) holds NaN or infinity"
    ):
        fidelity(task, *pair)


def test_an_embedding_of_zeros_has_no_direction() -> None:
    with pytest.raises(BadInput, match="all zeros"):
        fidelity(TEXT, EYE, np.zeros((3, 3)))


@pytest.mark.parametrize("shape", [(2, 3), (3, 2), (3,), (3, 3, 1)])
@pytest.mark.parametrize("task", list(Task))
def test_outputs_of_other_shapes_are_refused(task: Task, shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="outputs are"):
        fidelity(task, EYE, np.ones(shape))


@settings(max_examples=50, deadline=None)
@given(
    arrays.arrays(np.float32, (4, 5), elements=st.floats(0.125, 100, width=32)),
    st.floats(0.01, 100),
)
def test_cosine_ignores_length_and_stays_in_range(rows: np.ndarray, factor: float) -> None:
    found = fidelity(TEXT, rows, rows.astype(np.float64) * factor)
    np.testing.assert_allclose(found, 1, atol=1e-9)
    assert (np.abs(fidelity(TEXT, rows, rows[::-1])) <= 1).all()


def test_the_safety_head_blocks_above_zero() -> None:
    found = safety_decisions([[1, 0], [0, 1], [0.5, 0]], np.array([1, -1]), -0.5)
    np.testing.assert_array_equal(found, [True, False, False])


def test_a_safety_head_of_another_width_is_refused() -> None:
    with pytest.raises(BadInput, match="the safety head has weight"):
        safety_decisions(EYE, np.ones(2), 0.0)


def test_a_safety_decision_on_nan_is_refused() -> None:
    with pytest.raises(BadInput, match="not finite"):
        safety_decisions(EYE, np.ones(3), float("nan"))
    with pytest.raises(BadInput, match="NaN or infinity"):
        safety_decisions(EYE * np.nan, np.ones(3), 0.0)


def test_accuracy_is_one_where_the_label_wins() -> None:
    np.testing.assert_array_equal(accuracy(EYE, [0, 2, 2]), [1, 0, 1])


def test_accuracy_needs_a_label_for_every_output() -> None:
    with pytest.raises(BadInput, match="2 labels for 3 outputs"):
        accuracy(EYE, [0, 1])


def test_recall_is_the_share_of_relevant_passages_found() -> None:
    queries, passages = EYE[:2], np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0, 1]])
    np.testing.assert_array_equal(recall_at_k(queries, passages, [{0, 3}, {2}], k=2), [0.5, 1])


def test_passages_of_equal_score_keep_their_order() -> None:
    nearest = nearest_passages(EYE[:1], np.repeat(np.array([[0, 1, 0], [1, 0, 0]]), 100, axis=0), 5)
    assert nearest.tolist() == [[100, 101, 102, 103, 104]]


def test_asking_for_more_passages_than_there_are_finds_all() -> None:
    np.testing.assert_array_equal(recall_at_k(EYE, EYE, [{0}, {1}, {0, 1, 2}], k=50), [1, 1, 1])


@pytest.mark.parametrize("relevant", [[{0}, set(), {1}], [{0}]])
def test_a_query_without_relevant_passages_is_refused(relevant: list[set[int]]) -> None:
    with pytest.raises(BadInput, match="at least one relevant passage"):
        recall_at_k(EYE, EYE, relevant)


def test_queries_and_passages_of_different_models_are_refused() -> None:
    with pytest.raises(BadInput, match="embed both with one model"):
        recall_at_k(EYE, np.ones((2, 4)), [{0}] * 3)
