"""Versions that the registry lost, or holds otherwise than the ledger says: registered again.

A release is complete in the store, signed. What the registry holds of it follows from it, but for
the number: MLflow gives no number twice, so that a version which was deleted comes back under
another one. The ledger then records which.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from infra.canonical import Json
from infra.errors import NotFound, RequantError
from infra.registry.cards import Card
from infra.registry.numbers import Numbers
from infra.releases import Release
from infra.settings import settings
from infra.stores.digests import DigestCache
from tasks.promotion import entries, history, journal, ledger
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.registered.condition import (
    known_digests,
    wrong_in_bundle,
    wrong_in_copy,
)
from tasks.promotion.release import CPU_PLAN, GRAPH, weights_beside
from tasks.promotion.retention.policy import collected
from tasks.promotion.verification import registered_graph, require_intact
from tasks.records import ReleaseRef

GONE = "it is not in the registry"


@dataclass(frozen=True, slots=True)
class Mended:
    """What was found wrong with the releases that aliases lead to, and what became of it."""

    sentences: tuple[str, ...] = ()
    restored: tuple[str, ...] = ()  # the aliases whose version was registered again
    broken: bool = False  # the champion's bundle is not intact: nothing could be registered from it


def servable(release: ReleaseRef) -> ReleaseRef:
    """Return a release under a version that holds its bytes, registered again where none does.

    Every file of its bundle is verified first. Raises `Refused`, `NotFound`, `Tampered`,
    `Unavailable`.
    """
    require_intact(release)
    wrong = _wrong(release, DigestCache(None))
    if wrong is None:
        return release
    again = _registered_again(release, wrong)
    _record(release.model, [again], _told("", release, again, wrong))
    return again


def mend(model: str, digests: DigestCache) -> Mended:
    """Verify what the aliases lead to, in the store and in the registry, and mend the registry."""
    sentences, numbers, broken = [], {}, False
    for alias, release in _leading(model, journal.read(model)):
        bundle = wrong_in_bundle(release, digests)
        if bundle is not None:
            sentences.append(f"Version {release.version}, {alias}: {bundle}")
            broken = broken or alias == "champion"
            continue
        wrong = _wrong(release, digests)
        if wrong is not None:
            numbers[alias] = _registered_again(release, wrong)
            sentences.append(_told(alias, release, numbers[alias], wrong))
    if numbers:
        _record(model, numbers.values(), " ".join(sentences))
    return Mended(tuple(sentences), tuple(numbers), broken)


def _leading(model: str, history_now: Sequence[LedgerEntry]) -> list[tuple[str, ReleaseRef]]:
    """Return what each alias leads to, by number: an emptied registry gives each its own again."""
    leading = {
        "champion": ledger.champion(history_now),
        "previous": ledger.previous(history_now),
        "challenger": ledger.challenger(history_now),
    }
    releases = {alias: history.reference(model, entry) for alias, entry in leading.items()}
    named = [(alias, release) for alias, release in releases.items() if release is not None]
    return sorted(named, key=lambda item: _number(item[1].version))


def _record(model: str, releases: Iterable[ReleaseRef], reason: str) -> None:
    numbers: Mapping[str, str] = {release.digest: release.version for release in releases}
    journal.commit(model, entries.registered_again, numbers, reason)


def restore(model: str) -> tuple[str, ...]:
    """Register every release of the ledger again that the registry lacks; say what was done.

    Those whose bundle is gone or damaged are named, and left out.
    """
    sentences, restored, digests = [], [], known_digests(model)
    for release in _released(model, journal.read(model)):
        try:
            wrong = _wrong(release, digests)
            if wrong is None:
                continue
            require_intact(release)
        except RequantError as error:
            sentences.append(f"Version {release.version} cannot be restored: {error}")
            continue
        again = _registered_again(release, wrong)
        restored.append(again)
        sentences.append(_told("", release, again, wrong))
    if restored:
        reason = f"The registry was restored: {len(restored)} releases were registered again."
        _record(model, restored, reason)
    digests.save()
    return tuple(sentences)


def _released(model: str, history_now: Sequence[LedgerEntry]) -> list[ReleaseRef]:
    """Return every release of the ledger under its present number, the lowest first.

    Those whose bundles were removed as no longer needed are left out.
    """
    gone = {None, *collected(history_now)}
    releases = {
        entry.release: release
        for entry in ledger.as_registered(history_now)
        if entry.release not in gone and (release := history.reference(model, entry)) is not None
    }
    return sorted(releases.values(), key=lambda release: _number(release.version))


def _wrong(release: ReleaseRef, digests: DigestCache) -> str | None:
    try:
        return wrong_in_copy(release, digests)
    except NotFound:
        return GONE


def _told(alias: str, release: ReleaseRef, again: ReleaseRef, wrong: str) -> str:
    name = f"Version {release.version}{f', {alias}' if alias else ''}"
    number = "" if again.version == release.version else f" as version {again.version}"
    return f"{name}: {wrong}; it was registered again{number} from its bundle."


def _registered_again(release: ReleaseRef, wrong: str) -> ReleaseRef:
    """Return the release under the version that holds it now; its bundle was verified before."""
    stored, registry = settings().release(release.model, release.digest), settings().registry()
    other = registry.version_of(
        release.model, release.digest, registered_graph(stored), DigestCache(None)
    )
    if other is not None:
        return replace(release, version=other)
    highest = ledger.highest_number(journal.read(release.model))
    numbers = Numbers(_number(release.version) if wrong == GONE else 0, highest)
    return replace(release, version=_register(stored, release, numbers))


def _register(stored: Release, release: ReleaseRef, numbers: Numbers) -> str:
    files = {name: stored.file(name) for name in stored.files if name.startswith("golden/")}
    graph = stored.file(CPU_PLAN if CPU_PLAN in stored.files else GRAPH)
    about = (
        f"Registered again from release `{release.digest[:12]}`, once version {release.version}."
    )
    return (
        settings()
        .registry()
        .register(
            release.model,
            graph,
            release=release.digest,
            tags=_tags(stored.facts),
            run_name=f"release {release.digest[:12]} again",
            metrics=_metrics(files.values()),
            params={},
            artifacts=files,
            card=Card(about_version=about),
            numbers=numbers,
            weights=weights_beside(graph),
        )
    )


def _tags(facts: Mapping[str, Json]) -> dict[str, str]:
    recipe, verdicts = facts.get("recipe"), facts.get("verdicts")
    tags = {"calibration": facts.get("calibration")}
    if isinstance(recipe, Mapping):
        tags["recipe"] = recipe.get("name")
    if isinstance(verdicts, Mapping):
        tags |= {f"verdict.{target}": verdict for target, verdict in verdicts.items()}
    return {name: value for name, value in tags.items() if isinstance(value, str)}


def _metrics(reports: Iterable[bytes]) -> dict[str, float]:
    """Return every gate's estimate, under the names that `Judged.metrics` gives them."""
    metrics = {}
    for report in map(json.loads, reports):
        for gate in report["gates"]:
            if gate.get("estimate") is not None:
                name = f"{report['target']}/{gate['metric']}.{gate['group'].replace('=', '.')}"
                metrics[name] = float(gate["estimate"]["value"])
    return metrics


def _number(version: str) -> int:
    return int(version) if version.isdecimal() else 0
