"""What a run measured replaces what the run before measured; totals follow the ledger."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.measures import EVERY_S, LiveMeasures, live_samples, write_measures
from infra.errors import Unavailable
from infra.liveness.process import identity
from infra.settings import Settings
from infra.telemetry import parse, read_snapshots
from tasks.promotion import journal
from tasks.promotion.ledger import EntryKind, body
from tasks.records import (
    DetectorResult,
    Finding,
    GateReport,
    GateResult,
    Health,
    Interval,
    Request,
    Verdict,
)
from tasks.traffic.storage.parts import write_traffic
from tasks.validation.costs import CostPair, Costs, cost_gates


def result(detector: str, subject: str, value: float) -> DetectorResult:
    return DetectorResult(detector, Health.FINE, (Finding(subject, value, 1.0, False, "fine"),), 10)


def values(settings: Settings, metric: str) -> dict[tuple[str, ...], float]:
    text = (settings.root / "metrics" / "m.prom").read_text()
    return {
        tuple(sorted(one.labels.values())): one.value for one in parse(text) if one.metric == metric
    }


def test_totals_are_counted_from_the_ledger(workspace: Settings) -> None:
    journal.commit(
        "m",
        lambda _: body(EntryKind.PROMOTED, actor="a", reason="r", version="1", release="f" * 64),
    )
    journal.commit(
        "m",
        lambda _: body(EntryKind.PROMOTED, actor="a", reason="r", version="2", release="e" * 64),
    )
    journal.commit(
        "m",
        lambda _: body(EntryKind.ROLLED_BACK, actor="a", reason="r", version="1", release="f" * 64),
    )
    write_measures("m")
    write_measures("m")
    assert values(workspace, "requant_promotions_total") == {("m",): 2.0}
    assert values(workspace, "requant_rollbacks_total") == {("m",): 1.0}
    assert values(workspace, "requant_champion_version") == {("m",): 1.0}


def test_a_layer_that_is_gone_does_not_linger(workspace: Settings) -> None:
    write_measures("m", results=[result("range", "layer a", 0.5)])
    write_measures("m", results=[result("range", "layer b", 0.25)])
    assert values(workspace, "requant_detector_value") == {("layer b", "m", "range"): 0.25}


def test_a_run_without_detectors_keeps_the_last_ones(workspace: Settings) -> None:
    write_measures("m", results=[result("range", "layer a", 0.5)], flow="maintenance", seconds=3.0)
    write_measures("m", flow="requantize", seconds=4.0)
    assert values(workspace, "requant_detector_value") == {("layer a", "m", "range"): 0.5}
    assert values(workspace, "requant_run_seconds") == {
        ("m", "maintenance"): 3.0,
        ("m", "requantize"): 4.0,
    }


GONE = {**identity(), "process": 2**22 + 1, "started": 1}


def gate(metric: str, value: float, measured: float | None = None) -> GateResult:
    estimate = Interval(value, value, value)
    return GateResult(
        metric, "all", True, Verdict.PASSED, estimate, 2.0, "at most", 1, "fine", measured
    )


def live(metric: str) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in live_samples() if one.metric == metric}


def registered(settings: Settings, model: str = "m") -> None:
    settings.store().put(f"models/{model}/current", b"{}")


def intend(window: str, run: str, process: object) -> None:
    details = {"window": window, "run": run, "process": process}
    journal.commit("m", lambda _: body(EntryKind.INTENDED, actor="a", reason="r", details=details))  # type: ignore[arg-type]


def finish(window: str, run: str, failed: bool) -> None:
    details = {"window": window, "run": run, "failed": failed}
    journal.commit("m", lambda _: body(EntryKind.FINISHED, actor="a", reason="r", details=details))


def test_peak_memory_is_the_bytes_that_were_measured_and_not_the_ratio(
    workspace: Settings, budgets: object
) -> None:
    gates = cost_gates(Costs(peak_memory=CostPair(200e6, 150e6)), budgets)  # type: ignore[arg-type]
    write_measures("m", reports=[GateReport("onnxruntime-cpu", gates)])
    assert values(workspace, "requant_peak_memory_bytes") == {("m", "onnxruntime-cpu"): 150e6}


def test_a_target_that_is_gone_leaves_no_latency_and_no_memory_behind(workspace: Settings) -> None:
    costs = (
        gate("latency-ratio", 0.5),
        gate("peak-memory-ratio", 0.75, 9e6),
        gate("safety-flips", 0.0),
    )
    write_measures("m", reports=[GateReport("old", costs)])
    write_measures("m", reports=[GateReport("new", costs[:1])])
    for metric, targets in {
        "requant_latency_ratio": {("m", "new")},
        "requant_peak_memory_bytes": set(),
        "requant_safety_flips": set(),
    }.items():
        assert set(values(workspace, metric)) == targets


def test_failed_runs_are_counted_from_the_ledger_though_no_run_wrote_a_snapshot(
    workspace: Settings,
) -> None:
    registered(workspace)
    assert live("requant_runs_failed_total") == {("m",): 0.0}
    finish("w", "1", failed=True)
    finish("w", "2", failed=False)
    assert live("requant_runs_failed_total") == {("m",): 1.0}


def test_waiting_candidates_are_counted_with_the_time_of_the_oldest(workspace: Settings) -> None:
    registered(workspace)
    assert live("requant_approvals_waiting") == {("m",): 0.0}
    assert live("requant_approval_oldest_timestamp_seconds") == {}
    for version in ("1", "2"):
        asked = body(
            EntryKind.APPROVAL_REQUESTED, actor="a", reason="r", version=version, release="f" * 64
        )
        journal.commit("m", lambda _, asked=asked: asked)
    assert live("requant_approvals_waiting") == {("m",): 2.0}
    oldest = journal.read("m")[0].time.timestamp()
    assert live("requant_approval_oldest_timestamp_seconds") == {("m",): oldest}


def test_an_intent_is_interrupted_once_its_process_is_gone_and_until_a_run_made_it_good(
    workspace: Settings,
) -> None:
    registered(workspace)
    intend("w1", "1", identity())
    assert live("requant_intents_interrupted") == {("m",): 0.0}
    intend("w2", "2", GONE)
    assert live("requant_intents_interrupted") == {("m",): 1.0}
    finish("w1", "1", failed=True)
    assert live("requant_intents_interrupted") == {("m",): 1.0}
    intend("w2", "3", identity())
    assert live("requant_intents_interrupted") == {("m",): 0.0}
    intend("w3", "4", GONE)
    finish("w2", "3", failed=False)
    assert live("requant_intents_interrupted") == {("m",): 0.0}


def test_the_age_of_traffic_follows_the_newest_believable_request(workspace: Settings) -> None:
    registered(workspace)
    assert live("requant_traffic_newest_timestamp_seconds") == {}
    now = datetime.now(UTC).replace(microsecond=0)
    for age in (timedelta(days=90), timedelta(hours=5), timedelta(hours=-30)):
        write_traffic(
            workspace.store(), "m", [Request(f"r{age}", now - age, "t", "docs", "en", "text")]
        )
    assert live("requant_traffic_newest_timestamp_seconds") == {
        ("m",): (now - timedelta(hours=5)).timestamp()
    }


def test_traffic_that_stopped_long_ago_is_found_too(workspace: Settings) -> None:
    registered(workspace)
    then = datetime(2025, 3, 1, 12, 30, tzinfo=UTC)
    write_traffic(workspace.store(), "m", [Request("r", then, "t", "docs", "en", "text")])
    assert live("requant_traffic_newest_timestamp_seconds") == {("m",): then.timestamp()}


def test_schedules_are_absent_rather_than_on_time_while_prefect_does_not_answer(
    workspace: Settings,
) -> None:
    def silent() -> dict[str, float]:
        raise Unavailable("Prefect did not answer: see whether its server runs")

    assert not [
        one for one in live_samples(silent) if one.metric == "requant_schedule_overdue_seconds"
    ]
    late = [
        one
        for one in live_samples(lambda: {"m": 90.0})
        if one.metric == "requant_schedule_overdue_seconds"
    ]
    assert [(one.labels, one.value) for one in late] == [({"model": "m"}, 90.0)]


def test_a_ledger_that_was_tampered_with_is_told_and_hides_no_other_model(
    workspace: Settings,
) -> None:
    registered(workspace, "m")
    registered(workspace, "n")
    finish("w", "1", failed=True)
    workspace.store().put("ledger/m/00000001.json", b"{}")
    assert live("requant_ledger_readable") == {("m",): 0.0, ("n",): 1.0}
    assert live("requant_runs_failed_total") == {("n",): 0.0}


def test_a_store_that_does_not_answer_is_told_for_every_model_that_left_a_snapshot(
    workspace: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_measures("m")

    def down(*_: object) -> list[str]:
        raise Unavailable("the store does not answer: start it")

    monkeypatch.setattr("flows.measures.model_names", down)
    monkeypatch.setattr("flows.measures.journal.read", down)
    assert live("requant_ledger_readable") == {("m",): 0.0}


def test_live_figures_are_newer_than_those_of_a_snapshot_and_computed_once_an_interval(
    workspace: Settings,
) -> None:
    registered(workspace)
    write_measures("m")
    seconds = [0.0]
    measures = LiveMeasures(clock=lambda: seconds[0])
    measures.samples()
    finish("w", "1", failed=True)
    assert _failed(workspace.root / "metrics", measures) == 0
    seconds[0] = EVERY_S
    assert _failed(workspace.root / "metrics", measures) == 1


def _failed(folder: Path, measures: LiveMeasures) -> float:
    page = parse(read_snapshots(folder, measures.samples()))
    (failed,) = [one.value for one in page if one.metric == "requant_runs_failed_total"]
    return failed


@pytest.fixture
def budgets() -> object:
    from tasks.specs.spec import Budgets, QualityBudget

    quality = [QualityBudget(metric="flips", at_most=0.1)]
    return Budgets(latency_ratio=1.0, size_ratio=1.0, quality=quality)
