"""The Grafana dashboard asks only for what Requant exposes, and all of what it should show."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import dashboards
from infra.telemetry import METRICS

FOLDER = Path(dashboards.__file__).parent / "grafana"
DASHBOARD = json.loads((FOLDER / "requant.json").read_text(encoding="utf-8"))
PANELS = DASHBOARD["panels"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}


def expressions() -> Iterator[str]:
    yield from (target["expr"] for panel in PANELS for target in panel.get("targets", []))
    yield from (
        variable["definition"] for variable in VARIABLES.values() if variable["type"] == "query"
    )
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


def selectors() -> list[tuple[str, list[str]]]:
    """Return each metric in each expression, with the labels that it is filtered by."""
    found = [
        match
        for text in expressions()
        for match in re.findall(r"\b(requant_\w+)(?:\{([^}]*)\})?", text)
    ]
    return [(name, re.findall(r"(\w+)\s*[=!]~?", labels)) for name, labels in found]


def test_every_metric_in_an_expression_is_exposed() -> None:
    assert selectors()
    assert {name for name, _ in selectors()} <= set(METRICS)


def test_every_metric_that_is_exposed_is_shown() -> None:
    assert set(METRICS) <= {name for name, _ in selectors()}


def test_expressions_filter_only_by_labels_that_the_metric_has() -> None:
    for name, labels in selectors():
        assert set(labels) <= set(METRICS[name].labels), name


def test_legends_name_only_labels_that_the_metric_has() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            known = set().union(
                *(METRICS[name].labels for name in re.findall(r"\brequant_\w+", target["expr"]))
            )
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= known, panel[
                "title"
            ]


def test_variables_in_expressions_are_defined() -> None:
    used = {
        name
        for text in expressions()
        for name in re.findall(r"\$(\w+)", text)
        if not name.startswith("__")
    }
    assert used <= set(VARIABLES)
    assert {"datasource", "model"} <= set(VARIABLES)


def test_panel_ids_are_unique() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)


def test_queries_of_one_panel_have_different_names() -> None:
    for panel in PANELS:
        names = [target["refId"] for target in panel.get("targets", [])]
        assert len(set(names)) == len(names), panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
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


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["uid"] == "requant"
    assert "id" not in DASHBOARD
    assert DASHBOARD["schemaVersion"] >= 39
