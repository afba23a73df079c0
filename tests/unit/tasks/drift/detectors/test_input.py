"""The input detector sees what moved, and is silent about what did not."""

from datetime import UTC, datetime

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.drift.detectors.features import features
from tasks.drift.detectors.input import judge_inputs
from tasks.records import DetectorResult, Finding, Health, Payload, Request

TIME = datetime(2026, 3, 1, tzinfo=UTC)
WORDS = {
    "en": "what does this function return",
    "ru": "что возвращает эта функция",
    "ja": "この関数は何を返しますか",
}


def request(number: int, payload: Payload, language: str = "en", domain: str = "docs") -> Request:
    return Request(f"r{number}", TIME, "t", domain, language, payload)


def texts(seed: int, count: int, share_of: dict[str, float], times: int = 1) -> list[Request]:
    generator = np.random.default_rng(seed)
    drawn = generator.choice(list(share_of), count, p=list(share_of.values()))
    lengths = generator.integers(1, 6, count)
    return [
        request(i, " ".join([WORDS[language]] * int(length) * times), str(language))
        for i, (language, length) in enumerate(zip(drawn, lengths, strict=True))
    ]


def images(seed: int, count: int, exposure: float) -> list[Request]:
    generator = np.random.default_rng(seed)
    drawn = generator.random((count, 1, 8, 8), np.float32) * np.float32(exposure)
    return [request(i, image, "none", "scan") for i, image in enumerate(drawn)]


def found(result: DetectorResult, subject: str) -> Finding:
    return next(finding for finding in result.findings if finding.subject == subject)


EN = {"en": 0.9, "ru": 0.1}


def test_the_same_traffic_has_not_moved() -> None:
    result = judge_inputs(texts(0, 256, EN), texts(1, 256, EN))
    assert (result.detector, result.health, result.count) == ("input", Health.FINE, 256)


def test_false_alarms_are_rare() -> None:
    alarms = sum(
        judge_inputs(texts(seed, 128, EN), texts(500 + seed, 128, EN)).health is Health.DEGRADED
        for seed in range(60)
    )
    assert alarms <= 1


def test_a_new_language_is_named_with_its_shares() -> None:
    result = judge_inputs(texts(0, 256, EN), texts(1, 256, {"en": 0.5, "ru": 0.5}))
    assert result.health is Health.DEGRADED
    assert found(result, "language").exceeded
    assert "language moved" in found(result, "language").text
    assert "% -> " in found(result, "language").text
    assert found(result, "script").exceeded
    assert found(result, "non-ASCII letters").exceeded
    assert not found(result, "domain").exceeded


def test_a_language_never_seen_before_is_found_even_if_it_is_not_labelled() -> None:
    current = [request(i, WORDS["ja"]) for i in range(128)]
    result = judge_inputs(texts(0, 256, {"en": 1.0}), current)
    assert found(result, "script").exceeded
    assert not found(result, "language").exceeded


def test_longer_texts_are_found() -> None:
    assert found(judge_inputs(texts(0, 256, EN), texts(1, 256, EN, times=4)), "length").exceeded


def test_a_harmless_difference_in_a_large_sample_is_significant_but_no_drift() -> None:
    result = judge_inputs(texts(0, 8000, EN), texts(1, 8000, {"en": 0.87, "ru": 0.13}))
    assert result.health is Health.FINE
    assert "evidence" in found(result, "language").text


def test_brighter_images_have_moved_and_equal_ones_have_not() -> None:
    assert judge_inputs(images(0, 128, 1), images(1, 128, 1)).health is Health.FINE
    moved = judge_inputs(images(0, 128, 1), images(1, 128, 4))
    assert {finding.subject for finding in moved.findings if finding.exceeded} == {
        "mean",
        "maximum",
        "standard deviation",
    }


def test_a_constant_feature_that_changes_is_found() -> None:
    before = [request(i, "abc") for i in range(64)]
    after = [request(i, "abcd") for i in range(64)]
    assert found(judge_inputs(before, after), "length").exceeded
    assert judge_inputs(before, before).health is Health.FINE


def test_too_few_requests_are_inconclusive() -> None:
    result = judge_inputs(texts(0, 256, EN), texts(1, 5, EN))
    assert result.health is Health.INCONCLUSIVE
    assert "5 current requests" in result.findings[0].text
    assert judge_inputs([], []).health is Health.INCONCLUSIVE


def test_texts_and_tensors_cannot_be_mixed() -> None:
    with pytest.raises(BadInput, match="a model reads one kind"):
        features([*images(0, 1, 1), request(1, "text")])


def test_features_of_a_text_are_what_they_say() -> None:
    columns = features([request(0, "Ab 12, яя"), request(1, "日本語です")])
    assert columns.numeric["length"].tolist() == [9, 5]
    assert columns.numeric["non-ASCII letters"].tolist() == [2 / 9, 1]
    assert columns.numeric["digits"].tolist() == [2 / 9, 0]
    assert columns.numeric["punctuation"].tolist() == [1 / 9, 0]
    assert columns.categories["script"] == ("CYRILLIC", "CJK")
