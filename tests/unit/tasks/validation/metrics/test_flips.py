"""Flipped golden cases are told by short, redacted examples, few of each group."""

import numpy as np
import pytest

from tasks.models.decoding.comparison import Comparison
from tasks.models.vision.classes import Classes
from tasks.records import CaseKind, FlippedAnswers, GateReport, GoldenCase, GoldenSet
from tasks.specs.custom import MetricSpec
from tasks.specs.spec import Task
from tasks.validation.metrics.custom import CustomOutputs, evaluate_custom
from tasks.validation.metrics.flips import (
    LONGEST,
    MOST,
    PER_GROUP,
    flipped,
    flips_of_outputs,
    flips_of_records,
    flips_of_texts,
    flips_of_transcripts,
)
from tasks.validation.metrics.golden import CaseScores, evaluate
from tasks.validation.metrics.language import LanguageOutputs, evaluate_language
from tasks.validation.metrics.speech import SpeechOutputs, Transcript, evaluate_speech
from tasks.validation.report import from_json, to_json

PERSONAL = "write to jane.doe@example.org, card 4111 1111 1111 1111, IBAN DE89370400440532013000"
SECRETS = ("jane", "4111", "DE89")


def cases(*payloads: object, domain: str = "mail") -> tuple[GoldenCase, ...]:
    return tuple(
        GoldenCase(f"case-{n}", payload, domain, "en")  # type: ignore[arg-type]
        for n, payload in enumerate(payloads)
    )


def ones(count: int) -> CaseScores:
    return CaseScores(np.ones(count), np.arange(count))


def same(texts: int) -> Comparison:
    """Both models predict the texts alike."""
    return Comparison(*(np.ones(texts) for _ in range(4)), np.full(texts, 9))


def test_personal_data_of_inputs_labels_and_answers_is_not_kept() -> None:
    case = GoldenCase(PERSONAL, PERSONAL, PERSONAL, "en", label=PERSONAL)
    golden = GoldenSet((case,), "")
    kept = flipped("flips", ones(1), golden, lambda _: (PERSONAL, f"{PERSONAL} again"))
    written = to_json(GateReport("onnxruntime-cpu", (), (kept,)))
    assert not [secret for secret in SECRETS if secret in written]
    assert written.count("<EMAIL>") == 6
    assert from_json(written).flips == (kept,)


def test_what_is_cut_off_is_redacted_before() -> None:
    text = "x" * (LONGEST - 5) + " jane.doe@example.org"
    (example,) = flipped("flips", ones(1), GoldenSet(cases(text), ""), lambda _: ("", "")).examples
    assert "jane" not in example.input
    assert len(example.input) == LONGEST


def test_a_group_has_few_examples_the_worst_and_all_are_counted() -> None:
    golden = GoldenSet((*cases(*"abcdefgh"), *cases("i", domain="code")), "")
    scores = CaseScores(np.array([0.1, 0.9, 0, 0.8, 0.7, 0.2, 0, 0.3, 0.05]), np.arange(9))
    kept = flipped("code-drop", scores, golden, lambda place: (place, -place))
    assert (kept.count, kept.cases) == (7, 9)
    assert [case.input for case in kept.examples] == ["b", "d", "e", "i"]
    assert [case.full_precision for case in kept.examples] == ["1", "3", "4", "8"]


def test_examples_are_bounded_however_many_groups_there_are() -> None:
    many = tuple(GoldenCase(str(n), "a", f"d{n % 40}", "en") for n in range(400))
    kept = flipped("flips", ones(400), GoldenSet(many, ""), lambda _: ("x" * 9999, "y"))
    assert len(kept.examples) == MOST
    assert kept.count == 400
    assert len(to_json(GateReport("t", (), (kept,)))) < MOST * 8 * LONGEST
    assert PER_GROUP * 40 > MOST


def test_a_classifier_answers_with_its_class_and_its_input_is_a_shape() -> None:
    golden = GoldenSet(cases(np.zeros((1, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)), "")
    before = np.array([[3.0, 1, 0], [0, 1, 0]], np.float32)
    after = np.array([[1.0, 3, 0], [0, 1, 0]], np.float32)
    scores = evaluate(Task.IMAGE_CLASSIFICATION, golden, before, after)
    (kept,) = flips_of_outputs(golden, scores, (before, after))
    (example,) = kept.examples
    assert (kept.count, kept.cases) == (1, 2)
    assert (example.full_precision, example.candidate) == ("0", "1")
    assert example.input == "shape (1, 8, 8)"
    classes = Classes(("cat", "dog"), np.eye(2, 3, dtype=np.float32))
    (named,) = flips_of_outputs(golden, {"flips": scores["flips"]}, (before, after), classes)
    assert (named.examples[0].full_precision, named.examples[0].candidate) == ("cat", "dog")


def test_a_search_answers_with_the_nearest_passage_and_a_guard_with_its_decision() -> None:
    golden = GoldenSet(
        (
            GoldenCase("q", "where?", "d", "en", CaseKind.QUERY, relevant=("p1",)),
            GoldenCase("p1", "here", "d", "en", CaseKind.PASSAGE),
            GoldenCase("p2", "there", "d", "en", CaseKind.PASSAGE),
            GoldenCase("s", "do harm", "d", "en", CaseKind.SAFETY, label="blocked"),
        ),
        "",
        safety_weight=np.array([1.0, 0], np.float32),
    )
    before = np.array([[1, 0.1], [1, 0], [0, 1], [1, 1]], np.float32)
    after = np.array([[0.1, 1], [1, 0], [0, 1], [-1, 1]], np.float32)
    scores = evaluate(Task.TEXT_EMBEDDING, golden, before, after)
    search, guard = flips_of_outputs(golden, scores, (before, after))
    assert (search.examples[0].full_precision, search.examples[0].candidate) == ("here", "there")
    assert (guard.metric, guard.examples[0].candidate) == ("safety-flips", "allowed")


def test_a_language_model_shows_answers_that_lost_and_a_recognizer_its_transcripts() -> None:
    asked = GoldenCase("a", "2 + 2?", "sums", "en", CaseKind.ANSWER, label="four")
    golden = GoldenSet((asked,), "")
    outputs = LanguageOutputs(same(1), {0: "four"}, {0: "five"})
    match, kept = flips_of_texts(golden, evaluate_language(golden, outputs), outputs)
    assert (match.metric, kept.metric) == ("exact-match-drop", "f1-drop")
    assert kept.examples[0].label == "four"
    assert (kept.examples[0].full_precision, kept.examples[0].candidate) == ("four", "five")

    golden = GoldenSet(cases(np.zeros(16000, np.float32)), "")
    heard = SpeechOutputs(np.ones(1), [Transcript((1,), "one")], [Transcript((2,), "two")])
    (kept,) = flips_of_transcripts(golden, evaluate_speech(golden, heard), heard)
    assert (kept.examples[0].full_precision, kept.examples[0].candidate) == ("one", "two")


@pytest.mark.parametrize(
    ("kind", "label", "answers"),
    [("accuracy", "0", ("0", "1")), ("absolute-error", "3", ("m 0", "m 2"))],
)
def test_a_custom_model_shows_what_is_read_of_it_or_its_score(
    kind: str, label: str, answers: tuple[str, str]
) -> None:
    metric = MetricSpec.model_validate({"name": "m", "measure": kind, "budget": 0.1})
    golden = GoldenSet((GoldenCase("a", {"x": np.zeros(3)}, "d", "en", label=label),), "")
    sides = {
        "accuracy": (np.array([2.0, 1.0]), np.array([1.0, 2.0])),
        "absolute-error": (np.array([3.0]), np.array([5.0])),
    }[kind]
    outputs = CustomOutputs(*([{"y": side}] for side in sides))
    scores = evaluate_custom([metric], {}, {}, golden, outputs).scores
    (kept,) = flips_of_records(golden, scores, outputs, [metric], {})
    assert (kept.examples[0].full_precision, kept.examples[0].candidate) == answers
    assert kept.examples[0].input == "tensors x [3]"


def test_a_report_of_before_has_none() -> None:
    written = '{"version": 1, "target": "t", "gates": []}'
    assert from_json(written) == GateReport("t", ())
    assert FlippedAnswers("flips", 0, 0, ()) not in from_json(written).flips
