"""Each metric is computed on the cases that it is meant for."""

from dataclasses import replace

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.records import CaseKind, GoldenCase, GoldenSet
from tasks.specs.spec import Task
from tasks.validation.metrics.golden import evaluate

TEXT, IMAGE = Task.TEXT_EMBEDDING, Task.IMAGE_CLASSIFICATION
HEAD = np.array([0, 0, 1], np.float32)


def case(name: str, kind: CaseKind = CaseKind.PLAIN, **fields: object) -> GoldenCase:
    return replace(GoldenCase(name, name, "docs", "en", kind), **fields)


TEXTS = GoldenSet(
    (
        case("plain"),
        *(case(f"p{n}", CaseKind.PASSAGE) for n in range(7)),
        case("q", CaseKind.QUERY, relevant=("p0", "p6")),
        case("bad", CaseKind.SAFETY, label="blocked"),
        case("good", CaseKind.SAFETY, label="allowed"),
    ),
    "digest",
    HEAD,
    -0.5,
)


def embeddings() -> np.ndarray:
    """Build embeddings whose query [1, 0, 0] is nearest to p0, then p1, ..., p6."""
    angles = np.concatenate([[0.3], np.arange(7) * 0.1, [0.0]])
    rows = np.stack([np.cos(angles), np.sin(angles), np.zeros(9)], axis=1)
    return np.concatenate([rows, [[0, 0, 1], [0, 1, 0]]]).astype(np.float32)


def test_an_identical_candidate_loses_nothing() -> None:
    scores = evaluate(TEXT, TEXTS, embeddings(), embeddings())
    np.testing.assert_allclose(scores["cosine"].values, 1)
    for metric in ("recall-drop", "flips", "safety-flips"):
        assert not scores[metric].values.any()


def test_safety_cases_are_judged_by_their_own_metric_only() -> None:
    scores = evaluate(TEXT, TEXTS, embeddings(), embeddings())
    assert scores["cosine"].cases.tolist() == list(range(9))
    assert scores["safety-flips"].cases.tolist() == [9, 10]


def test_recall_drop_is_what_full_precision_found_and_the_candidate_lost() -> None:
    candidate = embeddings()
    candidate[1] = [-1, 0, 0]  # p0 is now the farthest, and p5 is among the five nearest
    scores = evaluate(TEXT, TEXTS, embeddings(), candidate)
    assert scores["recall-reference"].values.tolist() == [0.5]
    assert scores["recall-candidate"].values.tolist() == [0.0]
    assert scores["recall-drop"].values.tolist() == [0.5]
    assert scores["flips"].values.tolist() == [1.0]
    assert scores["recall-drop"].cases.tolist() == [8]


def test_each_side_searches_its_own_passages() -> None:
    candidate = embeddings() @ np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]], np.float32)
    scores = evaluate(TEXT, TEXTS, embeddings(), candidate)
    assert scores["recall-drop"].values.tolist() == [0.0]
    assert scores["cosine"].values.min() < 0.5


def test_a_safety_flip_is_a_changed_decision() -> None:
    candidate = embeddings()
    candidate[9] = [1, 0, 0]
    assert evaluate(TEXT, TEXTS, embeddings(), candidate)["safety-flips"].values.tolist() == [
        1.0,
        0.0,
    ]


def test_metrics_without_cases_are_absent() -> None:
    bare = GoldenSet((case("a"), case("b")), "digest")
    assert set(evaluate(TEXT, bare, embeddings()[:2], embeddings()[:2])) == {"cosine"}
    headless = replace(TEXTS, safety_weight=None)
    assert "safety-flips" not in evaluate(TEXT, headless, embeddings(), embeddings())
    only_safety = replace(TEXTS, cases=TEXTS.cases[-2:])
    assert set(evaluate(TEXT, only_safety, embeddings()[-2:], embeddings()[-2:])) == {
        "safety-flips"
    }


IMAGES = GoldenSet((case("a", label="0"), case("b"), case("c", label="1")), "digest")
LOGITS = np.array([[2, 1], [2, 1], [2, 1]], np.float32)
CANDIDATE = np.array([[1, 2], [2, 1], [1, 2]], np.float32)


def test_classification_counts_flips_on_all_and_accuracy_on_labelled_cases() -> None:
    scores = evaluate(IMAGE, IMAGES, LOGITS, CANDIDATE)
    assert scores["flips"].values.tolist() == [1, 0, 1]
    assert scores["accuracy-drop"].values.tolist() == [1, -1]
    assert scores["accuracy-drop"].cases.tolist() == [0, 2]
    assert scores["accuracy-reference"].values.tolist() == [1, 0]
    assert scores["accuracy-candidate"].values.tolist() == [0, 1]


def test_without_labels_only_flips_are_left() -> None:
    assert set(evaluate(IMAGE, GoldenSet((case("a"),), "d"), LOGITS[:1], CANDIDATE[:1])) == {
        "flips"
    }


@pytest.mark.parametrize("label", ["2", "-1", "cat", "1.0", "", "²"])
def test_a_label_that_is_no_class_is_refused(label: str) -> None:
    with pytest.raises(BadInput, match="class number from 0 to 1"):
        evaluate(IMAGE, GoldenSet((case("a", label=label),), "d"), LOGITS[:1], CANDIDATE[:1])


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("side", [0, 1])
def test_nan_anywhere_is_refused(task: Task, side: int) -> None:
    pair = [LOGITS, LOGITS.copy()]
    pair[side] = np.where(np.eye(3, 2) > 0, np.nan, LOGITS)
    with pytest.raises(BadInput, match="NaN"):
        evaluate(task, IMAGES, *pair)


def test_outputs_must_cover_all_cases() -> None:
    with pytest.raises(BadInput, match="2 candidate outputs for 3 golden cases"):
        evaluate(IMAGE, IMAGES, LOGITS, LOGITS[:2])
