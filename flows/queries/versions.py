"""A registered version with its golden reports, beside the champion. Reads only."""

from dataclasses import dataclass

from infra.canonical import Json
from infra.errors import NotFound, Unavailable
from infra.settings import settings
from tasks.promotion import journal, ledger
from tasks.records import GateReport, GateResult
from tasks.specs.registration import current_digest
from tasks.validation.report import from_json


@dataclass(frozen=True, slots=True)
class GateRow:
    """One gate of a candidate, and what the champion's reached when it was judged."""

    target: str
    candidate: GateResult
    champion: GateResult | None


@dataclass(frozen=True, slots=True)
class VersionView:
    """One registered version with its golden reports."""

    model: str
    version: str
    release: str
    recipe: str
    facts: dict[str, Json]
    reports: tuple[GateReport, ...]
    champion: str | None  # version it is shown beside
    rows: tuple[GateRow, ...]
    problem: str | None = None  # why the ledger alone tells of it


def one_version(model: str, version: str) -> VersionView:
    """Return a version beside the present champion; raise `NotFound` and `Tampered`.

    Of a registry that does not answer, or lost the version, what the ledger says of it is taken.
    """
    current_digest(model)
    digest, problem = _release_of(model, version)
    if digest is None:
        raise NotFound(
            f"version {version} of {model} carries no release: it was not made by Requant"
        )
    release = settings().release(model, digest)
    reigning = ledger.champion(journal.read(model))
    reports = _reports(model, digest)
    beside = _reports(model, reigning.release) if reigning and reigning.release else ()
    recipe = release.facts["recipe"]
    return VersionView(
        model=model,
        version=version,
        release=digest,
        recipe=str(recipe["name"]) if isinstance(recipe, dict) else "",
        facts=dict(release.facts),
        reports=reports,
        champion=reigning.version if reigning else None,
        rows=_rows(reports, beside),
        problem=problem,
    )


def _release_of(model: str, version: str) -> tuple[str | None, str | None]:
    """Return the version's release, and why the ledger alone tells it."""
    try:
        return settings().registry().version(model, version).release, None
    except (Unavailable, NotFound) as error:
        entries = reversed(ledger.as_registered(journal.read(model)))
        known = (entry.release for entry in entries if entry.version == version and entry.release)
        digest = next(known, None)
        if digest is None:
            raise
        return digest, str(error)


def _reports(model: str, digest: str) -> tuple[GateReport, ...]:
    release = settings().release(model, digest)
    names = sorted(name for name in release.files if name.startswith("golden/"))
    return tuple(from_json(release.file(name)) for name in names)


def _rows(reports: tuple[GateReport, ...], beside: tuple[GateReport, ...]) -> tuple[GateRow, ...]:
    champions = {
        (report.target, gate.metric, gate.group): gate for report in beside for gate in report.gates
    }
    return tuple(
        GateRow(report.target, gate, champions.get((report.target, gate.metric, gate.group)))
        for report in reports
        for gate in sorted(report.gates, key=lambda gate: not gate.binding)
    )
