"""Pages about one look, for people: Evidently's report on samples, and what detectors found.

Neither triggers anything (ADR 36).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid5

import jinja2
import numpy as np
import pandas as pd

from infra.errors import BadInput
from infra.settings import settings
from tasks.drift.detectors.features import features
from tasks.drift.report.keys import project_id, snapshot_id
from tasks.drift.report.library import without_library
from tasks.drift.report.trend import trends
from tasks.personal_data.redaction import redact
from tasks.records import STORED_DETECTOR, Decision, PastDecision, Request, SampleRef

ROWS = 2_000
"""Requests of each side that the report shows: Evidently holds them in memory and in the page."""
SHOWN = 300
"""Characters of an example."""
DETECTOR, REQUESTS = "RequantLens", "RequantRequests"
"""Types of the figures of ours that Evidently plots, as it stores them."""
FIDELITY = "fidelity"
DETECTORS = {
    FIDELITY: "The quantized model against full precision on the window's requests.",
    "range": "Live activations against the deployed scales.",
    "input": "The window's requests against what the champion was calibrated on.",
    "control": "Full precision on labelled cases.",
    "safety": "Safety decisions that differ from full precision's.",
}
"""Detector -> what its panel shows."""


@dataclass(frozen=True, slots=True)
class EvidentlyReport:
    """Evidently's data-drift report, as a page and as what its workspace stores."""

    html: bytes  # without its library, in whose place a mark stands
    library: bytes  # the script that every page of this version of Evidently has
    snapshot: Any  # evidently.core.serialization.SnapshotModel, which ships no types
    detectors: tuple[str, ...] = ()  # that were looked through


@dataclass(frozen=True, slots=True)
class Worst:
    """A request that scored worst."""

    request: Request
    score: float

    @property
    def shown(self) -> str:
        """What may be shown of it: redacted, and cut; a tensor by its shape and range."""
        payload = self.request.payload
        if isinstance(payload, str):
            text = redact(payload).text
            return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
        parts = payload if isinstance(payload, Mapping) else {"tensor": np.asarray(payload)}
        return "; ".join(
            f"{name} {list(part.shape)}, {np.min(part):.3g} to {np.max(part):.3g}"
            if part.size
            else f"{name} {list(part.shape)}"
            for name, part in sorted(parts.items())
        )


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a window was about, for Evidently's snapshot."""

    window: SampleRef
    champion: str  # version
    decision: Decision

    @property
    def tags(self) -> list[str]:
        """Return what the UI offers to filter snapshots by."""
        return [self.decision.action.value, f"champion {self.champion}"]

    @property
    def metadata(self) -> dict[str, str]:
        """Return what the UI shows beside a snapshot.

        It has `attribution` only where something changed.
        """
        facts = {
            "model": self.window.model,
            "window": self.window.digest,
            "champion": self.champion,
            "decision": self.decision.action.value,
            "attribution": self.decision.attribution,
            "console": settings().console_page("models", self.window.model) or "",
            **{
                f"{STORED_DETECTOR} {result.detector}": result.health.value
                for result in self.decision.results
            },
        }
        return {name: fact for name, fact in facts.items() if fact}

    @property
    def figures(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        """Yield what to plot: the metric's type, the labels of its series, and the value."""
        yield REQUESTS, {"kind": "offered"}, self.window.seen
        yield REQUESTS, {"kind": "sampled"}, self.window.rows
        for result in self.decision.results:
            for finding in result.findings[
                :1
            ]:  # a detector's first finding is what it says as a whole
                yield DETECTOR, {STORED_DETECTOR: result.detector, "figure": "value"}, finding.value
                yield DETECTOR, {STORED_DETECTOR: result.detector, "figure": "limit"}, finding.limit


def drift_report(
    reference: Sequence[Request], current: Sequence[Request], look: Look
) -> EvidentlyReport:
    """Report Evidently's data drift of the first `ROWS` requests of each side.

    Raises:
        BadInput: Without any.
    """
    if not reference or not current:
        raise BadInput(
            f"{len(reference)} reference and {len(current)} current requests: "
            "a report needs some of each, so sample more traffic first"
        )
    os.environ["DO_NOT_TRACK"] = (
        "1"  # read when evidently is imported: nothing may be sent from here
    )
    # Imported late: it takes seconds, which every other use of this package should not pay.
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    before, after = _frame(reference[:ROWS]), _frame(current[:ROWS])
    numeric = [name for name in before if before[name].dtype == float]
    # Types are stated: evidently would guess them anew from each window.
    definition = DataDefinition(
        numerical_columns=numeric,
        categorical_columns=[name for name in before if name not in numeric],
    )
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # columns that never vary: evidently divides by their deviation of 0
        snapshot = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(after, data_definition=definition),
            Dataset.from_pandas(before, data_definition=definition),
            timestamp=max(request.time for request in current).replace(tzinfo=None),
            tags=look.tags,
            metadata=look.metadata,
            name=f"window {look.window.digest[:8]}",
        )
    script = files("evidently").joinpath("nbextension/static/index.js").read_text("utf-8").encode()
    page = without_library(str(snapshot.get_html_str(as_iframe=False)).encode(), script)
    stored = snapshot.to_snapshot_model()
    stored.metric_results |= {
        result.metric_value_location.metric.metric_id: result for result in _results(look)
    }
    detectors = tuple(result.detector for result in look.decision.results)
    return EvidentlyReport(page, script, stored, detectors)


def _results(look: Look) -> Iterator[Any]:
    """Yield our own figures as Evidently's results, so that its panels plot them."""
    from evidently.core.metric_types import MetricConfig, MetricValueLocation, SingleValue

    for kind, labels, value in look.figures:
        name = f"{kind} {' '.join(labels.values())}"
        config = MetricConfig(
            metric_id=name, params={"type": f"evidently:metric_v2:{kind}", **labels}
        )
        place = MetricValueLocation(config, {})
        yield SingleValue(display_name=name, value=float(value), metric_value_location=place)


def store_snapshot(report: EvidentlyReport, folder: Path, model: str, window: str) -> None:
    """Keep a report in Evidently's workspace, one project a model.

    The same window again replaces its own snapshot. Ids follow from the names: two runs at once
    would otherwise make two projects of one model. Evidently writes its files in place, so they are
    finished beside the workspace and moved in: nobody reads half of one. Panels are made once, at
    the first look through every detector: those that somebody rearranged stay as they are.
    """
    from evidently.ui.workspace import Workspace

    project = project_id(model)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        workspace = Workspace.create(scratch)
        workspace.state.location.makedirs(str(project))
        _describe(workspace, folder / str(project), model, report)
        workspace.state.write_snapshot(project, snapshot_id(model, window), report.snapshot)
        for finished in sorted(
            (path for path in Path(scratch).rglob("*") if path.is_file()), key=_order
        ):
            place = folder / finished.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            finished.replace(place)


def _describe(workspace: Any, present: Path, model: str, report: EvidentlyReport) -> None:
    """Write the project and its panels where the workspace that is served has none."""
    from evidently.sdk.models import ProjectModel

    if FIDELITY in report.detectors and not (present / "dashboard.json").exists():
        workspace.state.write_dashboard(project_id(model), _dashboard(model, report))
    if not (present / "metadata.json").exists():
        described = (
            "Drift of live traffic against what the champion was calibrated on; "
            "informs, triggers nothing."
        )
        workspace.state.write_project(
            ProjectModel(id=project_id(model), name=model, description=described)
        )


def _order(path: Path) -> int:
    """Return when a file is moved in.

    A running UI reads a snapshot only of a project that it knows, by its `metadata.json`.
    """
    return ("dashboard.json", "metadata.json", path.name).index(path.name)


def _columns(report: EvidentlyReport) -> list[str]:
    """Return the features that Evidently tested."""
    configs = [
        result.metric_value_location.metric.params
        for result in report.snapshot.metric_results.values()
    ]
    return [
        str(config["column"])
        for config in configs
        if config["type"] == "evidently:metric_v2:ValueDrift"
    ]


def _dashboard(model: str, report: EvidentlyReport) -> Any:
    """Return Evidently's panels of a project; their ids follow from their titles."""
    from evidently.sdk.models import DashboardModel, DashboardTabModel

    detectors, (newest, share, features) = (
        _detector_panels(report.detectors),
        _feature_panels(_columns(report)),
    )
    panels = [newest, _request_panel(), share, *detectors, features]
    for panel in panels:
        panel.id = uuid5(project_id(model), panel.title)
    tab = DashboardTabModel(
        id=uuid5(project_id(model), "Drift"), title="Drift", panels=[panel.id for panel in panels]
    )
    return DashboardModel(tabs=[tab], panels=panels)


def _detector_panels(detectors: Sequence[str]) -> list[Any]:
    """Return one panel for each detector that the model has: another would stay empty."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel

    return [
        line_plot_panel(
            f"{detector.capitalize()} detector",
            [
                PanelMetric(
                    metric=DETECTOR,
                    metric_labels={STORED_DETECTOR: detector, "figure": figure},
                    legend=figure,
                )
                for figure in ("value", "limit")
            ],
            description,
            size="half",
        )
        for detector, description in DETECTORS.items()
        if detector in detectors
    ]


def _request_panel() -> Any:
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import bar_plot_panel

    kinds = [
        PanelMetric(metric=REQUESTS, metric_labels={"kind": kind}, legend=kind)
        for kind in ("offered", "sampled")
    ]
    return bar_plot_panel(
        "Requests", kinds, "Offered to the window, and sampled from it.", size="half"
    )


def _feature_panels(columns: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return the share of drifted features now and over time, and the drift of each."""
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import counter_panel, line_plot_panel

    share = PanelMetric(
        metric="DriftedColumnsCount",
        metric_labels={"value_type": "share"},
        legend="share of features",
    )
    tests = [
        PanelMetric(metric="ValueDrift", metric_labels={"column": name}, legend=name)
        for name in columns
    ]
    why = f"Evidently's p-value or distance of each feature, of at most {ROWS:,} requests a side."
    return (
        counter_panel(
            "Drifted features, newest window", [share], "By Evidently's tests.", size="half"
        ),
        line_plot_panel("Share of drifted features", [share], "By Evidently's tests.", size="half"),
        line_plot_panel("Drift of each feature", tests, why),
    )


def remove_snapshot(folder: Path, model: str, window: str) -> bool:
    """Take a window's report out of Evidently's workspace; False when it holds none."""
    snapshots = list(folder.glob(f"{project_id(model)}/**/{snapshot_id(model, window)}.json"))
    for path in snapshots:
        path.unlink(missing_ok=True)
    return bool(snapshots)


def _frame(requests: Sequence[Request]) -> pd.DataFrame:
    columns = features(requests)
    return pd.DataFrame({**columns.numeric, **columns.categories})


def detector_page(
    decision: Decision, past: Sequence[PastDecision] = (), worst: Sequence[Worst] = ()
) -> bytes:
    """Return one self-contained HTML page: decision, reasons, detectors over time, and findings."""
    source = files("tasks.drift.report").joinpath("detectors.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(source).render(
        decision=decision, trends=trends(past, decision), worst=worst
    )
    return page.encode()
