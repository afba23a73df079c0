"""The metrics of one model, written as a snapshot that /metrics serves."""

import time
from collections import Counter
from collections.abc import Sequence

from infra.settings import settings
from infra.telemetry import SUFFIX, Sample, parse, write_snapshot
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import Kind
from tasks.records import GateReport, LensReading
from tasks.validation.report import to_samples


def write_measures(
    model: str,
    *,
    readings: Sequence[LensReading] = (),
    reports: Sequence[GateReport] = (),
    flow: str | None = None,
    seconds: float = 0.0,
) -> None:
    """Merge what this run measured into the model's snapshot; totals are counted from the ledger."""
    path = settings().root / "metrics" / f"{model}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [one for one in (parse(path.read_text()) if path.exists() else ()) if not _replaced(one, readings, reports)]
    samples = [*kept, *_totals(model), *_lenses(model, readings)]
    for report in reports:
        samples += to_samples(model, report)
    if flow:
        samples.append(Sample("requant_run_seconds", {"model": model, "flow": flow}, seconds))
    samples.append(Sample("requant_snapshot_timestamp_seconds", {"model": model}, time.time()))
    write_snapshot(path, samples)


def _replaced(sample: Sample, readings: Sequence[LensReading], reports: Sequence[GateReport]) -> bool:
    """A run replaces all series of what it measured: a group or layer that is gone must not linger."""
    return bool(
        (readings and sample.metric.startswith("requant_lens_"))
        or (reports and sample.metric.startswith("requant_gate_"))
    )


def _totals(model: str) -> list[Sample]:
    entries = journal.read(model)
    kinds = Counter(entry.kind for entry in entries)
    actions = Counter(str(entry.details.get("action")) for entry in entries if entry.kind is Kind.DECIDED)
    samples = [
        Sample("requant_promotions_total", {"model": model}, kinds[Kind.PROMOTED]),
        Sample("requant_rollbacks_total", {"model": model}, kinds[Kind.ROLLED_BACK]),
        *(Sample("requant_decisions_total", {"model": model, "action": name}, n) for name, n in actions.items()),
    ]
    reigning = ledger.champion(entries)
    if reigning is not None and reigning.version is not None:
        samples.append(Sample("requant_champion_version", {"model": model}, float(reigning.version)))
    return samples


def _lenses(model: str, readings: Sequence[LensReading]) -> list[Sample]:
    samples = []
    for reading in readings:
        health = {"model": model, "lens": reading.lens, "health": reading.health.value}
        samples.append(Sample("requant_lens_health", health, 1))
        for finding in reading.findings:
            labels = {"model": model, "lens": reading.lens, "subject": finding.subject}
            samples.append(Sample("requant_lens_value", labels, finding.value))
            samples.append(Sample("requant_lens_limit", labels, finding.limit))
    return samples
