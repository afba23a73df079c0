"""Golden cases that a candidate answers otherwise than full precision, as short examples.

A golden report travels with the bundle and outlives every input: texts are redacted as labels and
names of traffic are, cut, and few; images, sounds and records are told by their shape alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from tasks.metrics.custom.labelled import READERS
from tasks.metrics.custom.options import options_of
from tasks.metrics.embeddings import nearest_passages, safety_decisions
from tasks.models.golden import positions
from tasks.models.vision.classes import Classes
from tasks.payloads import describe
from tasks.personal_data.names import clean
from tasks.records import CaseKind, FlippedAnswers, FlippedCase, GoldenCase, GoldenSet
from tasks.specs.custom import MetricSpec
from tasks.specs.groups import groups_of
from tasks.validation.metrics.custom import CustomOutputs
from tasks.validation.metrics.golden import CaseScores, Outputs
from tasks.validation.metrics.language import LanguageOutputs
from tasks.validation.metrics.speech import SpeechOutputs

PER_GROUP = 3
"""Examples of one metric that a language of a domain has, at most; the worst."""
MOST = 30
"""Examples of one metric, however many groups there are."""
LONGEST = 160
"""Characters of an input or an answer."""

Answers = Callable[[int], tuple[object, object]]
"""Position of a case -> full precision's answer and the candidate's."""


def flipped(metric: str, scores: CaseScores, golden: GoldenSet, answers: Answers) -> FlippedAnswers:
    """Return how many cases a metric is above 0 of, and examples of them, the worst first."""
    above = np.flatnonzero(scores.values > 0)
    worst = above[np.argsort(-scores.values[above], kind="stable")]
    chosen = _spread(golden.cases[place] for place in scores.cases[worst].tolist())
    places = {case.case_id: place for place, case in enumerate(golden.cases)}
    examples = tuple(_example(case, *answers(places[case.case_id])) for case in chosen)
    return FlippedAnswers(metric, len(above), scores.values.size, examples)


def flips_of_outputs(
    golden: GoldenSet,
    scores: Mapping[str, CaseScores],
    sides: tuple[Outputs, Outputs],
    classes: Classes | None = None,
) -> tuple[FlippedAnswers, ...]:
    """Return `flips` and `safety-flips` of embeddings or logits, full precision's side first.

    The answer to a query is the nearest passage, else it is the class; with `classes` the nearest.
    """
    answers: dict[str, Answers] = {
        "flips": _classified(sides, classes),
        "safety-flips": _guarded(golden, sides),
    }
    if any(case.kind is CaseKind.QUERY for case in golden.cases):
        answers["flips"] = _searched(golden, sides)
    return tuple(
        flipped(name, scores[name], golden, answer)
        for name, answer in answers.items()
        if name in scores
    )


def flips_of_texts(
    golden: GoldenSet, scores: Mapping[str, CaseScores], outputs: LanguageOutputs
) -> tuple[FlippedAnswers, ...]:
    """Return the answers of a language model that lost, by suite, and flipped safety decisions."""
    return tuple(
        flipped(name, scores[name], golden, _pair(outputs.reference, outputs.candidate))
        for name in sorted(scores)
        if name.endswith("-drop") or name == "safety-flips"
    )


def flips_of_transcripts(
    golden: GoldenSet, scores: Mapping[str, CaseScores], outputs: SpeechOutputs
) -> tuple[FlippedAnswers, ...]:
    """Return the recordings that a recognizer writes down otherwise."""
    name = "token-error-rate"
    before, after = (
        {place: transcript.text for place, transcript in enumerate(side)}
        for side in (outputs.reference, outputs.candidate)
    )
    return (flipped(name, scores[name], golden, _pair(before, after)),)


def flips_of_records(
    golden: GoldenSet,
    scores: Mapping[str, CaseScores],
    outputs: CustomOutputs,
    metrics: Iterable[MetricSpec],
    charsets: Mapping[str, tuple[str, ...]],
) -> tuple[FlippedAnswers, ...]:
    """Return the labelled cases whose score fell, by metric: what was read, else the score."""
    return tuple(
        flipped(metric.gate, scores[metric.gate], golden, _read(metric, charsets, scores, outputs))
        for metric in metrics
        if metric.labelled and metric.gate in scores
    )


def _spread(cases: Iterable[GoldenCase]) -> list[GoldenCase]:
    """Return cases in order, so many that no group has more than its share."""
    shares: Counter[frozenset[str]] = Counter()
    chosen = []
    for case in cases:
        shares[groups_of(case)] += 1
        if shares[groups_of(case)] <= PER_GROUP:
            chosen.append(case)
    return chosen[:MOST]


def _example(case: GoldenCase, before: object, after: object) -> FlippedCase:
    payload = case.payload if isinstance(case.payload, str) else describe(case.payload)
    told = (case.case_id, case.domain, case.language, payload, case.label or "", before, after)
    return FlippedCase(*(_short(str(words)) for words in told))


def _short(text: str) -> str:
    """Return a text without personal data, then cut: half of an address is not recognized."""
    redacted = " ".join(clean(text).text.split())
    return redacted if len(redacted) <= LONGEST else f"{redacted[: LONGEST - 1]}…"


def _classified(sides: tuple[Outputs, Outputs], classes: Classes | None) -> Answers:
    if classes is None:
        return lambda place: (int(sides[0][place].argmax()), int(sides[1][place].argmax()))
    before, after = (classes.nearest(side, "golden") for side in sides)
    return lambda place: (classes.names[before[place]], classes.names[after[place]])


def _searched(golden: GoldenSet, sides: tuple[Outputs, Outputs]) -> Answers:
    queries, passages = (
        positions(golden.cases, kind) for kind in (CaseKind.QUERY, CaseKind.PASSAGE)
    )
    before, after = (nearest_passages(side[queries], side[passages], 1)[:, 0] for side in sides)
    rows = {place: row for row, place in enumerate(queries.tolist())}

    def answer(place: int) -> tuple[object, object]:
        nearest = (passages[side[rows[place]]] for side in (before, after))
        first, now = (golden.cases[passage].payload for passage in nearest)
        return first, now

    return answer


def _guarded(golden: GoldenSet, sides: tuple[Outputs, Outputs]) -> Answers:
    head = golden.safety_weight
    if head is None:
        return lambda _: ("", "")  # nobody decides, and nothing flips
    before, after = (safety_decisions(side, head, golden.safety_bias) for side in sides)
    words = ("allowed", "blocked")
    return lambda place: (words[int(before[place])], words[int(after[place])])


def _pair(before: Mapping[int, str], after: Mapping[int, str]) -> Answers:
    return lambda place: (before[place], after[place])


def _read(
    metric: MetricSpec,
    charsets: Mapping[str, tuple[str, ...]],
    scores: Mapping[str, CaseScores],
    outputs: CustomOutputs,
) -> Answers:
    reader = READERS.get(metric.kind)
    if reader is not None:
        options = options_of(metric, charsets.get(metric.name, ()))
        return lambda place: (
            reader(outputs.reference[place], options),
            reader(outputs.candidate[place], options),
        )
    before, after = (scores[f"{metric.name}-{side}"] for side in ("reference", "candidate"))
    rows = {place: row for row, place in enumerate(before.cases.tolist())}
    return lambda place: (
        f"{metric.name} {before.values[rows[place]]:.4g}",
        f"{metric.name} {after.values[rows[place]]:.4g}",
    )
