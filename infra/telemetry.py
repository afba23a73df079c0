"""Prometheus metrics of processes that are gone before anyone could scrape them.

A flow writes one text snapshot per model into the workspace (`metrics/MODEL.prom`); the console
merges the snapshots and serves them on /metrics. Counters are totals counted from the ledger, so a
restart cannot set them back, and every run replaces the whole snapshot, so a series that ended is
gone. What changes without a run (how old traffic is, who waits) is computed when /metrics is asked:
those metrics are marked `live`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from infra.errors import BadInput, Unavailable

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""What /metrics answers with."""
SUFFIX = ".prom"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric that Requant exposes.

    A name that ends in `_total` is a counter, any other a gauge.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    live: bool = False  # computed when /metrics is asked, because it changes while nothing runs

    @property
    def counter(self) -> bool:
        """Whether it only ever grows."""
        return self.name.endswith("_total")


_GATE = ("model", "target", "metric", "group")

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "requant_detector_value",
            "What a drift detector measured in the newest window.",
            ("model", "detector", "subject"),
        ),
        Metric(
            "requant_detector_limit",
            "The limit that the detector value is held against.",
            ("model", "detector", "subject"),
        ),
        Metric(
            "requant_detector_health",
            "1 for what the detector says.",
            ("model", "detector", "health"),
        ),
        Metric(
            "requant_decisions_total", "Decisions in the ledger, by action.", ("model", "action")
        ),
        Metric("requant_gate_estimate", "Point estimate of the newest candidate's gate.", _GATE),
        Metric("requant_gate_budget", "The budget of the gate.", _GATE),
        Metric("requant_gate_verdict", "1 for the gate's verdict.", (*_GATE, "verdict")),
        Metric("requant_champion_version", "Version of the release that serves.", ("model",)),
        Metric("requant_promotions_total", "Promotions in the ledger.", ("model",)),
        Metric("requant_rollbacks_total", "Rollbacks in the ledger.", ("model",)),
        Metric(
            "requant_registry_mended_total",
            "Times that what the registry held was put back or registered again.",
            ("model",),
        ),
        Metric(
            "requant_champion_verified",
            "1 while the newest reconciliation found what serves as it was signed, else 0.",
            ("model",),
        ),
        # A gauge: a process of one run has one duration, and a histogram of one never fills.
        Metric("requant_run_seconds", "Duration of the newest run of a flow.", ("model", "flow")),
        Metric(
            "requant_run_timestamp_seconds",
            "When the newest run of a flow ended, Unix time.",
            ("model", "flow"),
        ),
        Metric(
            "requant_latency_ratio",
            "Latency over full precision's, median of paired runs.",
            ("model", "target"),
        ),
        Metric(
            "requant_peak_memory_bytes",
            "Peak memory of the newest candidate's engine, as measured.",
            ("model", "target"),
        ),
        Metric(
            "requant_safety_flips",
            "Safety decisions that differ from full precision.",
            ("model", "target"),
        ),
        Metric(
            "requant_snapshot_timestamp_seconds",
            "When the snapshot was written, Unix time.",
            ("model",),
        ),
        Metric(
            "requant_unreadable_snapshots",
            "Snapshot files that /metrics had to leave out.",
            (),
            live=True,
        ),
        Metric("requant_runs_failed_total", "Runs that the ledger says failed.", ("model",)),
        Metric(
            "requant_ledger_readable",
            "1 when the model's ledger and traffic could be read, else 0.",
            ("model",),
            live=True,
        ),
        Metric(
            "requant_approvals_waiting", "Candidates that wait for a person.", ("model",), live=True
        ),
        Metric(
            "requant_approval_oldest_timestamp_seconds",
            "Since when the oldest candidate waits, Unix time.",
            ("model",),
            live=True,
        ),
        Metric(
            "requant_intents_interrupted",
            "Re-quantizations that began, died and were not continued.",
            ("model",),
            live=True,
        ),
        Metric(
            "requant_traffic_newest_timestamp_seconds",
            "When the newest stored request was made, Unix time.",
            ("model",),
            live=True,
        ),
        Metric(
            "requant_schedule_overdue_seconds",
            "How long the schedule's run is overdue; absent while Prefect does not answer.",
            ("model",),
            live=True,
        ),
    )
}
"""Every metric by its name."""


@dataclass(frozen=True, slots=True)
class MetricSample:
    """One value of one metric, with exactly the labels that the metric names."""

    metric: str
    labels: Mapping[str, str]
    value: float


class _Samples(Collector):
    """Hands fixed values to prometheus_client, which knows the text format."""

    def __init__(self, samples: Iterable[MetricSample]) -> None:
        self._samples = {(s.metric, _label_values(s)): s.value for s in samples}

    def collect(self) -> Iterator[Family]:
        for name in METRICS:
            values = [
                (labels, value)
                for (metric, labels), value in self._samples.items()
                if metric == name
            ]
            if values:
                yield _family(METRICS[name], sorted(values))


def render(samples: Iterable[MetricSample]) -> str:
    """Return the samples in Prometheus' text format.

    Of two samples with the same labels the later one counts.

    Raises:
        BadInput: A metric is unknown, labels are other than the metric's, or a counter is below 0.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Samples(samples))
    return generate_latest(registry).decode()


def parse(text: str) -> tuple[MetricSample, ...]:
    """Parse the samples in Prometheus' text.

    Metrics that this version does not know are left out.

    Raises:
        BadInput: The text is not in that format.
    """
    try:
        families = list(text_string_to_metric_families(text))
        samples = [
            MetricSample(s.name, dict(s.labels), float(s.value))
            for family in families
            for s in family.samples
        ]
    except (ValueError, KeyError, IndexError, TypeError) as exc:
        raise BadInput(
            f"a metrics text is not in Prometheus' format ({exc}): "
            "delete it, the next run writes it"
        ) from exc
    return tuple(
        s for s in samples if s.metric in METRICS and set(s.labels) == set(METRICS[s.metric].labels)
    )


def write_snapshot(path: Path, samples: Iterable[MetricSample]) -> None:
    """Replace a snapshot file atomically, making its folder.

    It raises `BadInput` as `render` does, and `Unavailable`.
    """
    text = render(samples)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".partial")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
    except OSError as exc:
        raise Unavailable(
            f"the metrics snapshot {path} could not be written ({exc.strerror}): check the disk"
        ) from exc


def read_snapshots(folder: Path, live: Iterable[MetricSample] = ()) -> str:
    """Read all snapshots of a folder as one text, each metric once.

    A folder that is not there has none. `live` samples are newer than any snapshot and count where
    both have one. A file that cannot be read is left out and counted in
    `requant_unreadable_snapshots`: the others stay visible.
    """
    samples: list[MetricSample] = []
    unreadable = 0
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        try:
            samples += parse(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, BadInput):
            unreadable += 1
    return render([*samples, MetricSample("requant_unreadable_snapshots", {}, unreadable), *live])


def _family(metric: Metric, values: Iterable[tuple[tuple[str, ...], float]]) -> Family:
    kind = CounterMetricFamily if metric.counter else GaugeMetricFamily
    family = kind(metric.name, metric.help, labels=metric.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _label_values(sample: MetricSample) -> tuple[str, ...]:
    metric = METRICS.get(sample.metric)
    if metric is None:
        raise BadInput(f"the metric {sample.metric!r} is unknown; allowed: {', '.join(METRICS)}")
    if set(sample.labels) != set(metric.labels):
        raise BadInput(
            f"{metric.name} got the labels {sorted(sample.labels)}: "
            f"it needs exactly {sorted(metric.labels)}"
        )
    if metric.counter and not sample.value >= 0:
        raise BadInput(f"the counter {metric.name} got {sample.value}: a counter is 0 or more")
    return tuple(str(sample.labels[name]) for name in metric.labels)
