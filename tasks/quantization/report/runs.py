"""What the registry's runs hold of a climb: one for the climb, and one for each candidate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.canonical import Json
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits, draw_html, draw_png
from tasks.quantization.report.placements import draw_placements
from tasks.quantization.sensitivity.mixed_precision import PrecisionPlacement
from tasks.records import CandidateRef

LONGEST = 500
"""Characters of a sentence that the registry takes."""


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run of the registry."""

    name: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    artifacts: Mapping[str, bytes]


def climb_run(
    model: str,
    window: str,
    calibration: str,
    figures: Sequence[CandidateFigures],
    limits: Limits,
    reason: str,
    tags: Mapping[str, str],
) -> RunRecord:
    """Return the climb's run, with the Pareto front where there is one."""
    chosen = next((candidate.name for candidate in figures if candidate.chosen), "none")
    return RunRecord(
        f"ladder on {window[:8]}",
        {"window": window, "calibration": calibration, "reason": reason[:LONGEST]},
        {"candidates": len(figures)},
        {
            "kind": "ladder",
            "passed": chosen,
            "window": window,
            **tags,
        },
        _pictures(f"{model} on {window[:8]}", figures, limits),
    )


def candidate_run(
    candidate: CandidateRef, recipe: Recipe, figures: CandidateFigures, facts: Mapping[str, Any]
) -> RunRecord:
    """Return one candidate's run; `facts` are those that were stored with it."""
    ratios = {
        "loss": figures.loss,
        "size-ratio": figures.size,
        "latency-ratio": figures.latency,
        "peak-memory-ratio": figures.peak_memory,
    }
    return RunRecord(
        figures.name,
        {
            **_texts(facts.get("recipe") or recipe.document()),
            "candidate": candidate.candidate_id,
            "kept_high": json.dumps(candidate.excluded_nodes),
        },
        {
            **figures.metrics,
            **{name: value for name, value in ratios.items() if value is not None},
            **{f"loss/{group['name']}": group["loss"] for group in facts.get("submodules", [])},
            "quantized-share": candidate.quantized_share,
        },
        {
            "kind": "candidate",
            "verdict": "passed" if figures.passed else "refused",
            "why": figures.reason[:LONGEST],
            "remarks": "; ".join(candidate.diagnostics)[:LONGEST],
        },
        _placements(f"{candidate.model}, {figures.name}", facts),
    )


def _texts(document: Mapping[str, Json]) -> dict[str, str]:
    return {name: json.dumps(value) for name, value in document.items()}


def _pictures(title: str, figures: Sequence[CandidateFigures], limits: Limits) -> dict[str, bytes]:
    """Draw the Pareto front; one candidate has none."""
    if len(figures) < 2:
        return {}
    return {
        "front.png": draw_png(title, figures, limits),
        "front.html": draw_html(title, figures, limits),
    }


def _placements(title: str, facts: Mapping[str, Any]) -> dict[str, bytes]:
    points = [
        PrecisionPlacement(tuple(point["kept"]), point["loss"], point["weights"])
        for point in facts.get("placements", [])
    ]
    return draw_placements(title, points, facts["kept_high"])
