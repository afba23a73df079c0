"""The scenes: each writes traffic, runs a flow, and returns what it found wrong and its lines."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flows.demo.played import (
    Played,
    action,
    as_decided,
    candidates_of,
    champion,
    health,
    unless,
    window_of,
)
from flows.demo.stage import EXAMPLES, Stage
from flows.demo.summary import compare
from flows.maintenance import maintenance
from flows.outcomes import Status
from flows.reconcile import reconcile
from flows.requantize import requantize
from infra.settings import settings
from tasks.models.catalog import register
from tasks.promotion import journal
from tasks.promotion.history import champion_of
from tasks.promotion.ledger import EntryKind, previous
from tasks.promotion.reconcile import AliasState
from tasks.records import Action, GateReport, Health, Payload, Tensor, Verdict


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
        problems += unless(outcome.status is Status.PROMOTED, f"{model}: {outcome.reason}")
        problems += unless(
            bool(outcome.candidates) and runs_as_asked(outcome.candidates[-1].reports),
            f"{model}: the champion does not run in the precision that its recipe asks for",
        )
        lines += [f"{model}: {outcome.reason}", *candidates_of(outcome)]
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
    problems = unless(outcome.status is Status.KEPT, f"the run ended as {outcome.status}")
    problems += unless(
        health(outcome, "input") is Health.DEGRADED, "the input detector did not move"
    )
    problems += unless(
        champion_of("minilm") == before and not outcome.candidates, "something was built"
    )
    return problems, as_decided(stage, outcome)


def recalibrate(stage: Stage) -> Played:
    """Brighten the camera: new scales win the accuracy back.

    The range detector names the layers that saturate.
    """
    before = champion("digits")
    stage.serve("digits", stage.images(4.0, 8.0))
    outcome = maintenance("digits")
    after = champion("digits")
    problems = unless(
        outcome.status is Status.PROMOTED, f"the run ended as {outcome.status}: {outcome.reason}"
    )
    problems += unless(action(outcome) is Action.RECALIBRATE, f"the decision was {action(outcome)}")
    problems += unless(
        health(outcome, "range") is Health.DEGRADED, "the range detector saw nothing"
    )
    problems += unless(
        health(outcome, "control") is Health.FINE, "full precision was not shown to be right"
    )
    problems += unless(
        [candidate.recipe for candidate in outcome.candidates] == ["resmooth"],
        "more than new smoothing and scales was needed",
    )
    engines = {
        name.split("/")[1]
        for name in settings().release("digits", after.digest).files
        if "/plan" in name
    }
    problems += unless(
        engines == {"onnxruntime-cpu", "tensorrt-rtx"}, f"engines were built for {sorted(engines)}"
    )
    rows = compare("digits", window_of(outcome), before, after)
    problems += unless(all(row.after > row.before for row in rows), "the accuracy was not won back")
    stage.summary += rows
    return problems, [*as_decided(stage, outcome), *candidates_of(outcome)]


def escalate(stage: Stage) -> Played:
    """Bring Japanese and Russian: the ladder climbs until the gates pass.

    New scales do not mend the fidelity.
    """
    before = champion("minilm")
    stage.serve("minilm", stage.texts(languages=("ja", "ru")))
    outcome = maintenance("minilm")
    problems = unless(
        outcome.status is Status.PROMOTED, f"the run ended as {outcome.status}: {outcome.reason}"
    )
    problems += unless(
        health(outcome, "fidelity") is Health.DEGRADED, "the fidelity detector saw nothing"
    )
    recipes = [candidate.recipe for candidate in outcome.candidates]
    problems += unless(
        recipes[:1] == ["resmooth"] and len(recipes) > 1, f"the candidates were {recipes}"
    )
    problems += unless(recipes[-1:] != ["full-precision"], "only full precision passed")
    rows = compare("minilm", window_of(outcome), before, champion("minilm"))
    problems += unless(all(row.after > row.before for row in rows), "the fidelity was not won back")
    stage.summary += rows
    return problems, [*as_decided(stage, outcome), *candidates_of(outcome)]


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
    problems = unless(
        outcome.status is Status.RETRAINING_REQUESTED, f"the run ended as {outcome.status}"
    )
    problems += unless(
        champion_of("digits") == before and not outcome.candidates, "something was built"
    )
    newest = journal.read("digits")[-1]
    problems += unless(newest.kind is EntryKind.RETRAINING_REQUESTED, "the ledger holds no request")
    evidence = newest.details.get("evidence")
    return problems, [*as_decided(stage, outcome), f"evidence in the ledger: {evidence}"]


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
    problems = unless(outcome.status is Status.REFUSED, f"the run ended as {outcome.status}")
    problems += unless(any(gate.verdict is Verdict.FAILED for gate in refusals), "no gate failed")
    problems += unless(champion_of("digits") == before, "the champion changed")
    failed = [gate.reason for gate in refusals if gate.verdict is Verdict.FAILED][:3]
    return problems, [
        outcome.reason,
        *failed,
        f"champion untouched: version {champion('digits').version}",
    ]


def roll_back(stage: Stage) -> Played:
    """Move the alias in MLflow itself: reconcile verifies and follows.

    The ledger shows who and when.
    """
    leaving, target = champion("minilm"), previous(journal.read("minilm"))
    assert target is not None  # noqa: S101  # two promotions came before
    assert target.version is not None  # noqa: S101  # a reign always names its version
    settings().registry().set_alias("minilm", "champion", target.version)
    reconciled = reconcile("minilm")["minilm"]
    newest = journal.read("minilm")[-1]
    problems = unless(
        reconciled.outcome is AliasState.ADOPTED,
        f"reconcile found {reconciled.outcome}: {reconciled.reason}",
    )
    problems += unless(champion("minilm").version == target.version, "the champion did not follow")
    problems += unless(
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
