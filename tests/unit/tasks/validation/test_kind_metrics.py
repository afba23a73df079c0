"""What recognizers and image encoders score on golden cases."""

from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.models.vision.classes import Classes
from tasks.records import GoldenCase, GoldenSet, Verdict
from tasks.specs.spec import Budgets
from tasks.validation.gates import metric_gates
from tasks.validation.metrics.speech import SpeechOutputs, Transcript, evaluate_speech
from tasks.validation.metrics.vision import evaluate_vision

WORDS = {1: "one", 2: "two", 3: "three"}
CLASSES = Classes(("x", "y"), np.eye(2, dtype=np.float32))


def golden(*labels: str | None) -> GoldenSet:
    nothing = np.zeros(1, np.float32)
    return GoldenSet(
        tuple(GoldenCase(str(n), nothing, "d", "en", label=one) for n, one in enumerate(labels)), ""
    )


def wrote(*ids: int) -> Transcript:
    return Transcript(ids, " ".join(WORDS[one] for one in ids))


def budgets(**rule: Any) -> Budgets:
    return Budgets.model_validate({"latency_ratio": 1, "size_ratio": 1, "quality": [rule]})


def test_error_rates_are_against_the_label_or_against_full_precisions_own_transcript() -> None:
    outputs = SpeechOutputs(
        np.array([1.0, 0.5]), [wrote(1, 2), wrote(1, 2)], [wrote(1, 3), wrote(1, 2, 2)]
    )
    scores = evaluate_speech(golden("one two", None), outputs)
    assert scores["token-error-rate"].values.tolist() == [0.5, 0.5]
    assert scores["wer-increase"].values.tolist() == [0.5]
    assert scores["wer-increase"].cases.tolist() == [0]
    assert (scores["wer-reference"].values.tolist(), scores["wer-candidate"].values.tolist()) == (
        [0.0],
        [0.5],
    )


def test_a_candidate_that_mends_an_error_has_a_negative_increase() -> None:
    outputs = SpeechOutputs(np.ones(1), [wrote(1)], [wrote(2)])
    assert evaluate_speech(golden("two"), outputs)["wer-increase"].values.tolist() == [-1.0]


def test_without_labels_there_is_no_word_error_rate_and_its_gate_is_inconclusive() -> None:
    outputs = SpeechOutputs(np.ones(1), [wrote(1)], [wrote(1)])
    scores = evaluate_speech(golden(None), outputs)
    assert set(scores) == {"agreement", "token-error-rate"}
    (gate, *_) = metric_gates(
        scores, golden(None), budgets(metric="wer-increase", at_most=0.1), served=frozenset()
    )
    assert gate.verdict is Verdict.INCONCLUSIVE


def test_no_error_in_few_recordings_proves_little() -> None:
    same, many = [wrote(1)] * 12, golden(*["one"] * 12)
    scores = evaluate_speech(many, SpeechOutputs(np.ones(12), same, same))
    rule = budgets(metric="wer-increase", at_most=0.05)
    gate = next(
        one for one in metric_gates(scores, many, rule, served=frozenset()) if one.group == "all"
    )
    assert gate.estimate is not None
    assert gate.estimate.value == 0.0
    assert gate.verdict is Verdict.INCONCLUSIVE


def test_images_are_judged_by_direction_by_nearest_class_and_by_label() -> None:
    reference = np.array([[1, 0.1], [0.1, 1], [1, 0.9]], np.float32)
    candidate = np.array([[1, 0.1], [0.1, 1], [0.9, 1]], np.float32)
    scores = evaluate_vision(golden("x", "x", "x"), reference, candidate, CLASSES)
    assert scores["cosine"].values[:2] == pytest.approx(1)
    assert scores["flips"].values.tolist() == [0, 0, 1]
    assert scores["accuracy-reference"].values.tolist() == [1, 0, 1]
    assert scores["accuracy-drop"].values.tolist() == [0, 0, 1]


def test_without_classes_only_the_direction_is_judged_and_an_unknown_label_is_refused() -> None:
    outputs = np.eye(2, dtype=np.float32)
    assert set(evaluate_vision(golden(None, None), outputs, outputs, None)) == {"cosine"}
    assert set(evaluate_vision(golden(None, None), outputs, outputs, CLASSES)) == {
        "cosine",
        "flips",
    }
    with pytest.raises(BadInput, match="'z' is none of the 2 classes"):
        evaluate_vision(golden("x", "z"), outputs, outputs, CLASSES)
