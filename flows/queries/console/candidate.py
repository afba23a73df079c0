"""A version: its gates beside another one, its place among all judged ones, and its making."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flows.queries.console import overview
from flows.queries.console.flipped import ShownFlips, flips_beside
from flows.queries.console.ledgers import ledgers
from flows.queries.console.over_time import golden_reports
from infra.canonical import Json
from infra.errors import NotFound, RequantError
from infra.releases import Release
from infra.settings import settings
from infra.stores import layout
from tasks.promotion import ledger
from tasks.promotion.ledger import LedgerEntry
from tasks.records import GateReport, GateResult
from tasks.specs.registration import current_digest

NAMED = 100
"""Versions that a comparison offers; older ones are compared by their number."""
JUDGED = 30
"""Versions that the front shows, the newest."""
_COSTS = ("latency-ratio", "size-ratio", "peak-memory-ratio")
_QUALITY = ("flips", "cosine", "agreement", "accuracy-drop", "recall-drop")
"""What a front's second axis may be, the first that every version has."""


@dataclass(frozen=True, slots=True)
class GateFigure:
    """One gate of one version."""

    value: float | None
    low: float | None
    high: float | None
    verdict: str
    binding: bool
    budget: float
    direction: str
    count: int
    reason: str


@dataclass(frozen=True, slots=True)
class ComparedGate:
    """One gate of two versions; either may lack it."""

    target: str
    metric: str
    group: str
    left: GateFigure | None
    right: GateFigure | None


@dataclass(frozen=True, slots=True)
class FrontPoint:
    """One judged version among the others."""

    name: str  # of the version
    recipe: str
    x: float
    y: float
    passed: bool
    dominated: bool  # another one is no worse in both, and better in one


@dataclass(frozen=True, slots=True)
class Made:
    """One thing on the way from traffic to an engine."""

    kind: str
    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class CalibrationFacts:
    """What a calibration set is made of."""

    digest: str
    rows: int | None
    seen: int | None  # requests offered
    start: str
    end: str
    groups: tuple[str, ...]
    dropped: dict[str, int]  # reason -> requests
    ceilings: dict[str, float]  # site -> |x| beyond which too few requests reach


@dataclass(frozen=True, slots=True)
class CandidateView:
    """One version, its making, and its place among the others."""

    model: str
    version: str
    release: str
    precision: overview.Precision
    verdicts: dict[str, str]  # target -> verdict
    gates: tuple[ComparedGate, ...]  # `right` is the champion's
    champion: str | None
    calibration: CalibrationFacts | None
    lineage: tuple[Made, ...]  # from traffic to engines
    front: tuple[FrontPoint, ...]
    front_axes: tuple[str, str]
    flips: tuple[ShownFlips, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionComparison:
    """Two versions of one model, gate by gate."""

    model: str
    left: str
    right: str
    versions: tuple[str, ...]  # the newest that can be compared, newest first
    facts: tuple[tuple[str, str, str], ...]  # what, left, right
    gates: tuple[ComparedGate, ...]


def candidate(model: str, version: str) -> CandidateView:
    """Return a version beside the champion; raise `NotFound` and `Tampered`."""
    entries = _entries(model)
    release = _release(model, entries, version)
    serving = ledger.champion(entries)
    beside = _reports(model, serving.release) if serving and serving.release else ()
    own = _reports(model, release.digest)
    front, axes = _front(model, entries)
    return CandidateView(
        model,
        version,
        release.digest,
        overview.precision_of(release.facts),
        {report.target: report.verdict.value for report in own},
        _compared(own, beside),
        serving.version if serving else None,
        _calibration(model, release.facts),
        _lineage(model, release),
        front,
        axes,
        flips_beside(own, beside if _same_cases(model, release, serving) else ()),
    )


def comparison(model: str, left: str = "", right: str = "") -> VersionComparison:
    """Return two versions side by side; where none is named, the champion and the newest other."""
    entries = _entries(model)
    versions = tuple(_versions(entries))
    if not versions:
        raise NotFound(f"no version of {model} was judged yet: there is nothing to compare")
    serving = ledger.champion(entries)
    champion = serving.version if serving and serving.version else versions[-1]
    left = left or _other_than(right or champion, versions)
    right = right or (champion if champion != left else _other_than(left, versions))
    sides = [_release(model, entries, version) for version in (left, right)]
    precisions = [overview.precision_of(side.facts) for side in sides]
    facts = (
        ("recipe", precisions[0].recipe, precisions[1].recipe),
        ("runs as", precisions[0].words, precisions[1].words),
        ("in fewer bits", _percent(precisions[0].fraction), _percent(precisions[1].fraction)),
        ("calibration set", _calibrated_by(sides[0]), _calibrated_by(sides[1])),
        ("release", sides[0].digest[:16], sides[1].digest[:16]),
    )
    reports = [_reports(model, side.digest) for side in sides]
    return VersionComparison(model, left, right, versions[:NAMED], facts, _compared(*reports))


def _other_than(version: str, versions: Sequence[str]) -> str:
    """Return the newest other version; the same, where there is no other."""
    return next((name for name in versions if name != version), version)


def _same_cases(model: str, release: Release, serving: LedgerEntry | None) -> bool:
    """Return whether the champion was judged as the same model: on the same golden cases."""
    if serving is None or serving.release is None:
        return False
    try:
        champions = settings().release(model, serving.release)
    except RequantError:
        return False
    return champions.facts.get("model") == release.facts.get("model")


def _entries(model: str) -> Sequence[LedgerEntry]:
    current_digest(model)
    return ledger.as_registered(ledgers.entries(model))


def _versions(entries: Sequence[LedgerEntry]) -> dict[str, str]:
    """Return version -> release, as the newest entry about it has it; newest first."""
    releases: dict[str, str] = {}
    for entry in reversed(entries):
        if entry.version and entry.release:
            releases.setdefault(entry.version, entry.release)
    return releases


def _release(model: str, entries: Sequence[LedgerEntry], version: str) -> Release:
    digest = (
        _versions(entries).get(version) or settings().registry().version(model, version).release
    )
    if digest is None:
        raise NotFound(
            f"version {version} of {model} carries no release: it was not made by Requant"
        )
    return settings().release(model, digest)


def _reports(model: str, digest: str) -> tuple[GateReport, ...]:
    """Return a bundle's reports; none where it cannot be read any more."""
    try:
        return golden_reports(settings().store().url, model, digest)
    except (RequantError, ValueError, KeyError):
        return ()


def _compared(left: Sequence[GateReport], right: Sequence[GateReport]) -> tuple[ComparedGate, ...]:
    sides = [
        {
            (report.target, gate.metric, gate.group): gate
            for report in reports
            for gate in report.gates
        }
        for reports in (left, right)
    ]
    names = dict.fromkeys([*sides[0], *sides[1]])
    return tuple(
        ComparedGate(*name, _gate(sides[0].get(name)), _gate(sides[1].get(name))) for name in names
    )


def _gate(gate: GateResult | None) -> GateFigure | None:
    if gate is None:
        return None
    estimate = gate.estimate
    return GateFigure(
        estimate.value if estimate else None,
        estimate.low if estimate else None,
        estimate.high if estimate else None,
        gate.verdict.value,
        gate.binding,
        gate.budget,
        gate.direction,
        gate.count,
        gate.reason,
    )


def _front(
    model: str, entries: Sequence[LedgerEntry]
) -> tuple[tuple[FrontPoint, ...], tuple[str, str]]:
    """Return judged versions by cost and quality on the first target that has both."""
    judged = [
        (version, report)
        for version, digest in list(_versions(entries).items())[:JUDGED]
        for report in _reports(model, digest)[:1]
    ]
    figures = {version: _figures(report) for version, report in judged}
    axes = [
        (cost, quality)
        for cost in _COSTS
        for quality in _QUALITY
        if figures and all({cost, quality} <= set(values) for values in figures.values())
    ]
    if not axes:
        return (), ("", "")
    cost, quality = axes[0]
    places = {version: (values[cost], values[quality]) for version, values in figures.items()}
    better = 1.0 if quality in ("cosine", "agreement") else -1.0
    points = tuple(
        FrontPoint(
            version,
            _recipe(model, _versions(entries)[version]),
            *places[version],
            report.verdict.value == "passed",
            _is_dominated(version, places, better),
        )
        for version, report in judged
    )
    return points, (f"{cost} on {judged[0][1].target}", f"{quality}, all golden cases")


def _figures(report: GateReport) -> dict[str, float]:
    return {
        gate.metric: gate.estimate.value
        for gate in report.gates
        if gate.group == "all" and gate.estimate is not None
    }


def _recipe(model: str, digest: str) -> str:
    try:
        return overview.precision_of(settings().release(model, digest).facts).recipe
    except RequantError:
        return ""


def _is_dominated(version: str, places: Mapping[str, tuple[float, float]], better: float) -> bool:
    x, y = places[version]
    return any(
        other_x <= x and better * other_y >= better * y and (other_x, other_y) != (x, y)
        for other_x, other_y in places.values()
    )


def _calibration(model: str, facts: Mapping[str, Json]) -> CalibrationFacts | None:
    digest = str(facts.get("calibration", ""))
    document = _document(model, digest)
    if document is None:
        return None
    rows, seen = document.get("rows"), document.get("seen")
    groups = document.get("groups")
    return CalibrationFacts(
        digest,
        rows if isinstance(rows, int) else None,
        seen if isinstance(seen, int) else None,
        str(document.get("start") or ""),
        str(document.get("end") or ""),
        tuple(map(str, groups)) if isinstance(groups, list) else (),
        {reason: int(count) for reason, count in _numbers(document.get("dropped")).items()},
        _numbers(document.get("ceilings")),
    )


def _document(model: str, digest: str) -> Mapping[str, Json] | None:
    """Return what is stored of a calibration set; None where it is gone or cannot be read."""
    try:
        key = layout.sample_facts(layout.calibration_set(model, digest))
        document = json.loads(settings().store().get(key))
    except (RequantError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def _numbers(value: Json) -> dict[str, float]:
    """Return name -> number of what is one."""
    items = value.items() if isinstance(value, Mapping) else ()
    return {str(name): float(number) for name, number in items if isinstance(number, int | float)}


def _lineage(model: str, release: Release) -> tuple[Made, ...]:
    """Return what the release was made from, and its engines, in order."""
    facts, files = release.facts, release.files
    calibration = str(facts.get("calibration", ""))
    window = (_document(model, calibration) or {}).get("source")
    made = [
        Made("window of traffic", "", str(window or "")),
        Made("calibration set", "", calibration),
        Made("full-precision model", "", str(facts.get("model", ""))),
        *(
            Made(kind, name, files[name].sha256)
            for kind, name in (("scales", "scales.json"), ("quantized graph", "graph.onnx"))
            if name in files
        ),
        *(
            Made("engine", name.split("/")[1], fact.sha256)
            for name, fact in sorted(files.items())
            if name.startswith("engines/") and name.endswith("/plan")
        ),
        Made("release", "", release.digest),
    ]
    return tuple(item for item in made if item.digest)


def _calibrated_by(release: Release) -> str:
    return str(release.facts.get("calibration", ""))[:16]


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.4g} %"
