"""What the gateway counts, for Prometheus; by the client's own files where workers share it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder of the workers' counters; set before Python starts."""
_FIDELITY = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class GatewayMetrics:
    """Counters of one gateway: of this process, or of all workers together."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.shared = SHARED in os.environ
        model = ("model",)
        counter = partial(Counter, registry=self._registry)
        # Of several workers that live the one that is worst, or last, is told.
        gauge = partial(Gauge, registry=self._registry, multiprocess_mode="livemax")
        histogram = partial(Histogram, registry=self._registry)
        self._requests = counter(
            "requant_gateway_requests",
            "Requests answered, by HTTP status.",
            (*model, "code"),
        )
        self._seconds = histogram(
            "requant_gateway_request_seconds",
            "From the last byte of a request to the first of its answer.",
            model,
            buckets=_SECONDS,
        )
        self._rows = histogram(
            "requant_gateway_batch_rows",
            "Rows of one run of the engine.",
            model,
            buckets=_ROWS,
        )
        self._engine = counter(
            "requant_gateway_engine_seconds", "Seconds that the engine was run.", model
        )
        self._tier = histogram(
            "requant_gateway_tier_seconds",
            "From reading a request to its answer, by the tier that answered, and why that one.",
            (*model, "tier", "why"),
            buckets=_SECONDS,
        )
        self._fidelity = histogram(
            "requant_gateway_tier_fidelity",
            "How close a tier's answers are to full precision's, 1 where equal, of those compared.",
            (*model, "tier"),
            buckets=_FIDELITY,
        )
        self._shadows = counter(
            "requant_gateway_shadow_runs",
            "Requests that were to be answered a second time, by what became of that.",
            (*model, "outcome"),
        )
        self._fallen = gauge(
            "requant_gateway_fallen_back",
            "1 while another release answers, as the champion's answers broke a limit.",
            model,
        )
        self._guarded = counter(
            "requant_gateway_guarded_texts",
            "Texts that guards looked at, by direction, tier, and the guard that blocked them.",
            (*model, "on", "tier", "blocked_by"),
        )
        self._waiting = gauge(
            "requant_gateway_waiting_requests",
            "Requests that wait for a run to begin.",
            model,
            multiprocess_mode="livesum",
        )
        self._version = gauge(
            "requant_gateway_version", "Version of the release that answers.", model
        )
        self._swaps = counter(
            "requant_gateway_swaps", "Times that another release took over.", model
        )
        self._refused = gauge(
            "requant_gateway_head_refused",
            "1 while the ledger's champion is not served, as it could not be verified or run.",
            model,
        )
        self._captured = counter(
            "requant_gateway_captured",
            "Inputs of requests of the live traffic's sample, by what became of them.",
            (*model, "outcome"),
        )
        self._sampled = counter(
            "requant_gateway_sampled_requests",
            "Requests, of those that were answered, that the live traffic's sample chose.",
            model,
        )

    def answered(self, model: str, code: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(model, str(code)).inc()
        self._seconds.labels(model).observe(seconds)

    def steered(self, model: str, tier: str, why: str, seconds: float) -> None:
        """Count one answer of a tier; `why` is empty where no rule sent it elsewhere."""
        self._tier.labels(model, tier, why).observe(seconds)

    def compared(self, model: str, tier: str, fidelity: Iterable[float]) -> None:
        """Note how close answers of a tier were to full precision's, 0 to 1 each."""
        for value in fidelity:
            self._fidelity.labels(model, tier).observe(value)

    def shadowed(self, model: str, outcome: str) -> None:
        """Count one request that was to be answered a second time."""
        self._shadows.labels(model, outcome).inc()

    def fell_back(self, model: str, fallen: bool) -> None:
        """Note whether another release answers in the champion's place."""
        self._fallen.labels(model).set(float(fallen))

    def guarded(self, model: str, on: str, tier: str, blocked_by: str) -> None:
        """Count one text that guards looked at; `blocked_by` is empty where it passed."""
        self._guarded.labels(model, on, tier, blocked_by).inc()

    def ran(self, model: str, rows: int, seconds: float) -> None:
        """Count one run of the engine."""
        self._rows.labels(model).observe(rows)
        self._engine.labels(model).inc(seconds)

    def waits(self, model: str, requests: int) -> None:
        """Note how many requests wait."""
        self._waiting.labels(model).set(requests)

    def serves(self, model: str, version: str) -> None:
        """Note that another release took over."""
        self._version.labels(model).set(float(version) if version.isdecimal() else -1)
        self._swaps.labels(model).inc()

    def refused(self, model: str, refused: bool) -> None:
        """Note whether the ledger's champion is refused."""
        self._refused.labels(model).set(float(refused))

    def sampled(self, model: str) -> None:
        """Count one request of the sample."""
        self._sampled.labels(model).inc()

    def captured(self, model: str, outcome: str, count: int = 1) -> None:
        """Count inputs of sampled requests: `stored`, or why they were dropped."""
        self._captured.labels(model, outcome).inc(count)

    def exposition(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        if not self.shared:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)


def forget_worker(folder: str, worker: int) -> None:
    """Let the gauges of a worker that ended no longer count; what it counted stays."""
    mark_process_dead(worker, folder)  # type: ignore[no-untyped-call]
