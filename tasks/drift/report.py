"""Pages about one look, for people: Evidently's report on samples, and what the lenses saw.

Neither triggers anything (DESIGN.md, D11).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import jinja2
import pandas as pd

from infra.errors import BadInput
from tasks.drift.features import features
from tasks.drift.trend import trends
from tasks.records import Decision, PastDecision, Request
from tasks.redaction import redact

ROWS = 2_000
"""Requests of each side that the report shows: Evidently holds everything in memory and in the page."""
SHOWN = 300
"""Characters of an example."""


@dataclass(frozen=True, slots=True)
class EvidentlyReport:
    """Evidently's data-drift report, as a page and as what its workspace stores."""

    html: bytes
    snapshot: Any  # evidently.core.report.Snapshot, which ships no types


@dataclass(frozen=True, slots=True)
class Worst:
    """A request that scored worst."""

    request: Request
    score: float

    @property
    def shown(self) -> str:
        """What may be shown of it: redacted once more, and cut; a tensor by its shape and range."""
        payload = self.request.payload
        if isinstance(payload, str):
            text = redact(payload).text
            return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
        return f"tensor {list(payload.shape)}, {payload.min():.3g} to {payload.max():.3g}"


def drift_report(reference: Sequence[Request], current: Sequence[Request]) -> EvidentlyReport:
    """Evidently's data drift, of the first `ROWS` requests of each side; raises `BadInput` without any."""
    if not reference or not current:
        raise BadInput(
            f"{len(reference)} reference and {len(current)} current requests: a report needs some of each, "
            "so sample more traffic first"
        )
    os.environ["DO_NOT_TRACK"] = "1"  # read when evidently is imported: nothing may be sent from here
    # Imported late: it takes seconds, which every other use of this package should not pay.
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    before, after = _frame(reference[:ROWS]), _frame(current[:ROWS])
    numeric = [name for name in before if before[name].dtype == float]
    # Types are stated: evidently would guess them anew from each window.
    definition = DataDefinition(
        numerical_columns=numeric, categorical_columns=[name for name in before if name not in numeric]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # columns that never vary: evidently divides by their deviation of 0
        snapshot = Report([DataDriftPreset()]).run(
            Dataset.from_pandas(after, data_definition=definition),
            Dataset.from_pandas(before, data_definition=definition),
            timestamp=max(one.time for one in current).replace(tzinfo=None),
        )
    return EvidentlyReport(str(snapshot.get_html_str(as_iframe=False)).encode(), snapshot)


def store_snapshot(report: EvidentlyReport, folder: Path, model: str, window: str) -> None:
    """Keep a report in Evidently's workspace, one project a model; the same window again replaces its own snapshot.

    Ids follow from the names: two runs at once would otherwise make two projects of one model. Evidently writes its
    files in place, so they are finished beside the workspace and moved in: nobody reads half of one.
    """
    from evidently.sdk.models import ProjectModel
    from evidently.ui.workspace import Workspace

    project = _project(model)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
        workspace = Workspace.create(scratch)
        if Workspace.create(str(folder)).get_project(project) is None:
            described = "Drift of live traffic against what the champion was calibrated on; informs, triggers nothing."
            workspace.add_project(ProjectModel(id=project, name=model, description=described))
        workspace.state.write_snapshot(project, _snapshot(model, window), report.snapshot.to_snapshot_model())
        for finished in (path for path in Path(scratch).rglob("*") if path.is_file()):
            place = folder / finished.relative_to(scratch)
            place.parent.mkdir(parents=True, exist_ok=True)
            finished.replace(place)


def remove_snapshot(folder: Path, model: str, window: str) -> bool:
    """Take a window's report out of Evidently's workspace; False when it holds none."""
    found = list(folder.glob(f"{_project(model)}/**/{_snapshot(model, window)}.json"))
    for path in found:
        path.unlink(missing_ok=True)
    return bool(found)


def _project(model: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"requant:{model}")


def _snapshot(model: str, window: str) -> UUID:
    return uuid5(_project(model), window)


def _frame(requests: Sequence[Request]) -> pd.DataFrame:
    found = features(requests)
    columns: dict[str, Any] = {**found.numeric, **found.categories}
    return pd.DataFrame(columns)


def lens_page(decision: Decision, past: Sequence[PastDecision] = (), worst: Sequence[Worst] = ()) -> bytes:
    """One self-contained HTML page: the decision, its reasons, the lenses over time, and every finding; escaped."""
    source = files("tasks.drift").joinpath("lens_page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(source).render(decision=decision, trends=trends(past, decision), worst=worst)
    return page.encode()
