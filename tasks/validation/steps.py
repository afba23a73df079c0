"""The steps of validation: judge the engine, never only the graph (ADR 31)."""

from collections.abc import Sequence
from dataclasses import replace

from infra.errors import NotFound
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import open_model
from tasks.records import CandidateRef, EngineRef, GateReport, SampleRef
from tasks.step import step
from tasks.traffic.storage.samples import read_requests
from tasks.validation import preconditions
from tasks.validation.forms import JUDGES
from tasks.validation.gates import unbuilt
from tasks.validation.golden_run import beside_itself
from tasks.validation.judge import report_unexecuted
from tasks.validation.preconditions import Preconditions
from tasks.validation.report import from_json, is_settled, to_json


@step("examine-preconditions")
def examine(window: SampleRef) -> Preconditions:
    """Return what is known before the first build.

    That is what no candidate for this window could pass here, and what stays unjudged.
    """
    model = open_model(window.model)
    why_not_here: dict[str, str | None] = {
        target: JUDGES.of(model.form).why_not_here(target) for target in model.spec.targets
    }
    requests = read_requests(window.key)
    examined = preconditions.examine(
        model.spec,
        model.golden,
        model.classes,
        window.groups,
        requests,
        why_not_here,
        beside_itself(model),
    )
    left_out = () if window.left_out is None else (window.left_out,)
    return replace(examined, notes=(*examined.notes, *left_out))


@step("judge-engine")
def judge(
    candidate: CandidateRef, engine: EngineRef, served: Sequence[str], thorough: bool = False
) -> GateReport:
    """Judge one engine, and store the report beside it.

    The same engine under the same budgets is not judged twice: a run that was killed goes on where
    it stopped.
    """
    if engine.executable:
        report = _judged(candidate, engine, served, thorough=thorough)
    else:
        graph = _file(candidate, "graph.onnx")
        layers = _file(candidate, f"engines/{engine.target}/layers.json")
        report = report_unexecuted(open_model(candidate.model), engine, graph, layers)
    return _stored_beside(candidate, report)


@step("report-unbuilt-engine")
def report_unbuilt(candidate: CandidateRef, target: str, reason: str) -> GateReport:
    """Store the verdict about an engine that its target could not build."""
    return _stored_beside(candidate, unbuilt(target, reason))


def _stored_beside(candidate: CandidateRef, report: GateReport) -> GateReport:
    key = candidate.key(f"golden/{report.target}.json")
    settings().store().put(key, to_json(report).encode())
    return report


def _judged(
    candidate: CandidateRef, engine: EngineRef, served: Sequence[str], *, thorough: bool
) -> GateReport:
    store, model = settings().store(), open_model(candidate.model)
    judging = JUDGES.of(model.form)
    built = judging.built(candidate, engine)
    key = layout.verdict(candidate.model, built.basis(model, served, thorough=thorough))
    stored = _stored(key)
    if stored is not None:
        return stored
    report, inspection = judging.judge(model, built, frozenset(served), thorough=thorough)
    if inspection is not None:
        store.put(candidate.key(f"engines/{engine.target}/inspector.json"), inspection)
    if is_settled(report):
        store.put(key, to_json(report).encode())
    return report


def _stored(key: str) -> GateReport | None:
    try:
        return from_json(settings().store().get(key))
    except NotFound:
        return None


def _file(candidate: CandidateRef, name: str) -> bytes:
    return settings().store().get(candidate.key(name))
