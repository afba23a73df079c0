"""Snapshots parse as Prometheus text, merge into one valid page and survive broken neighbours."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from infra.errors import BadInput, Unavailable
from infra.telemetry import (
    METRICS,
    Metric,
    MetricSample,
    parse,
    read_snapshots,
    render,
    write_snapshot,
)


def sample(metric: Metric, value: float = 1.0, **labels: str) -> MetricSample:
    return MetricSample(
        metric.name, {name: labels.get(name, f"a-{name}") for name in metric.labels}, value
    )


ONE_OF_EACH = [sample(metric) for metric in METRICS.values()]


def promotions(model: str, value: float) -> MetricSample:
    return MetricSample("requant_promotions_total", {"model": model}, value)


def test_every_metric_renders_as_prometheus_text() -> None:
    families = list(text_string_to_metric_families(render(ONE_OF_EACH)))
    assert {s.name for family in families for s in family.samples} == set(METRICS)
    kinds = {s.name: family.type for family in families for s in family.samples}
    assert {name for name, kind in kinds.items() if kind == "counter"} == {
        n for n in METRICS if n.endswith("_total")
    }
    assert all(family.documentation for family in families)


def test_metric_names_follow_prometheus_conventions() -> None:
    assert all(name.startswith("requant_") for name in METRICS)
    assert all(metric.help.endswith(".") for metric in METRICS.values())


def test_the_same_samples_render_the_same_text_in_any_order() -> None:
    assert render(ONE_OF_EACH) == render(ONE_OF_EACH[::-1])


def test_nothing_renders_as_nothing() -> None:
    assert render([]) == ""


@settings(max_examples=50, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=20), st.floats(0, 1e12))
def test_any_label_survives_the_text_format(subject: str, value: float) -> None:
    original = sample(METRICS["requant_detector_value"], value, subject=subject)
    assert parse(render([original])) == (original,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (MetricSample("requant_other", {}, 1), "is unknown; allowed: requant_"),
        (MetricSample("requant_champion_version", {}, 1), r"needs exactly \['model'\]"),
        (MetricSample("requant_champion_version", {"model": "m", "x": "y"}, 1), "needs exactly"),
        (promotions("m", -1), "0 or more"),
        (promotions("m", float("nan")), "0 or more"),
    ],
)
def test_a_sample_that_does_not_fit_its_metric_is_refused(
    wrong: MetricSample, message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        render([wrong])


def test_of_two_samples_with_the_same_labels_the_later_counts() -> None:
    assert parse(render([promotions("m", 1), promotions("m", 2)])) == (promotions("m", 2),)


def test_snapshots_of_all_models_merge_into_one_page(tmp_path: Path) -> None:
    write_snapshot(tmp_path / "metrics" / "a.prom", [promotions("a", 3)])
    write_snapshot(tmp_path / "metrics" / "b.prom", [promotions("b", 4)])
    page = read_snapshots(tmp_path / "metrics")
    assert page.count("# TYPE requant_promotions_total counter") == 1
    assert parse(page) == (
        promotions("a", 3),
        promotions("b", 4),
        MetricSample("requant_unreadable_snapshots", {}, 0),
    )


def test_a_snapshot_replaces_the_former_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    write_snapshot(path, ONE_OF_EACH)
    write_snapshot(path, [promotions("a", 1)])
    assert parse(path.read_text()) == (promotions("a", 1),)
    assert [p.name for p in tmp_path.iterdir()] == ["a.prom"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_refused_snapshot_leaves_the_former_one(tmp_path: Path) -> None:
    path = tmp_path / "a.prom"
    write_snapshot(path, [promotions("a", 1)])
    with pytest.raises(BadInput):
        write_snapshot(path, [promotions("a", -1)])
    assert parse(path.read_text()) == (promotions("a", 1),)


def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "metrics").write_text("a file, not a folder")
    with pytest.raises(Unavailable, match="could not be written"):
        write_snapshot(tmp_path / "metrics" / "a.prom", [promotions("a", 1)])


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a.prom").mkdir()
    with pytest.raises(Unavailable):
        write_snapshot(tmp_path / "a.prom", [promotions("a", 1)])
    assert [p.name for p in tmp_path.iterdir()] == ["a.prom"]


@pytest.mark.parametrize(
    "content", [b"not { prometheus", b"\xff\xfe", b'requant_promotions_total{model="a"} many']
)
def test_a_broken_snapshot_is_counted_and_hides_no_other(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.prom").write_bytes(content)
    write_snapshot(tmp_path / "b.prom", [promotions("b", 4)])
    found = parse(read_snapshots(tmp_path))
    assert found == (promotions("b", 4), MetricSample("requant_unreadable_snapshots", {}, 1))


def test_metrics_of_another_version_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.prom").write_text(
        'requant_retired{model="a"} 1\nrequant_champion_version{name="a"} 1\n'
    )
    assert parse(read_snapshots(tmp_path)) == (MetricSample("requant_unreadable_snapshots", {}, 0),)


def test_a_workspace_without_snapshots_still_has_a_page(tmp_path: Path) -> None:
    assert "requant_unreadable_snapshots 0.0" in read_snapshots(tmp_path / "none")
