"""One gate report for each reader.

Markdown for people, JSON for the release, names for MLflow and Prometheus.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from infra import telemetry
from infra.errors import BadInput
from tasks.records import (
    OF_GENERATION,
    FlippedAnswers,
    GateReport,
    GateResult,
    Interval,
    Verdict,
)

_ORDER = (
    Verdict.ERROR,
    Verdict.FAILED,
    Verdict.SUSPICIOUS,
    Verdict.INCONCLUSIVE,
    Verdict.PASSED,
)


_OF_THE_MACHINE = frozenset(
    {
        "latency-ratio",
        "peak-memory-ratio",
        "fp16-latency-ratio",
        "fp16-peak-memory-ratio",
        *OF_GENERATION,
    }
)


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1, 2]
    target: str
    gates: tuple[GateResult, ...]
    flips: tuple[FlippedAnswers, ...] = ()  # version 1 had none


def to_json(report: GateReport) -> str:
    """Write the report as JSON, `version` 2; `from_json` reads it back equal."""
    document = _Document(version=2, target=report.target, gates=report.gates, flips=report.flips)
    return document.model_dump_json(indent=2)


def from_json(text: str | bytes) -> GateReport:
    """Read what `to_json` wrote; raises `BadInput` for anything else."""
    try:
        document = _Document.model_validate_json(text)
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the top"
        raise BadInput(
            f"the gate report is not readable at {place} ({first['msg']}): "
            "write it with tasks.validation.report.to_json"
        ) from exc
    return GateReport(document.target, document.gates, document.flips)


def is_settled(report: GateReport) -> bool:
    """Return whether judging again would say the same: it passed, or failed by more than a timing.

    A machine that is busy today may make a latency or a memory figure fail that passes tomorrow.
    """
    failed = {gate.metric for gate in report.refusals if gate.verdict is Verdict.FAILED}
    return report.verdict in (Verdict.PASSED, Verdict.SUSPICIOUS) or (
        report.verdict is Verdict.FAILED and bool(failed - _OF_THE_MACHINE)
    )


def to_markdown(report: GateReport) -> str:
    """Write a table with the worst gates first, under a heading with the verdict.

    Text from traffic is escaped.
    """
    lines = [
        f"## {_escaped(report.target)}: {report.verdict}",
        "",
        "| verdict | metric | group | estimate | budget | cases | binds | reason |",
        "|---|---|---|---|---|---|---|---|",
        *(
            _line(gate)
            for gate in sorted(
                report.gates, key=lambda gate: (not gate.binding, _ORDER.index(gate.verdict))
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def to_metrics(report: GateReport) -> Mapping[str, float]:
    """Return the estimates under names that MLflow allows.

    For example "onnxruntime-cpu/cosine.language.ja", with ".low" and ".high". Letters that MLflow
    or a file system would refuse become "_", and a short digest keeps such names apart.
    """
    return {
        f"{_clean(report.target)}/{_clean(gate.metric)}.{_group(gate.group)}{suffix}": value
        for gate in report.gates
        for suffix, value in _figures(gate.estimate)
    }


def to_samples(model: str, report: GateReport) -> Iterator[telemetry.MetricSample]:
    """Yield the report as Prometheus samples, for `telemetry.write_snapshot`."""
    for gate in report.gates:
        labels = {
            "model": model,
            "target": report.target,
            "metric": gate.metric,
            "group": gate.group,
        }
        if gate.reported:
            continue  # a figure without a verdict would look like an open question
        yield telemetry.MetricSample("requant_gate_verdict", {**labels, "verdict": gate.verdict}, 1)
        yield telemetry.MetricSample("requant_gate_budget", labels, gate.budget)
        if gate.estimate is None:
            continue
        yield telemetry.MetricSample("requant_gate_estimate", labels, gate.estimate.value)
        if gate.metric in _OWN_METRICS:
            own = {"model": model, "target": report.target}
            yield telemetry.MetricSample(_OWN_METRICS[gate.metric], own, gate.estimate.value)
        if gate.metric == "peak-memory-ratio" and gate.measured is not None:
            own = {"model": model, "target": report.target}
            yield telemetry.MetricSample(_PEAK_MEMORY, own, gate.measured)


_OWN_METRICS = {"latency-ratio": "requant_latency_ratio", "safety-flips": "requant_safety_flips"}
_PEAK_MEMORY = "requant_peak_memory_bytes"
OF_REPORTS = (
    "requant_gate_estimate",
    "requant_gate_budget",
    "requant_gate_verdict",
    *_OWN_METRICS.values(),
    _PEAK_MEMORY,
)
"""Every metric that `to_samples` gives."""


def _line(gate: GateResult) -> str:
    estimate = gate.estimate
    figures = (
        "–"
        if estimate is None
        else f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
    )
    budget = "–" if gate.reported else f"{gate.direction} {gate.budget:g}"
    cells = (gate.verdict, gate.metric, gate.group, figures, budget, str(gate.count))
    return (
        f"| {' | '.join(map(_escaped, (*cells, 'yes' if gate.binding else 'no', gate.reason)))} |"
    )


def _escaped(text: str) -> str:
    """Escape a group name, which comes from traffic: no cell, link or tag of it may take effect."""
    return re.sub(r"([\\`*_|\[\]<>&!#])", r"\\\1", " ".join(text.split()))


def _figures(estimate: Interval | None) -> tuple[tuple[str, float], ...]:
    if estimate is None:
        return ()
    return ("", estimate.value), (".low", estimate.low), (".high", estimate.high)


def _group(group: str) -> str:
    dimension, _, value = group.partition("=")
    return f"{dimension}.{_clean(value)}" if value else _clean(dimension)


def _clean(text: str, most: int = 60) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_-]", "_", text)[:most]
    return cleaned if cleaned == text else f"{cleaned}-{sha256(text.encode()).hexdigest()[:8]}"
