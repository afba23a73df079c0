"""Golden cases that a version answers otherwise than full precision; the champion's answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.records import FlippedAnswers, FlippedCase, GateReport


@dataclass(frozen=True, slots=True)
class ShownFlip:
    """One golden case as three models answer it; texts were redacted when it was judged."""

    case_id: str
    domain: str
    language: str
    input: str
    label: str  # the right answer, "" where nobody knows it
    full_precision: str
    champion: str | None  # None where its report keeps no answer to this case
    champion_flips: bool | None  # None: not known
    candidate: str


@dataclass(frozen=True, slots=True)
class ShownFlips:
    """What one metric counts against a version on one target."""

    target: str
    metric: str
    count: int
    cases: int  # that the metric applies to
    examples: tuple[ShownFlip, ...]


def flips_beside(
    own: Sequence[GateReport], champions: Sequence[GateReport]
) -> tuple[ShownFlips, ...]:
    """Return a version's flips beside the champion's; `champions` were judged on the same cases."""
    known = {(report.target, flips.metric): flips for report in champions for flips in report.flips}
    return tuple(
        _shown(report.target, flips, known.get((report.target, flips.metric)))
        for report in own
        for flips in report.flips
    )


def _shown(target: str, flips: FlippedAnswers, champions: FlippedAnswers | None) -> ShownFlips:
    answers = {case.case_id: case for case in champions.examples} if champions else {}
    complete = champions is not None and champions.count == len(champions.examples)
    examples = tuple(_beside(case, answers.get(case.case_id), complete) for case in flips.examples)
    return ShownFlips(target, flips.metric, flips.count, flips.cases, examples)


def _beside(case: FlippedCase, champions: FlippedCase | None, complete: bool) -> ShownFlip:
    flips = True if champions else False if complete else None
    return ShownFlip(
        case.case_id,
        case.domain,
        case.language,
        case.input,
        case.label,
        case.full_precision,
        champions.candidate if champions else None,
        flips,
        case.candidate,
    )
