"""The Grafana dashboards ask for what Requant exposes alone, and for all that they should show."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

import dashboards
from infra.gateway.metrics import GatewayMetrics
from infra.telemetry import METRICS

FOLDER = Path(dashboards.__file__).parent
BOARDS = {
    path.stem: json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((FOLDER / "grafana").glob("*.json"))
}
PANELS = [panel for board in BOARDS.values() for panel in board["panels"]]
RULES = yaml.safe_load((FOLDER / "prometheus" / "requant.rules.yml").read_text(encoding="utf-8"))
RECORDED = {
    rule["record"]: ("model",)
    for group in RULES["groups"]
    for rule in group["rules"]
    if "record" in rule
}
_TEXT, _PLACE = {"type": "string"}, {"type": "integer", "minimum": 0}
_TARGET = {
    "type": "object",
    "required": ["refId", "expr", "datasource"],
    "properties": {"refId": _TEXT, "expr": _TEXT, "legendFormat": _TEXT},
}
_PANEL = {
    "type": "object",
    "required": ["id", "type", "gridPos"],
    "properties": {
        "type": {"enum": ["row", "stat", "timeseries", "state-timeline", "table"]},
        "title": _TEXT,
        "gridPos": {
            "type": "object",
            "required": ["x", "y", "w", "h"],
            "additionalProperties": False,
            "properties": {
                "x": {**_PLACE, "maximum": 23},
                "y": _PLACE,
                "w": {**_PLACE, "maximum": 24},
                "h": _PLACE,
            },
        },
        "targets": {"type": "array", "items": _TARGET},
        "fieldConfig": {"type": "object", "required": ["defaults", "overrides"]},
    },
}
SCHEMA = {
    "type": "object",
    "required": ["title", "uid", "schemaVersion", "panels", "templating", "annotations", "time"],
    "properties": {
        "title": _TEXT,
        "uid": {"type": "string", "maxLength": 40},
        "tags": {"type": "array", "items": _TEXT},
        "graphTooltip": {"enum": [0, 1, 2]},
        "schemaVersion": {"type": "integer"},
        "panels": {"type": "array", "items": _PANEL},
        "links": {"type": "array", "items": {"type": "object", "required": ["title", "type"]}},
    },
}
"""Types and values that a dashboard is held to beside Grafana's own models, which know fields."""
OUTSIDE = re.compile(
    r"annotations\.list\.\d+\.(step|titleFormat|textFormat)"  # of the Prometheus data source
    r"|templating\.list\.\d+\.definition"  # what Grafana's page shows of a variable's query
)
"""Fields that Grafana writes and its published models leave out."""
each_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def gateways() -> dict[str, tuple[str, ...]]:
    """Return the gateway's series -> labels, as its own registry names them."""
    collectors = {
        value._name: (value._type, tuple(value._labelnames))
        for value in vars(GatewayMetrics()).values()
        if hasattr(value, "_labelnames")
    }
    suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        f"{name}{suffix}": labels
        for name, (kind, labels) in collectors.items()
        for suffix in suffixes[kind]
    }


GATEWAY = gateways()
LABELS = {name: metric.labels for name, metric in METRICS.items()} | GATEWAY | RECORDED
NAME = r"\b(requant[_:][\w:]+)"


def expressions() -> Iterator[str]:
    for board in BOARDS.values():
        yield from of_board(board)


def of_board(board: dict[str, Any]) -> Iterator[str]:
    panels, variables = board["panels"], board["templating"]["list"]
    yield from (target["expr"] for panel in panels for target in panel.get("targets", []))
    yield from (variable["definition"] for variable in variables if variable["type"] == "query")
    yield from (annotation["expr"] for annotation in board["annotations"]["list"])


def selectors() -> list[tuple[str, list[str]]]:
    """Return each metric in each expression, with the labels that it is filtered by."""
    found = [
        match for text in expressions() for match in re.findall(NAME + r"(?:\{([^}]*)\})?", text)
    ]
    return [(name, re.findall(r"(\w+)\s*[=!]~?", labels)) for name, labels in found]


def test_every_metric_in_an_expression_is_exposed() -> None:
    assert selectors()
    assert {name for name, _ in selectors()} <= set(LABELS)


def test_every_metric_that_is_exposed_is_shown() -> None:
    shown = {name for name, _ in selectors()}
    assert set(METRICS) <= shown
    histograms = {name.rpartition("_")[0] for name in GATEWAY if name.endswith("_bucket")}
    plain = {name for name in GATEWAY if name.rpartition("_")[0] not in histograms}
    assert plain <= shown
    assert all(any(name.startswith(stem) for name in shown) for stem in histograms)


def test_expressions_filter_only_by_labels_that_the_metric_has() -> None:
    for name, labels in selectors():
        assert set(labels) <= {*LABELS[name], "le"}, name


def test_legends_name_only_labels_that_the_metric_has() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            known = set().union(*(LABELS[name] for name in re.findall(NAME, target["expr"])))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, panel[
                "title"
            ]


@each_board
def test_variables_in_expressions_are_defined(board: dict[str, Any]) -> None:
    variables = {variable["name"] for variable in board["templating"]["list"]}
    used = {
        name
        for text in of_board(board)
        for name in re.findall(r"\$(\w+)", text)
        if not name.startswith("__")
    }
    assert used <= variables
    assert {"datasource", "model"} <= variables


@each_board
def test_panel_ids_are_unique(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)


def test_queries_of_one_panel_have_different_names() -> None:
    for panel in PANELS:
        names = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(names)) == len(names), panel["title"]


@each_board
def test_panels_do_not_overlap(board: dict[str, Any]) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize(
    "panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda panel: panel["title"]
)
def test_each_panel_explains_itself_and_uses_the_chosen_data_source(panel: dict) -> None:
    assert panel["description"]
    assert panel["datasource"]["uid"] == "${datasource}"
    assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


def test_the_dashboards_can_be_imported_anywhere() -> None:
    assert set(BOARDS) == {"overview", "model", "pipeline", "gateway"}
    for name, board in BOARDS.items():
        assert board["uid"] == f"requant-{name}"
        assert "id" not in board
        assert board["schemaVersion"] >= 39


@each_board
def test_each_dashboard_keeps_to_types_and_values(board: dict[str, Any]) -> None:
    wrong = jsonschema.validators.validator_for(SCHEMA)(SCHEMA).iter_errors(board)
    assert [error.message for error in wrong] == []


def strangers(board: dict[str, Any]) -> list[str]:
    """Return the fields that Grafana's own models of release 11.6 do not give back as they are.

    The models are generated from Grafana's schemas, of panels and of Prometheus queries, too.
    """
    register_default_plugins()
    back = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    return [place for place in changed(board, back) if not OUTSIDE.fullmatch(place)]


def changed(left: Any, right: Any, place: str = "") -> Iterator[str]:
    if isinstance(left, dict) and isinstance(right, dict):
        for name, value in left.items():
            yield from changed(value, right.get(name, ...), f"{place}.{name}".strip("."))
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, pair in enumerate(zip(left, right, strict=True)):
            yield from changed(*pair, f"{place}.{number}")
    elif left != right:
        yield place


@each_board
def test_each_dashboard_has_no_field_that_grafanas_own_models_do_not_know(
    board: dict[str, Any],
) -> None:
    assert strangers(board) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"graphTooltips": 1},
        {"panels": [{"type": "timeseries", "gridPos": {"x": 0, "why": 0}}]},
        {"panels": [{"type": "stat", "options": {"colourMode": "value"}}]},
        {"panels": [{"type": "table", "fieldConfig": {"defaults": {"units": "s"}}}]},
        {
            "panels": [
                {
                    "type": "stat",
                    "targets": [{"datasource": {"type": "prometheus"}, "expression": "up"}],
                }
            ]
        },
    ],
)
def test_a_misspelt_field_is_a_stranger(wrong: dict[str, Any]) -> None:
    assert strangers(wrong) != []


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    docs = FOLDER.parent / "docs" / "runbooks"
    alerts = {
        rule["alert"]: rule["annotations"]["runbook"]
        for group in RULES["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    assert set(alerts.values()) == {f"docs/runbooks/{name}.md" for name in alerts}
    assert {path.stem for path in docs.glob("Requant*.md")} == set(alerts)
    listed = (docs / "README.md").read_text(encoding="utf-8")
    assert all(f"[{name}]({name}.md)" in listed for name in alerts)
