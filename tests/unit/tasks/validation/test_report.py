"""A report survives JSON, fits MLflow and Prometheus, and renders hostile names harmlessly."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name

from infra import telemetry
from infra.errors import BadInput
from tasks.records import GateReport, GateResult, Interval, Verdict
from tasks.validation.report import from_json, to_json, to_markdown, to_metrics, to_samples


def gate(metric: str = "cosine", group: str = "all", **fields: object) -> GateResult:
    values: dict[str, object] = {
        "binding": True,
        "verdict": Verdict.PASSED,
        "estimate": Interval(0.995, 0.99, 0.999),
        "budget": 0.98,
        "direction": "at least",
        "count": 100,
        "reason": "fine",
    }
    return GateResult(metric, group, **(values | fields))  # type: ignore[arg-type]


REPORT = GateReport(
    "onnxruntime-cpu",
    (
        gate(),
        gate(group="language=ja", verdict=Verdict.INCONCLUSIVE, estimate=None, count=0),
        gate(
            "latency-ratio",
            verdict=Verdict.FAILED,
            estimate=Interval(1.2, 1.1, 1.3),
            direction="at most",
        ),
        gate(group="domain=code", verdict=Verdict.ERROR, estimate=None, binding=False),
        gate("safety-flips", estimate=Interval(0, 0, 0), budget=0, direction="at most"),
    ),
)


def test_json_comes_back_equal() -> None:
    assert from_json(to_json(REPORT)) == REPORT
    assert json.loads(to_json(REPORT))["version"] == 2


@settings(max_examples=50, deadline=None)
@given(
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_group_and_figure_survive_json(group: str, value: float) -> None:
    report = GateReport("t", (gate(group=group, estimate=Interval(value, value, value)),))
    assert from_json(to_json(report)) == report


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 3, "target": "t", "gates": []}',
        '{"version": 1, "target": "t", "gates": [{}]}',
        '{"version": 1, "target": "t", "gates": [], "more": 1}',
        to_json(REPORT).replace('"passed"', '"perfect"'),
        to_json(REPORT)[:-20],
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="the gate report is not readable at"):
        from_json(text)


def test_markdown_leads_with_the_verdict_and_the_worst_binding_gates() -> None:
    lines = to_markdown(REPORT).splitlines()
    assert lines[0] == "## onnxruntime-cpu: failed"
    assert [line.split(" | ")[0] for line in lines[4:]] == [
        "| failed",
        "| inconclusive",
        "| passed",
        "| passed",
        "| error",
    ]
    assert "0.995 [0.99, 0.999]".replace("[", "\\[").replace("]", "\\]") in to_markdown(REPORT)


def test_names_from_traffic_cannot_break_the_table() -> None:
    hostile = "language=x|y\n| <img src=x> [a](b) `c`"
    text = to_markdown(GateReport("t", (gate(group=hostile),)))
    assert len(text.splitlines()) == 5
    row = (
        text.splitlines()[-1]
        .replace("\\|", "")
        .replace("\\<", "")
        .replace("\\[", "")
        .replace("\\`", "")
    )
    assert row.count("|") == 9
    assert not set("<[`") & set(row)


def test_metrics_have_names_that_people_recognise() -> None:
    found = to_metrics(REPORT)
    assert found["onnxruntime-cpu/cosine.all"] == 0.995
    assert found["onnxruntime-cpu/cosine.all.low"] == 0.99
    assert found["onnxruntime-cpu/cosine.all.high"] == 0.999
    named = to_metrics(GateReport("t", (gate(group="language=ja"),)))
    assert "t/cosine.language.ja" in named
    assert not any("language" in name for name in found)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=300))
def test_mlflow_accepts_every_name(group: str) -> None:
    for name in to_metrics(GateReport("tensorrt-rtx", (gate(group=f"domain={group}"),))):
        _validate_metric_name(name)
        assert len(name) < 250


def test_groups_that_differ_only_in_forbidden_letters_keep_different_names() -> None:
    report = GateReport(
        "t", (gate(group="domain=a/b"), gate(group="domain=a_b"), gate(group="domain=a b"))
    )
    assert len(to_metrics(report)) == 9


def test_samples_are_accepted_by_telemetry() -> None:
    text = telemetry.render(to_samples("minilm", REPORT))
    assert 'requant_latency_ratio{model="minilm",target="onnxruntime-cpu"} 1.2' in text
    assert 'requant_safety_flips{model="minilm",target="onnxruntime-cpu"} 0.0' in text
    assert text.count("requant_gate_verdict{") == 5
    assert text.count("requant_gate_estimate{") == 3
