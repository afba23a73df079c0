"""Where the pages of a look go: the store, Evidently's workspace and MLflow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from infra.canonical import Json, canonical
from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.drift.report.keys import EVIDENTLY, FINDINGS, PAGE, WORST
from tasks.drift.report.library import keep_library
from tasks.drift.report.page import Look, Worst, detector_page, drift_report, store_snapshot
from tasks.records import (
    STORED_DETECTOR,
    Decision,
    PastDecision,
    ReleaseRef,
    Request,
    SampleRef,
)
from tasks.step import run_tags

GROUPS = 50
"""Domains and languages that are counted by name."""
EXAMPLES = 8
"""Requests that scored worst, for the page."""


def write_pages(
    window: SampleRef,
    champion: ReleaseRef,
    decision: Decision,
    past: Sequence[PastDecision],
    *,
    reference: Sequence[Request],
    current: Sequence[Request],
) -> str:
    """Store our page of the detectors and Evidently's of the sample, and log ours to MLflow.

    Evidently's is kept once, without the script that all of them share.

    Returns:
        The key of our page.
    """
    snapshot = drift_report(reference, current, Look(window, champion.version, decision))
    pages = {
        PAGE: detector_page(decision, past, _worst(window, current)),
        EVIDENTLY: snapshot.html,
        FINDINGS: canonical(findings_document(window, champion, decision, current)),
    }
    keep_library(settings().store(), snapshot.library)
    store_snapshot(snapshot, settings().root / "evidently", window.model, window.digest)
    for name, page in pages.items():
        settings().store().put(layout.report(window.model, window.digest, name), page)
    settings().registry().log_run(
        window.model,
        f"drift {window.digest[:8]}",
        params={"window": window.digest, "champion": champion.version},
        metrics={"rows": float(window.rows)},
        tags=_tags(window, decision),
        artifacts={PAGE: pages[PAGE]},
    )
    return layout.report(window.model, window.digest, PAGE)


def findings_document(
    window: SampleRef, champion: ReleaseRef, decision: Decision, current: Sequence[Request]
) -> Json:
    """Return what the detectors found, and how many requests are of each domain and language.

    Figures that are not finite are left out, because JSON has none.
    """
    groups = Counter(
        name
        for request in current
        for name in (f"domain={request.domain}", f"language={request.language}")
    )
    results: list[Json] = [
        {
            "detector": result.detector,
            "health": result.health.value,
            "count": result.count,
            "findings": [
                {
                    "subject": finding.subject,
                    "value": finding.value,
                    "limit": finding.limit,
                    "exceeded": finding.exceeded,
                    "text": finding.text,
                }
                for finding in result.findings
                if isfinite(finding.value) and isfinite(finding.limit)
            ],
        }
        for result in decision.results
    ]
    return {
        "version": 1,
        "window": window.digest,
        "start": window.start,
        "end": window.end,
        "champion": champion.version,
        "rows": window.rows,
        "groups": dict(groups.most_common(GROUPS)),
        "results": results,
    }


def written_page(window: SampleRef) -> str | None:
    """Return the key of the window's page of the detectors; None when it has none."""
    key = layout.report(window.model, window.digest, PAGE)
    return key if settings().store().exists(key) else None


def note_worst(window: SampleRef, requests: Sequence[Request], scores: NDArray[np.float64]) -> None:
    """Keep the ids of the requests that scored worst: the page looks them up, and redacts them."""
    order = np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable")[:EXAMPLES]
    rows = [
        {"request_id": requests[place].request_id, "score": float(np.nan_to_num(scores[place]))}
        for place in order
    ]
    document = {"version": 1, "worst": rows}
    settings().store().put(
        layout.report(window.model, window.digest, WORST), json.dumps(document).encode()
    )


def _worst(window: SampleRef, requests: Sequence[Request]) -> tuple[Worst, ...]:
    try:
        rows = json.loads(
            settings().store().get(layout.report(window.model, window.digest, WORST))
        )["worst"]
    except NotFound:  # fidelity was not looked at
        return ()
    by_id = {request.request_id: request for request in requests}
    return tuple(
        Worst(by_id[row["request_id"]], row["score"]) for row in rows if row["request_id"] in by_id
    )


def _tags(window: SampleRef, decision: Decision) -> dict[str, str]:
    return {
        "decision": decision.action.value,
        "attribution": decision.attribution,
        "window": window.digest,
        **run_tags(window.model),
        **{
            f"{STORED_DETECTOR}.{result.detector}": result.health.value
            for result in decision.results
        },
    }
