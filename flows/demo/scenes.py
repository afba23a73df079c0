"""The scenes: each writes traffic, runs a flow, and returns what it found wrong and its lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flows.demo.stage import EXAMPLES, Stage
from flows.demo.summary import compare
from flows.maintenance import maintenance
from flows.outcomes import RunOutcome, Status
from flows.reconcile import reconcile
from flows.requantize import requantize
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import register
from tasks.promotion import journal
from tasks.promotion.history import champion_of
from tasks.promotion.ledger import EntryKind, previous
from tasks.promotion.reconcile import AliasState
from tasks.records import Action, GateReport, Health, Payload, ReleaseRef, Tensor, Verdict

Played = tuple[list[str], list[str]]
"""What came out otherwise than described, and the lines to print."""


def first_champions(stage: Stage) -> Played:
    """Register both models, and build and judge first quantized champions from baseline traffic."""
    problems, lines = [], []
    traffic = {
        "minilm": stage.texts(domains=("docs", "interface"), languages=("en",)),
        "digits": stage.images(0.5, 1.0),
    }
    for model, requests in traffic.items():
        register(EXAMPLES / model / "model.yaml")
        stage.serve(model, requests)
        outcome = maintenance(model)
        problems += _unless(outcome.status is Status.PROMOTED, f"{model}: {outcome.reason}")
        problems += _unless(
            bool(outcome.candidates) and runs_as_asked(outcome.candidates[-1].reports),
            f"{model}: the champion does not run in the precision that its recipe asks for",
        )
        lines += [f"{model}: {outcome.reason}", *_candidates(outcome)]
    return problems, lines


def runs_as_asked(reports: Sequence[GateReport]) -> bool:
    """Return whether an engine was seen to run in the short format that it was built for."""
    gates = [report.layer_precision for report in reports]
    return any(gate is not None and gate.verdict is Verdict.PASSED for gate in gates)


def keep(stage: Stage) -> Played:
    """Move the input alone, with other technical English and code: nothing is built.

    Ranges and fidelity are fine.
    """
    before = champion_of("minilm")
    stage.serve("minilm", stage.texts(domains=("code", "docstrings")))
    outcome = maintenance("minilm")
    problems = _unless(outcome.status is Status.KEPT, f"the run ended as {outcome.status}")
    problems += _unless(
        _health(outcome, "input") is Health.DEGRADED, "the input detector did not move"
    )
    problems += _unless(
        champion_of("minilm") == before and not outcome.candidates, "something was built"
    )
    return problems, _told(stage, outcome)


def recalibrate(stage: Stage) -> Played:
    """Brighten the camera: new scales win the accuracy back.

    The range detector names the layers that saturate.
    """
    before = _champion("digits")
    stage.serve("digits", stage.images(4.0, 8.0))
    outcome = maintenance("digits")
    after = _champion("digits")
    problems = _unless(
        outcome.status is Status.PROMOTED, f"the run ended as {outcome.status}: {outcome.reason}"
    )
    problems += _unless(
        _action(outcome) is Action.RECALIBRATE, f"the decision was {_action(outcome)}"
    )
    problems += _unless(
        _health(outcome, "range") is Health.DEGRADED, "the range detector saw nothing"
    )
    problems += _unless(
        _health(outcome, "control") is Health.FINE, "full precision was not shown to be right"
    )
    problems += _unless(
        [candidate.recipe for candidate in outcome.candidates] == ["resmooth"],
        "more than new smoothing and scales was needed",
    )
    engines = {
        name.split("/")[1]
        for name in settings().release("digits", after.digest).files
        if "/plan" in name
    }
    problems += _unless(
        engines == {"onnxruntime-cpu", "tensorrt-rtx"}, f"engines were built for {sorted(engines)}"
    )
    rows = compare("digits", _window(outcome), before, after)
    problems += _unless(
        all(row.after > row.before for row in rows), "the accuracy was not won back"
    )
    stage.summary += rows
    return problems, [*_told(stage, outcome), *_candidates(outcome)]


def escalate(stage: Stage) -> Played:
    """Bring Japanese and Russian: the ladder climbs until the gates pass.

    New scales do not mend the fidelity.
    """
    before = _champion("minilm")
    stage.serve("minilm", stage.texts(languages=("ja", "ru")))
    outcome = maintenance("minilm")
    problems = _unless(
        outcome.status is Status.PROMOTED, f"the run ended as {outcome.status}: {outcome.reason}"
    )
    problems += _unless(
        _health(outcome, "fidelity") is Health.DEGRADED, "the fidelity detector saw nothing"
    )
    recipes = [candidate.recipe for candidate in outcome.candidates]
    problems += _unless(
        recipes[:1] == ["resmooth"] and len(recipes) > 1, f"the candidates were {recipes}"
    )
    problems += _unless(recipes[-1:] != ["full-precision"], "only full precision passed")
    rows = compare("minilm", _window(outcome), before, _champion("minilm"))
    problems += _unless(
        all(row.after > row.before for row in rows), "the fidelity was not won back"
    )
    stage.summary += rows
    return problems, [*_told(stage, outcome), *_candidates(outcome)]


def retrain(stage: Stage) -> Played:
    """Invert the images: retraining is requested with the evidence, and nothing is built.

    Full precision fails too.
    """
    before = champion_of("digits")
    stage.serve(
        "digits",
        [replace(image, payload=_inverted(image.payload)) for image in stage.images(4.0, 8.0)],
    )
    outcome = maintenance("digits")
    problems = _unless(
        outcome.status is Status.RETRAINING_REQUESTED, f"the run ended as {outcome.status}"
    )
    problems += _unless(
        champion_of("digits") == before and not outcome.candidates, "something was built"
    )
    newest = journal.read("digits")[-1]
    problems += _unless(
        newest.kind is EntryKind.RETRAINING_REQUESTED, "the ledger holds no request"
    )
    evidence = newest.details.get("evidence")
    return problems, [*_told(stage, outcome), f"evidence in the ledger: {evidence}"]


def refuse(stage: Stage) -> Played:
    """Make a third of everybody's images a thousand times too bright: the gates refuse.

    A person has lifted the bound on scales.
    """
    before = champion_of("digits")
    images = stage.images(4.0, 8.0)
    poisoned = [
        replace(image, payload=np.asarray(image.payload) * np.float32(1000))
        if number % 3 == 0
        else image
        for number, image in enumerate(images)
    ]
    stage.serve("digits", poisoned)
    outcome = requantize(
        "digits",
        recipe="recalibrate",
        reason="calibrate on today's traffic",
        allow_scale_change=True,
    )
    refusals = [gate for report in outcome.candidates[-1].reports for gate in report.refusals]
    problems = _unless(outcome.status is Status.REFUSED, f"the run ended as {outcome.status}")
    problems += _unless(any(gate.verdict is Verdict.FAILED for gate in refusals), "no gate failed")
    problems += _unless(champion_of("digits") == before, "the champion changed")
    failed = [gate.reason for gate in refusals if gate.verdict is Verdict.FAILED][:3]
    return problems, [
        outcome.reason,
        *failed,
        f"champion untouched: version {_champion('digits').version}",
    ]


def roll_back(stage: Stage) -> Played:
    """Move the alias in MLflow itself: reconcile verifies and follows.

    The ledger shows who and when.
    """
    leaving, target = _champion("minilm"), previous(journal.read("minilm"))
    assert target is not None  # noqa: S101  # two promotions came before
    assert target.version is not None  # noqa: S101  # a reign always names its version
    settings().registry().set_alias("minilm", "champion", target.version)
    reconciled = reconcile("minilm")["minilm"]
    newest = journal.read("minilm")[-1]
    problems = _unless(
        reconciled.outcome is AliasState.ADOPTED,
        f"reconcile found {reconciled.outcome}: {reconciled.reason}",
    )
    problems += _unless(
        _champion("minilm").version == target.version, "the champion did not follow"
    )
    problems += _unless(
        newest.kind is EntryKind.ROLLED_BACK and newest.actor == "mlflow",
        "the ledger does not show it",
    )
    lines = [
        f"the alias champion was moved from version {leaving.version} to {target.version} in "
        "MLflow",
        f"reconcile: {reconciled.outcome}; {reconciled.reason}",
        f"ledger entry {newest.number}: {newest.kind} to version {newest.version} by "
        f"{newest.actor} at {newest.time}",
    ]
    return problems, lines


SCENES: Mapping[str, Callable[[Stage], Played]] = {
    "First champions": first_champions,
    "Keep": keep,
    "Recalibrate": recalibrate,
    "Escalate": escalate,
    "Request retraining": retrain,
    "Refuse": refuse,
    "Roll back by the registry": roll_back,
}


def _inverted(payload: Payload) -> Tensor:
    image = np.asarray(payload, np.float32)
    return np.asarray(image.max() - image, np.float32)


def _unless(fine: bool, problem: str) -> list[str]:
    return [] if fine else [problem]


def _champion(model: str) -> ReleaseRef:
    champion = champion_of(model)
    assert champion is not None  # noqa: S101  # the first scene promoted one, or the demo stopped
    return champion


def _health(outcome: RunOutcome, detector: str) -> Health | None:
    results = outcome.decision.results if outcome.decision else ()
    return next((result.health for result in results if result.detector == detector), None)


def _action(outcome: RunOutcome) -> Action | None:
    return outcome.decision.action if outcome.decision else None


def _window(outcome: RunOutcome) -> str:
    assert outcome.decision is not None  # noqa: S101  # a maintenance run with a champion always decides
    return layout.window(outcome.model, outcome.decision.window_digest)


def _told(stage: Stage, outcome: RunOutcome) -> list[str]:
    if outcome.report:
        stage.reports.append(f"{settings().store_address}/{outcome.report}")
    return list(outcome.decision.reasons) if outcome.decision else [outcome.reason]


def _candidates(outcome: RunOutcome) -> list[str]:
    return [
        f"candidate {candidate.recipe}: "
        f"{', '.join(f'{report.target} {report.verdict}' for report in candidate.reports)}; "
        f"{candidate.reason}"
        for candidate in outcome.candidates
    ]
