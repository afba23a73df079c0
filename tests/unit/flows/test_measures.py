"""What a run measured replaces what the run before measured; totals follow the ledger."""

from flows.measures import write_measures
from infra.settings import Settings
from infra.telemetry import parse
from tasks.promotion import journal
from tasks.promotion.ledger import Kind, body
from tasks.records import Finding, Health, LensReading


def reading(lens: str, subject: str, value: float) -> LensReading:
    return LensReading(lens, Health.FINE, (Finding(subject, value, 1.0, False, "fine"),), 10)


def values(settings: Settings, metric: str) -> dict[tuple[str, ...], float]:
    text = (settings.root / "metrics" / "m.prom").read_text()
    return {tuple(sorted(one.labels.values())): one.value for one in parse(text) if one.metric == metric}


def test_totals_are_counted_from_the_ledger(workspace: Settings) -> None:
    journal.commit("m", lambda _: body(Kind.PROMOTED, actor="a", reason="r", version="1", release="f" * 64))
    journal.commit("m", lambda _: body(Kind.PROMOTED, actor="a", reason="r", version="2", release="e" * 64))
    journal.commit("m", lambda _: body(Kind.ROLLED_BACK, actor="a", reason="r", version="1", release="f" * 64))
    write_measures("m")
    write_measures("m")
    assert values(workspace, "requant_promotions_total") == {("m",): 2.0}
    assert values(workspace, "requant_rollbacks_total") == {("m",): 1.0}
    assert values(workspace, "requant_champion_version") == {("m",): 1.0}


def test_a_layer_that_is_gone_does_not_linger(workspace: Settings) -> None:
    write_measures("m", readings=[reading("range", "layer a", 0.5)])
    write_measures("m", readings=[reading("range", "layer b", 0.25)])
    assert values(workspace, "requant_lens_value") == {("layer b", "m", "range"): 0.25}


def test_a_run_without_lenses_keeps_the_last_ones(workspace: Settings) -> None:
    write_measures("m", readings=[reading("range", "layer a", 0.5)], flow="maintenance", seconds=3.0)
    write_measures("m", flow="requantize", seconds=4.0)
    assert values(workspace, "requant_lens_value") == {("layer a", "m", "range"): 0.5}
    assert values(workspace, "requant_run_seconds") == {("m", "maintenance"): 3.0, ("m", "requantize"): 4.0}
