"""The metrics of one model: a snapshot that each run writes, and what is computed when asked."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from infra.errors import RequantError, Unavailable
from infra.liveness.process import is_gone
from infra.settings import Settings, settings
from infra.telemetry import SUFFIX, MetricSample, parse, write_snapshot
from tasks.promotion import journal, ledger
from tasks.promotion.entries import LEASE
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.records import DetectorResult, GateReport
from tasks.specs.registration import model_names
from tasks.traffic.storage.newest import newest_time
from tasks.validation.report import OF_REPORTS, to_samples

VERIFIED = "requant_champion_verified"
EVERY_S = 15.0
"""Live figures are computed at most this often, however many ask."""
Overdue = Callable[[], Mapping[str, float]]
"""Model -> seconds that its scheduled run is overdue, 0 when it is not.

Raises `Unavailable` without Prefect.
"""


def write_measures(
    model: str,
    *,
    results: Sequence[DetectorResult] = (),
    reports: Sequence[GateReport] = (),
    flow: str | None = None,
    seconds: float = 0.0,
    verified: bool | None = None,
) -> None:
    """Merge what this run measured into the model's snapshot; totals come from the ledger.

    `verified` is what a reconciliation found: whether all that serves is as it was signed.
    """
    path = settings().root / "metrics" / f"{model}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = parse(path.read_text()) if path.exists() else ()
    unchanged = [
        sample
        for sample in before
        if not _replaced(sample, results, reports)
        and (verified is None or sample.metric != VERIFIED)
    ]
    samples = [*unchanged, *_totals(model, journal.read(model)), *_detectors(model, results)]
    for report in reports:
        samples += to_samples(model, report)
    if verified is not None:
        samples.append(MetricSample(VERIFIED, {"model": model}, float(verified)))
    if flow:
        ran = {"model": model, "flow": flow}
        samples.append(MetricSample("requant_run_seconds", ran, seconds))
        samples.append(MetricSample("requant_run_timestamp_seconds", ran, time.time()))
    samples.append(
        MetricSample("requant_snapshot_timestamp_seconds", {"model": model}, time.time())
    )
    write_snapshot(path, samples)


def _replaced(
    sample: MetricSample, results: Sequence[DetectorResult], reports: Sequence[GateReport]
) -> bool:
    """Return whether this run replaces a series: a group or layer that is gone must not linger."""
    return bool(
        (results and sample.metric.startswith("requant_detector_"))
        or (reports and sample.metric in OF_REPORTS)
    )


class LiveMeasures:
    """The figures that change while nothing runs.

    They are computed when asked for, and kept `EVERY_S` seconds.
    """

    def __init__(
        self, overdue: Overdue | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask `overdue` what Prefect knows; without it the schedules' series are absent."""
        self._overdue = overdue
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: tuple[Settings, float, tuple[MetricSample, ...]] | None = None

    def samples(self) -> tuple[MetricSample, ...]:
        """Return those of every model.

        What cannot be read shows in `requant_ledger_readable`, and raises nothing.
        """
        with self._lock:  # scrapes at once compute once
            now = self._clock()
            if (
                self._kept is None
                or self._kept[0] is not settings()
                or now - self._kept[1] >= EVERY_S
            ):
                self._kept = (settings(), now, live_samples(self._overdue))
            return self._kept[2]


def live_samples(overdue: Overdue | None = None) -> tuple[MetricSample, ...]:
    """Return what the ledgers, the stored traffic and the schedules say now."""
    samples = [sample for model in _models() for sample in _live(model)]
    try:
        late = overdue() if overdue else {}
    except Unavailable:  # unknown is not 0: the series is absent, and an alert says so
        late = {}
    samples += [
        MetricSample("requant_schedule_overdue_seconds", {"model": model}, seconds)
        for model, seconds in late.items()
    ]
    return tuple(samples)


def _models() -> Sequence[str]:
    """Return the registered models; of a store that does not answer, those with a snapshot."""
    try:
        return model_names(settings().store())
    except RequantError:
        return sorted(path.stem for path in (settings().root / "metrics").glob(f"*{SUFFIX}"))


def _live(model: str) -> list[MetricSample]:
    of_model = {"model": model}
    try:
        samples = [*_of_ledger(model, journal.read(model)), *_of_traffic(model)]
    except Exception:  # whatever it is, the other models are measured
        return [MetricSample("requant_ledger_readable", of_model, 0)]
    return [*samples, MetricSample("requant_ledger_readable", of_model, 1)]


def _of_ledger(model: str, entries: Sequence[LedgerEntry]) -> Iterator[MetricSample]:
    of_model = {"model": model}
    yield from _totals(model, entries)
    waiting = (*ledger.pending_approvals(entries), *ledger.cut_off_approvals(entries))
    yield MetricSample("requant_approvals_waiting", of_model, len(waiting))
    if waiting:
        since = min(entry.time for entry in waiting).timestamp()
        yield MetricSample("requant_approval_oldest_timestamp_seconds", of_model, since)
    interrupted = ledger.interrupted(entries, _is_dead)
    yield MetricSample("requant_intents_interrupted", of_model, len(interrupted))


def _of_traffic(model: str) -> Iterator[MetricSample]:
    newest = newest_time(settings().store(), model, datetime.now(UTC))
    if newest is not None:
        yield MetricSample(
            "requant_traffic_newest_timestamp_seconds", {"model": model}, newest.timestamp()
        )


def _is_dead(intent: LedgerEntry) -> bool:
    """Return whether a run is dead; one of another machine is taken for dead after its lease."""
    return is_gone(intent.details.get("process")) or datetime.now(UTC) >= intent.time + LEASE


def _totals(model: str, entries: Sequence[LedgerEntry]) -> list[MetricSample]:
    kinds = Counter(entry.kind for entry in entries)
    actions = Counter(
        str(entry.details.get("action")) for entry in entries if entry.kind is EntryKind.DECIDED
    )
    failed = sum(
        bool(entry.details.get("failed")) for entry in entries if entry.kind is EntryKind.FINISHED
    )
    samples = [
        MetricSample("requant_runs_failed_total", {"model": model}, failed),
        MetricSample("requant_promotions_total", {"model": model}, kinds[EntryKind.PROMOTED]),
        MetricSample("requant_rollbacks_total", {"model": model}, kinds[EntryKind.ROLLED_BACK]),
        MetricSample(
            "requant_registry_mended_total",
            {"model": model},
            kinds[EntryKind.ALIAS_UNDONE] + kinds[EntryKind.REGISTERED],
        ),
        *(
            MetricSample("requant_decisions_total", {"model": model, "action": name}, n)
            for name, n in actions.items()
        ),
    ]
    reigning = ledger.champion(entries)
    if reigning is not None and reigning.version is not None:
        samples.append(
            MetricSample("requant_champion_version", {"model": model}, float(reigning.version))
        )
    return samples


def _detectors(model: str, results: Sequence[DetectorResult]) -> list[MetricSample]:
    samples = []
    for result in results:
        health = {"model": model, "detector": result.detector, "health": result.health.value}
        samples.append(MetricSample("requant_detector_health", health, 1))
        for finding in result.findings:
            labels = {"model": model, "detector": result.detector, "subject": finding.subject}
            samples.append(MetricSample("requant_detector_value", labels, finding.value))
            samples.append(MetricSample("requant_detector_limit", labels, finding.limit))
    return samples
