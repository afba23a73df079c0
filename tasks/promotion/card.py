"""What the registry tells a person of a model and a version, in words; pure."""

from __future__ import annotations

from collections.abc import Sequence

from infra.registry.cards import Card, DataSet
from tasks.models.catalog import RegisteredModel
from tasks.promotion.release import Judged
from tasks.records import CandidateRef, GateReport, ReleaseRef, Verdict
from tasks.specs.spec import ModelSpec

SHORT = 12
"""Characters of a digest that a person is shown."""


def card(
    model: RegisteredModel,
    judged: Judged,
    champion: ReleaseRef | None,
    release: str,
    store: str,
) -> Card:
    """Return the card of a version.

    `champion` served before, `release` is the bundle's digest and `store` the object store's
    address.
    """
    spec, golden = model.spec, _golden_set(model, store)
    return Card(
        kind=spec.task.value,
        about_model=about_model(spec),
        about_version=about_version(
            judged.candidate,
            judged.reports,
            window=judged.window,
            champion=None if champion is None else champion.version,
            release=release,
        ),
        model_tags={
            "task": spec.task.value,
            "source": spec.source,
            "targets": ", ".join(spec.targets),
        },
        data=(_calibration_set(model, judged.candidate, store), golden),
        judged_on=golden,
    )


def _calibration_set(model: RegisteredModel, candidate: CandidateRef, store: str) -> DataSet:
    uri = f"{store}/calibration/{model.name}/{candidate.calibration}.parquet"
    return DataSet(f"{model.name} calibration set", candidate.calibration, uri, "calibration")


def _golden_set(model: RegisteredModel, store: str) -> DataSet:
    uri, golden = f"{store}/models/{model.name}/{model.digest}/golden.parquet", model.golden
    return DataSet(f"{model.name} golden set", golden.digest, uri, "evaluation", len(golden.cases))


def about_model(spec: ModelSpec) -> str:
    """Return what the model is, and where to look further."""
    return (
        f"A {spec.task.value} model from `{spec.source}`, quantized for {', '.join(spec.targets)} "
        "and kept right by Requant on live traffic. The alias `champion` serves, `previous` served "
        "before it, `challenger` waits for a person; moving `champion` to a version whose release "
        "is verified rolls back to it.\n\n"
        f"`requant history {spec.name}` has every decision, `requant explain {spec.name}` "
        f"the newest one's reasons, `requant lineage {spec.name} --version N` "
        "what a version was made from."
    )


def about_version(
    candidate: CandidateRef,
    reports: Sequence[GateReport],
    *,
    window: str,
    champion: str | None,
    release: str,
) -> str:
    """Return recipe, a verdict a target, the traffic behind it and who served before."""
    before = f"version {champion}" if champion else "none"
    drawn = f", drawn for window `{window[:SHORT]}`" if window else ""
    lines = [
        f"Recipe `{candidate.recipe}`, which has {candidate.quantized_share:.0%} of the graph's "
        "weights in fewer bits.",
        "",
        *(f"- {_verdict(report)}" for report in reports),
        *(
            f"- {report.target}: {report.layer_precision.reason}"
            for report in reports
            if report.layer_precision is not None
        ),
        *(
            f"- {report.target}: {report.generation_speed}"
            for report in reports
            if report.generation_speed is not None
        ),
        f"- calibrated on set `{candidate.calibration[:SHORT]}`{drawn}",
        f"- champion before: {before}",
        f"- release `{release[:SHORT]}`",
    ]
    return "\n".join(lines)


def _verdict(report: GateReport) -> str:
    """Return one line: the verdict, and of one that did not pass the first reason."""
    if report.verdict is Verdict.PASSED:
        return f"{report.target}: passed, {sum(gate.binding for gate in report.gates)} gates"
    why = f"; {report.refusals[0].reason}" if report.refusals else ""
    return f"{report.target}: {report.verdict.value}{why}"
