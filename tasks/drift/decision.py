"""From what the detectors found to what is done: the table of ADR 29, as one pure function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from infra.errors import BadInput
from infra.identifiers import Digest
from tasks.drift.attribution import attribute
from tasks.records import Action, Decision, DetectorResult, Health, ThinWindow

HARDLY = 0.2
"""Of what the budget lets a group's answers lose: below it, outgrown scales are worth no build."""
DETECTORS = ("weights", "input", "range", "fidelity", "safety", "control")
_LASTING = (
    "Where traffic moves often, a precision that does not drift is another answer: ranges at run "
    "time (int8-per-token: the same size, slower), FP8 with headroom (the "
    "same size, on devices that have it), or the sites that drift in floating point (4 bytes a "
    "weight there instead of 1). `requant requantize MODEL --search full` measures each."
)
_SHOWN = 3  # findings of one detector that a reason quotes
_WORST = (Health.DEGRADED, Health.INCONCLUSIVE, Health.FINE)


def decide(results: Iterable[DetectorResult], *, window_digest: Digest) -> Decision:
    """Keep, recalibrate, fall back, request retraining, or say that nothing can be said.

    Several results of one detector count as the worst of them. A detector without a result is
    inconclusive. Range and fidelity must both have been judged to keep; the others may be
    inconclusive, and the reasons say so. Other weights than the champion was built from ask for a
    build, whatever the traffic does. Outgrown scales ask for none while the answers of every group
    that was judged have lost less than HARDLY of what its budget allows.

    Raises:
        BadInput: On a detector that the table does not know.
    """
    judged = tuple(results)
    unknown = sorted({result.detector for result in judged} - set(DETECTORS))
    if unknown:
        raise BadInput(
            f"there is no detector called {unknown[0]}: the decision knows {', '.join(DETECTORS)}"
        )
    health = {detector: health_of(detector, judged) for detector in DETECTORS}
    waits = outgrown_for_nothing(judged)
    action = _action({**health, "range": Health.FINE} if waits else health)
    reasons = (
        _headline(action, health, waits),
        *(_reason(detector, health[detector], judged) for detector in _order(health)),
        *((_LASTING,) if action is Action.RECALIBRATE and _outgrown(health) else ()),
    )
    return Decision(action, reasons, judged, window_digest, "; ".join(attribute(judged)))


def outgrown_for_nothing(results: Iterable[DetectorResult]) -> bool:
    """Return whether scales are outgrown and no group's answers, all judged fine, show it yet."""
    judged = tuple(results)
    if (
        health_of("range", judged) is not Health.DEGRADED
        or health_of("fidelity", judged) is not Health.FINE
    ):
        return False
    losses = [
        finding
        for result in judged
        if result.detector == "fidelity"
        for finding in result.findings
        if finding.value > 0
    ]
    return all(1 - finding.value < HARDLY * (1 - finding.limit) for finding in losses)


def undecided(window: ThinWindow, results: Iterable[DetectorResult]) -> Decision:
    """Return that too few requests came to look at, with the detectors that need no traffic."""
    judged = tuple(results)
    headline = f"{window.told[0].upper()}{window.told[1:]}: no decision."
    reasons = (headline, *(_reason(result.detector, result.health, judged) for result in judged))
    return Decision(
        Action.INCONCLUSIVE, reasons, judged, window.digest, "; ".join(attribute(judged))
    )


def recalibrates(decision: Decision) -> bool:
    """Return whether a candidate is to be built.

    A request for retraining includes one only if fidelity or the weights are degraded as well.
    """
    if decision.held:
        return False
    if decision.action is Action.REQUEST_RETRAINING:
        return Health.DEGRADED in (
            health_of(detector, decision.results) for detector in ("fidelity", "weights")
        )
    return decision.action in (Action.RECALIBRATE, Action.FALLBACK)


def wants_retraining(decision: Decision) -> bool:
    """Return whether full precision is wrong too, also where safety made the loop fall back."""
    return (
        decision.action is not Action.HOLD
        and health_of("control", decision.results) is Health.DEGRADED
    )


def health_of(detector: str, results: Iterable[DetectorResult]) -> Health:
    """Return the worst of a detector's results; inconclusive without any."""
    health = {result.health for result in results if result.detector == detector}
    return next((worst for worst in _WORST if worst in health), Health.INCONCLUSIVE)


def _action(health: Mapping[str, Health]) -> Action:
    judged = (health["range"], health["fidelity"])
    if health["safety"] is Health.DEGRADED:
        return Action.FALLBACK
    if health["control"] is Health.DEGRADED:
        return Action.REQUEST_RETRAINING
    if Health.DEGRADED in (*judged, health["weights"]):
        return Action.RECALIBRATE
    if Health.INCONCLUSIVE in judged:
        return Action.INCONCLUSIVE
    return Action.KEEP


def _outgrown(health: Mapping[str, Health]) -> bool:
    return health["range"] is Health.DEGRADED and health["weights"] is not Health.DEGRADED


def _headline(action: Action, health: Mapping[str, Health], waits: bool) -> str:
    match action:
        case Action.FALLBACK:
            also = ", and request retraining" if health["control"] is Health.DEGRADED else ""
            return (
                "Safety decisions flip more often than the budget allows: "
                f"fall back, then recalibrate{also}."
            )
        case Action.REQUEST_RETRAINING:
            also = "recalibration cannot help"
            if health["weights"] is Health.DEGRADED:
                also = (
                    "the model's weights changed since the champion was built, so recalibrate too"
                )
            elif health["fidelity"] is Health.DEGRADED:
                also = "the quantized model has lost more on top, so recalibrate too"
            return f"Full precision itself is wrong on this traffic: request retraining; {also}."
        case Action.RECALIBRATE if health["weights"] is Health.DEGRADED:
            return "The model's weights changed since the champion was built: recalibrate."
        case Action.RECALIBRATE:
            down = " and ".join(
                detector
                for detector in ("range", "fidelity")
                if health[detector] is Health.DEGRADED
            )
            return (
                f"The quantized model no longer fits this traffic ({down} degraded): recalibrate."
            )
        case Action.INCONCLUSIVE:
            open_ = " and ".join(
                detector
                for detector in ("range", "fidelity")
                if health[detector] is Health.INCONCLUSIVE
            )
            return f"Nothing is known to be wrong, but {open_} could not be judged: no decision."
        case _ if waits:
            return (
                "Scales are outgrown, but the answers have lost hardly anything "
                "of what the budget allows: keep."
            )
        case _:
            moved = (
                "The input moved, but ranges" if health["input"] is Health.DEGRADED else "Ranges"
            )
            return f"{moved} and fidelity are fine: keep."


def _order(health: Mapping[str, Health]) -> list[str]:
    """Return the detectors: what degraded first, then what is unknown."""
    return sorted(DETECTORS, key=lambda detector: _WORST.index(health[detector]))


def _reason(detector: str, health: Health, results: Iterable[DetectorResult]) -> str:
    findings = [
        finding for result in results if result.detector == detector for finding in result.findings
    ]
    if health is Health.DEGRADED:
        texts = [finding.text for finding in findings if finding.exceeded]
    else:
        texts = [finding.text for finding in findings]
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return f"{_said(detector, health)}: {'; '.join(texts[:_SHOWN]) or 'no figures'}{more}."


def _said(detector: str, health: Health) -> str:
    if health is Health.INCONCLUSIVE and detector in ("weights", "input", "safety", "control"):
        return f"{detector.capitalize()} could not be judged and counts as fine"
    degraded = {"input": "moved", "weights": "changed"}.get(detector, "degraded")
    if detector == "weights" and health is Health.FINE:
        return "Weights are the champion's"
    return (
        f"{detector.capitalize()} {degraded if health is Health.DEGRADED else f'is {health.value}'}"
    )
