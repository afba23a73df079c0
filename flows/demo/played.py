"""What scenes make of an outcome: what came out otherwise, and the lines to print."""

from flows.demo.stage import Stage
from flows.outcomes import RunOutcome
from infra.settings import settings
from infra.stores import layout
from tasks.promotion.history import champion_of
from tasks.records import Action, Health, ReleaseRef

Played = tuple[list[str], list[str]]
"""What came out otherwise than described, and the lines to print."""


def unless(fine: bool, problem: str) -> list[str]:
    """Return the problem where something is not fine, else nothing."""
    return [] if fine else [problem]


def champion(model: str) -> ReleaseRef:
    """Return what serves; a scene before has promoted it."""
    serving = champion_of(model)
    assert serving is not None  # noqa: S101  # the first scene promoted one, or the demo stopped
    return serving


def health(outcome: RunOutcome, detector: str) -> Health | None:
    """Return what a detector found; None where it was not asked."""
    results = outcome.decision.results if outcome.decision else ()
    return next((result.health for result in results if result.detector == detector), None)


def action(outcome: RunOutcome) -> Action | None:
    """Return what was decided; None without a decision."""
    return outcome.decision.action if outcome.decision else None


def window_of(outcome: RunOutcome) -> str:
    """Return the key of the window that was decided about."""
    assert outcome.decision is not None  # noqa: S101  # a maintenance run with a champion always decides
    return layout.window(outcome.model, outcome.decision.window_digest)


def as_decided(stage: Stage, outcome: RunOutcome) -> list[str]:
    """Return the reasons of the decision, and note the report for the end."""
    if outcome.report:
        stage.reports.append(f"{settings().store_address}/{outcome.report}")
    return list(outcome.decision.reasons) if outcome.decision else [outcome.reason]


def candidates_of(outcome: RunOutcome) -> list[str]:
    """Return a line for each candidate, with its verdict on each target."""
    return [
        f"candidate {candidate.recipe}: "
        f"{', '.join(f'{report.target} {report.verdict}' for report in candidate.reports)}; "
        f"{candidate.reason}"
        for candidate in outcome.candidates
    ]
