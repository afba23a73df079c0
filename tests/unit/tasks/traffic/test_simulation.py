"""Simulated traffic: the same from the same seed.

It is shifted as the scenario says and no other way.
"""

import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.models.corpus import read_corpus
from tasks.records import Request
from tasks.traffic.simulation import load_scenario, parse_scenario, simulate
from tasks.traffic.simulation.scenario import Course
from tasks.traffic.storage.codec import to_parquet

EXAMPLES = Path(__file__).parents[4] / "examples"
SCENARIOS = sorted((EXAMPLES / "scenarios").glob("*.yaml"))
UNTIL = datetime(2026, 1, 8, tzinfo=UTC)


def corpus(name: str) -> tuple[Request, ...]:
    return read_corpus((EXAMPLES / name / "traffic.parquet").read_bytes(), where=name)


TEXTS, IMAGES = corpus("minilm"), corpus("digits")


def made(name: str, seed: int = 0, **more: Any) -> list[Request]:
    scenario = load_scenario(EXAMPLES / "scenarios" / f"{name}.yaml")
    rows = IMAGES if name.startswith("exposure") else TEXTS
    return list(simulate(rows, scenario, seed, until=UNTIL, **{"rate": 60, **more}))


def day(requests: list[Request], number: int, days: float = 7) -> list[Request]:
    start = UNTIL - timedelta(days=days - number)
    return [one for one in requests if start <= one.time < start + timedelta(days=1)]


def share(requests: list[Request], **facts: str) -> float:
    return sum(
        all(getattr(one, name) == value for name, value in facts.items()) for one in requests
    ) / len(requests)


def test_the_scenarios_are_the_ones_that_are_promised() -> None:
    assert {path.stem for path in SCENARIOS} >= {
        "null", "new-language", "mix-shift", "jargon", "length-growth", "tenant-burst", "poisoning",
        "exposure-sudden", "exposure-gradual", "recurring-seasonal",
    }  # fmt: skip


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_every_scenario_gives_the_same_bytes_from_the_same_seed_and_others_from_another(
    path: Path,
) -> None:
    assert load_scenario(path).name == path.stem
    first, again, other = (made(path.stem, seed, days=0.5) for seed in (3, 3, 4))
    assert to_parquet(first) == to_parquet(again)
    assert to_parquet(first) != to_parquet(other)


def test_requests_come_in_the_order_of_time_up_to_the_end_and_each_has_its_own_id() -> None:
    requests = made("null", days=2)
    times = [one.time for one in requests]
    assert len(requests) == 2 * 24 * 60
    assert times == sorted(times)
    assert times[0] >= UNTIL - timedelta(days=2)
    assert times[-1] < UNTIL
    assert len({one.request_id for one in requests}) == len(requests)


def test_a_longer_run_begins_with_the_same_inputs() -> None:
    short, long = made("null", days=1), made("null", days=2)
    assert [one.payload for one in short] == [one.payload for one in long[: len(short)]]


def test_nothing_shifts_in_the_null_scenario() -> None:
    requests = made("null")
    known = {one.payload for one in TEXTS}
    assert all(one.payload in known for one in requests)
    first, last = day(requests, 0), day(requests, 6)
    assert abs(share(first, language="en") - share(last, language="en")) < 0.06


def test_a_new_language_rises_from_nothing_to_its_share() -> None:
    requests = made("new-language")
    assert [round(share(day(requests, number), language="ja"), 1) for number in (0, 1, 6)] == [
        0,
        0,
        0.5,
    ]
    assert 0.05 < share(day(requests, 3), language="ja") < 0.4


def test_a_mix_shifts_at_once() -> None:
    requests = made("mix-shift")
    assert share(day(requests, 2), domain="code") == 0
    assert abs(share(day(requests, 3), domain="code") - 0.6) < 0.05


def test_jargon_brings_words_that_the_corpus_has_not() -> None:
    requests = made("jargon")
    known = {word for one in TEXTS for word in str(one.payload).split()}

    def strange(found: list[Request]) -> float:
        words = [word for one in found for word in str(one.payload).split()]
        return sum(word not in known for word in words) / len(words)

    assert strange(day(requests, 1)) == 0
    assert 0.25 < strange(day(requests, 6)) < 0.45


def test_texts_grow_to_the_factor() -> None:
    requests = made("length-growth")
    lengths = [
        np.mean([len(str(one.payload)) for one in day(requests, number)]) for number in (0, 6)
    ]
    assert 3.5 < lengths[1] / lengths[0] < 4.5


def test_a_burst_is_one_tenants_and_ends() -> None:
    requests = made("tenant-burst")
    shares = [share(day(requests, number), tenant="burst") for number in (2, 3, 4)]
    assert shares[0] == shares[2] == 0
    assert abs(shares[1] - 0.67) < 0.05


def test_an_attackers_inputs_are_extreme_and_nobody_elses() -> None:
    requests = made("poisoning")
    theirs = [one for one in requests if one.tenant == "attacker"]
    assert abs(share(day(requests, 5), tenant="attacker") - 0.05) < 0.02
    assert all(len(str(one.payload)) > 3000 for one in theirs)
    assert not any(one.time < UNTIL - timedelta(days=5) for one in theirs)


def brightness(requests: list[Request]) -> float:
    return float(np.mean([np.mean(one.payload) for one in requests]))  # type: ignore[arg-type]


def test_exposure_changes_at_once_or_slowly() -> None:
    sudden = made("exposure-sudden")
    assert abs(brightness(day(sudden, 4)) / brightness(day(sudden, 1)) - 8) < 0.3
    slow = made("exposure-gradual")
    levels = [brightness(day(slow, number)) for number in range(7)]
    assert levels == sorted(levels)


def test_a_recurring_shift_comes_every_night() -> None:
    requests = made("recurring-seasonal")
    by_hour: Counter[int] = Counter()
    for one in requests:
        by_hour[one.time.hour] += one.language in ("ja", "ko", "zh")
    assert min(by_hour[hour] for hour in range(7)) > 200
    assert max(by_hour[hour] for hour in range(8, 24)) == 0


@pytest.mark.parametrize(
    ("course", "strengths"),
    [
        (Course(shape="sudden", start=1, end=3), [0, 1, 1, 0, 0]),
        (Course(shape="gradual", start=0, end=4), [0, 0.25, 0.5, 0.75, 1]),
        (Course(shape="recurring", start=1, period=2, duty=0.5, strength=0.5), [0, 0.5, 0, 0.5, 0]),
        (Course(shape="seasonal", period=4), [0, 0.5, 1, 0.5, 0]),
    ],
)
def test_the_strength_follows_its_course(course: Course, strengths: list[float]) -> None:
    np.testing.assert_allclose(course.at(np.arange(5.0)), strengths, atol=1e-12)


@pytest.mark.parametrize(
    "kind", ["gain: {factor: 3}", "noise: {deviation: 0.2}", "sensor-offset: {offset: 0.5}"]
)
def test_tensors_gain_contrast_noise_and_an_offset(kind: str) -> None:
    name, _, rest = kind.partition(": ")
    shift = f"{{kind: {name}, {rest[1:-1]}, when: {{shape: sudden}}}}"
    text = f"{{version: 1, name: one, shifts: [{shift}]}}"
    found = list(simulate(IMAGES, parse_scenario(text, where="x"), 0, days=1, rate=20))
    plain = list(
        simulate(IMAGES, parse_scenario("{version: 1, name: one}", where="x"), 0, days=1, rate=20)
    )
    for after, before in zip(found, plain, strict=True):
        assert isinstance(after.payload, np.ndarray)
        assert isinstance(before.payload, np.ndarray)
        moved = after.payload - before.payload
        if name == "gain":
            assert after.payload.std() == pytest.approx(3 * before.payload.std(), rel=1e-3)
        else:
            assert abs(float(moved.mean()) - (0.5 if name == "sensor-offset" else 0)) < 0.1
            assert (float(moved.std()) > 0.1) is (name == "noise")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a", "x holds list, not fields"),
        ("{version: 2, name: one}", "x: version is 2: input should be 1"),
        ("{version: 1, name: one, speed: 3}", "x: speed is unknown"),
        ("{version: 1, name: one, shifts: [{kind: quake}]}", "shifts.0 is "),
        ("{version: 1, name: one, shifts: [{kind: jargon}]}", "when is missing"),
        (
            "{version: 1, name: one, shifts: [{kind: jargon, when: {shape: gradual}}]}",
            "a gradual shift needs an end",
        ),
        (
            "{version: 1, name: one, shifts: "
            "[{kind: jargon, when: {shape: sudden, start: 2, end: 1}}]}",
            "end must come after start",
        ),
        ("{version: 1, name: one, base: {languages: {en: -1}}}", "weights are 0 or more"),
    ],
)
def test_a_wrong_scenario_is_refused_in_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_scenario(text, where="x")
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "{version: 1, name: one, base: {languages: {xx: 1}}}",
            "wants the language 'xx', which the corpus has not",
        ),
        (
            "{version: 1, name: one, base: {domains: {code: 1}, languages: {ja: 1}}}",
            "no row of the corpus fits base",
        ),
        (
            "{version: 1, name: one, shifts: [{kind: exposure, factor: 2, when: {shape: sudden}}]}",
            "has the shift exposure, but the corpus holds texts",
        ),
    ],
)
def test_a_scenario_that_does_not_fit_the_corpus_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        next(simulate(TEXTS, parse_scenario(text, where="x"), 0))


def test_an_empty_corpus_is_refused() -> None:
    with pytest.raises(BadInput, match="is empty"):
        next(simulate((), parse_scenario("{version: 1, name: one}", where="x"), 0))


def test_a_thousand_windows_take_seconds() -> None:
    """256 requests each; the bound leaves an idle machine a factor of ten."""
    scenario = parse_scenario("{version: 1, name: one, days: 1}", where="x")
    begun = time.process_time()
    assert sum(1 for _ in simulate(TEXTS, scenario, 0, rate=256_000 / 24)) == 256_000
    assert time.process_time() - begun < 20
