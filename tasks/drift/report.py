"""Pages about one look, for people: Evidently's report on samples, and what the lenses saw.

Neither triggers anything (DESIGN.md, D11).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import jinja2
import pandas as pd

from infra.errors import BadInput
from tasks.drift.features import features
from tasks.records import Decision, Request

ROWS = 2_000
"""Requests of each side that the report shows: Evidently holds everything in memory and in the page."""


def drift_report(reference: Sequence[Request], current: Sequence[Request]) -> bytes:
    """Evidently's data-drift page in HTML, of the first `ROWS` requests of each side; raises `BadInput` without any."""
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
        )
    return str(snapshot.get_html_str(as_iframe=False)).encode()


def _frame(requests: Sequence[Request]) -> pd.DataFrame:
    found = features(requests)
    columns: dict[str, Any] = {**found.numeric, **found.categories}
    return pd.DataFrame(columns)


def lens_page(decision: Decision) -> bytes:
    """One self-contained HTML page: the decision, its reasons, and every finding of every lens; all text is escaped."""
    source = files("tasks.drift").joinpath("lens_page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source).render(decision=decision).encode()
