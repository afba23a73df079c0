"""The destination of one request: which release answers it, and why that one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from infra.errors import BadInput
from infra.gateway.release import ServedRelease
from infra.gateway.steering.observer import AnswerObserver
from infra.gateway.steering.router import Router, Tensors, Tier, Why
from infra.gateway.steering.shadow import SecondAnswer, ShadowRuns
from infra.gateway.steering.trial import Trial


@dataclass(frozen=True, slots=True)
class Asking:
    """What is known of a request before it is answered."""

    context: Mapping[str, str]
    wish: Tier | None = None
    key: str = ""  # by which it stays with one release while another is on trial


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one request goes."""

    release: ServedRelease
    tier: Tier = Tier.ROUTINE
    why: Why = Why.NONE


@dataclass(slots=True)
class Steering:
    """The tiers of one model; one assignment changes each."""

    higher: ServedRelease | None = None
    router: Router | None = None
    fallback: ServedRelease | None = None  # what answers while traffic is away from the champion
    fallen: bool = False
    reference: ServedRelease | None = None  # what shadow samples are held against
    observer: AnswerObserver | None = None
    trial: Trial | None = None
    instead: ServedRelease | None = None  # what answers while the champion is being rolled back

    def destination(self, champion: ServedRelease, asking: Asking, length: int) -> Destination:
        """Return where a request goes at first.

        Raises:
            BadInput: It wishes for a tier that this model has not.
        """
        if self.fallen and self.fallback is not None:
            return Destination(self.fallback, Tier.HIGHER, Why.FALLBACK)
        champion = self.instead or champion
        destination = self._tier(champion, asking, length)
        trial = self.trial
        if destination.tier is Tier.ROUTINE and trial is not None and trial.takes(asking.key):
            return Destination(trial.candidate, Tier.ROUTINE, Why.CANARY)
        return destination

    def _tier(self, champion: ServedRelease, asking: Asking, length: int) -> Destination:
        higher = self.higher
        if higher is None:
            if asking.wish is Tier.HIGHER:
                raise BadInput(
                    f"{champion.model} has no higher tier: leave the wish out, or give its spec "
                    "serving.routing; a tier `previous` wants a champion before this one"
                )
            return Destination(champion)
        if asking.wish is Tier.ROUTINE:
            return Destination(champion)
        why = Why.WISH if asking.wish else Why.NONE
        if not why and self.router is not None:
            why = self.router.before(asking.context, length)
        return Destination(higher, Tier.HIGHER, why) if why else Destination(champion)

    def again(
        self, destination: Destination, asking: Asking, outputs: Tensors
    ) -> Destination | None:
        """Return where a request goes whose answer is unsure; None where the answer stands."""
        higher, router = self.higher, self.router
        routine = destination.tier is Tier.ROUTINE
        if not routine or asking.wish or higher is None or router is None:
            return None
        unsure = router.after(outputs)
        return Destination(higher, Tier.HIGHER, Why.CONFIDENCE) if unsure else None

    def saw(self, destination: Destination, seconds: float) -> None:
        """Note an answer of the routine tier."""
        if destination.why is Why.CANARY and self.trial is not None:
            self.trial.observer.answered(seconds)
        if self.observer is not None and destination.tier is Tier.ROUTINE:
            self.observer.answered(destination.release, seconds)

    def missed(self, destination: Destination) -> None:
        """Note a request of the routine tier that got no answer."""
        if destination.why is Why.CANARY and self.trial is not None:
            self.trial.observer.failed()
        if self.observer is not None and destination.tier is Tier.ROUTINE:
            self.observer.failed(destination.release)

    def probe(self, shadows: ShadowRuns, champion: ServedRelease, feeds: Tensors) -> None:
        """Ask the champion, while it is away, about a request that what stands by failed at.

        Otherwise it would never come back where both fail. Nothing is compared, so that a limit of
        fidelity keeps it away.
        """
        observer = self.observer
        if observer is not None and shadows.draw(observer.share):
            shadows.run([champion], feeds, partial(_tried, observer, champion))

    def shadow(
        self,
        shadows: ShadowRuns,
        champion: ServedRelease,
        destination: Destination,
        feeds: Tensors,
        outputs: Tensors,
    ) -> None:
        """Hold a share of the answers against the reference.

        While traffic is away, the champion is probed instead: what answers is the reference then.
        """
        trial = self.trial
        if trial is not None and not self.fallen and shadows.draw(trial.observer.share):
            shadows.run(trial.compared, feeds, trial.observer.compared)
            return
        observer = self.observer
        if observer is None or not shadows.draw(observer.share):
            return
        if destination.why is Why.FALLBACK:
            shadows.run([champion], feeds, partial(_probed, observer, champion, outputs))
        elif destination.tier is Tier.ROUTINE and self.reference is not None:
            shadows.run([self.reference], feeds, partial(_checked, observer, outputs))


def _probed(
    observer: AnswerObserver,
    champion: ServedRelease,
    reference: Tensors,
    answers: Sequence[SecondAnswer],
) -> None:
    _tried(observer, champion, answers)
    observer.compared(reference, answers[0].outputs)


def _tried(
    observer: AnswerObserver, champion: ServedRelease, answers: Sequence[SecondAnswer]
) -> None:
    (answer,) = answers
    if answer.outputs is None:
        observer.failed(champion)
    else:
        observer.answered(champion, answer.seconds)


def _checked(observer: AnswerObserver, outputs: Tensors, answers: Sequence[SecondAnswer]) -> None:
    (reference,) = answers
    if reference.outputs is not None:
        observer.compared(reference.outputs, outputs)
