"""A candidate takes one model's traffic over, as its ledger and its own answers say.

The step stands in the ledger, and the gateway follows it: after a restart, and on every replica.
What was measured of a step does not outlive the process, so that a step is then judged anew. A
candidate that fails loses its traffic by one assignment, before anything is written. What changes
the champion is done by a process of its own, which may load what the gateway need not.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from flows.gateway.steering.notes import Notes
from flows.gateway.steering.opening import OpenReleases
from flows.gateway.steering.tiers import compared_outputs
from infra.errors import NotFound, Refused, RequantError
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from infra.gateway.steering.shadow import SecondAnswer
from infra.gateway.steering.trial import Trial
from tasks.models.catalog import RegisteredModel
from tasks.promotion import journal, ledger
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.serving import deliveries
from tasks.promotion.serving.deliveries import ABORTED, COMPLETED, Delivery
from tasks.serving.comparing import LiveComparison, comparison
from tasks.serving.delivery import Move, StepEvaluation, evaluated, least_scores, next_move
from tasks.serving.objectives import ERRORS, FIDELITY, FLIPS, LATENCY
from tasks.specs.serving import DeliverySpec
from tasks.specs.traits import TRAITS

LOOK_S = 0.5
"""Seconds between two looks at the ledger and at what was measured."""
ACT_S = 300
OPEN_S = 600.0
"""Seconds of a step within which its candidate has to be opened, whatever hinders that."""
AGAIN_S = 5.0
"""Seconds until what went wrong is tried again."""
_log = logging.getLogger(__name__)


class CandidateObserver:
    """Takes notes of a candidate and the champion, of one step."""

    def __init__(self, spec: DeliverySpec, comparison: LiveComparison | None) -> None:
        self.spec, self.notes, self._comparison = spec, Notes(), comparison

    @property
    def share(self) -> float:
        """Return the share of requests that both answer."""
        return self.spec.sample

    def answered(self, seconds: float) -> None:
        """Note an answer of the candidate to a caller."""
        self.notes.add(ERRORS, 1.0)

    def failed(self) -> None:
        """Note a caller's request to which it gave none."""
        self.notes.add(ERRORS, 0.0)

    def compared(self, answers: Sequence[SecondAnswer]) -> None:
        """Note a pair; where one gave no answer, only that counts."""
        candidate, base, *reference = answers
        self.notes.add(ERRORS, float(candidate.outputs is not None))
        if candidate.outputs is None or base.outputs is None:
            return
        kept = candidate.seconds <= self.spec.latency_ratio * base.seconds
        self.notes.add(LATENCY, float(kept))
        if self._comparison is None or not reference or reference[0].outputs is None:
            return
        before, same_before = self._comparison.scores(reference[0].outputs, base.outputs)
        after, same_after = self._comparison.scores(reference[0].outputs, candidate.outputs)
        self.notes.add(FIDELITY, *((1.0 + after - before) / 2).tolist())
        self.notes.add(FLIPS, *((1.0 + same_after - same_before) / 2).tolist())


@dataclass(slots=True)
class _Attempt:
    """A delivery that this process takes part in."""

    delivery: Delivery
    spec: DeliverySpec
    registered: RegisteredModel
    trial: Trial
    observer: CandidateObserver
    least: dict[str, float]
    judges: int = 1

    def evaluation(self) -> StepEvaluation:
        """Judge what was measured of this step so far."""
        alpha = self.spec.false_verdicts / (len(self.delivery.shares) + 1) / self.judges
        return evaluated(self.observer.notes.all(), self.least, alpha)


class Deliverer:
    """What brings candidates of one endpoint forward, and back."""

    def __init__(
        self,
        endpoint: Endpoint,
        releases: OpenReleases,
        *,
        look_s: float = LOOK_S,
        judges: int = 1,
    ) -> None:
        """Bring forward what the ledger says.

        Args:
            endpoint: Whose candidates.
            releases: What the process has open.
            look_s: Seconds between two looks.
            judges: Processes that judge a step, each by its own sample.
        """
        self._judges = judges
        self._endpoint, self._releases, self._look_s = endpoint, releases, look_s
        self._journal = journal.open_journal(endpoint.model)
        self._attempt: _Attempt | None = None
        self._failed = ""  # digest of what was brought back from while it baked
        self._not_before = 0.0  # of the monotonic clock
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name=f"deliver-{endpoint.model}", daemon=True
        )

    def start(self) -> None:
        """Look again and again, from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def look(self) -> None:
        """Follow the delivery that goes on, and judge its step."""
        if time.monotonic() < self._not_before:
            return
        entries = self._journal.read()
        delivery = deliveries.open_delivery(entries)
        if delivery is None or self._endpoint.release is None:
            self._leave(entries)
            return
        overtaken = deliveries.overtaken(entries, delivery)
        if overtaken is not None:
            self._leave(entries)
            self._end(delivery, *overtaken)
            return
        if self._attempt is None or self._attempt.delivery != delivery:
            self._begin(entries, delivery)
        if self._attempt is not None:
            self._judge(self._attempt)

    def _begin(self, entries: Sequence[LedgerEntry], delivery: Delivery) -> None:
        """Load what takes part, unless an earlier step did, and let the step begin."""
        before = self._attempt
        try:
            known = before if before and before.delivery.digest == delivery.digest else None
            registered = (
                known.registered if known else self._releases.registered(self._endpoint.model)
            )
            attempt = self._opened(entries, delivery, registered, known)
        except Exception as error:
            if not isinstance(error, Refused | NotFound) and _seconds_of(delivery) < OPEN_S:
                raise
            self._give_up(entries, delivery, error)
            return
        if delivery.baking:
            self._promote(entries, delivery)
        self._attempt, self._endpoint.steering.trial = attempt, attempt.trial

    def _give_up(
        self, entries: Sequence[LedgerEntry], delivery: Delivery, error: Exception
    ) -> None:
        """End the delivery of a candidate that cannot be opened."""
        told = str(error) if isinstance(error, RequantError) else "it could not be loaded"
        reason = f"the candidate cannot be served: {told}"
        self._leave(entries)
        if _reigns(entries, delivery):
            self._act("roll-back", delivery.base, reason, f"delivery-{delivery.digest}")
        self._end(delivery, ABORTED, reason)

    def _opened(
        self,
        entries: Sequence[LedgerEntry],
        delivery: Delivery,
        registered: RegisteredModel,
        known: _Attempt | None,
    ) -> _Attempt:
        serving = registered.spec.serving
        spec = (serving.delivery if serving else None) or DeliverySpec()
        compares = not TRAITS[registered.spec.task].per_token
        compared = comparison(registered.spec.task, compared_outputs(registered), registered.golden)
        observer = CandidateObserver(spec, compared if compares else None)
        if known is not None:
            candidate, base, reference = (
                known.trial.candidate,
                known.trial.base,
                known.trial.reference,
            )
        else:
            candidate = self._releases.release(
                registered, _named(entries, delivery.version, delivery.release)
            )
            base = self._base(entries, delivery, registered)
            reference = self._releases.reference(registered) if compares else None
        share = 0.0 if delivery.baking else delivery.share
        trial = Trial(candidate, base, share, observer, reference)
        decides = compared.decides
        least = dict(least_scores(spec, compared=compares, decides=decides))
        return _Attempt(delivery, spec, registered, trial, observer, least, self._judges)

    def _base(
        self, entries: Sequence[LedgerEntry], delivery: Delivery, registered: RegisteredModel
    ) -> ServedRelease:
        """Return the champion before the candidate: what answers now, or what did before."""
        serving = self._endpoint.release
        if serving is not None and serving.version == delivery.base:
            return serving
        champion = ledger.champion(entries)
        if champion is None or champion.version != delivery.base:
            champion = ledger.rollback_target(entries, delivery.base)
        return self._releases.release(registered, champion)

    def _judge(self, attempt: _Attempt) -> None:
        delivery, evaluation = attempt.delivery, attempt.evaluation()
        move = next_move(evaluation, _seconds_of(delivery), attempt.spec, baking=delivery.baking)
        if move is Move.HOLD:
            return
        if move is Move.ABORT:
            self._abort(attempt, evaluation)
        elif delivery.baking:
            self._attempt, self._endpoint.steering.trial = None, None
            self._end(delivery, COMPLETED, f"nothing spoke against it: {evaluation.told}")
        else:
            model = self._endpoint.model
            journal.commit(model, deliveries.stepped, delivery, evaluation.told)

    def _abort(self, attempt: _Attempt, evaluation: StepEvaluation) -> None:
        """Take the candidate's traffic away, bring its champion back, and write that down."""
        steering, delivery = self._endpoint.steering, attempt.delivery
        steering.trial = None
        reason = f"in its step ({delivery.stage}) it was {evaluation.verdict}"
        if delivery.baking:
            steering.instead, self._failed = attempt.trial.base, delivery.release
            self._act("roll-back", delivery.base, reason, f"delivery-{delivery.digest}")
        self._end(delivery, ABORTED, f"{reason}: {evaluation.told}")

    def _promote(self, entries: Sequence[LedgerEntry], delivery: Delivery) -> None:
        """Make the candidate champion; again, nothing more happens."""
        if not _reigns(entries, delivery):
            reason = "It passed shadow and canary."
            self._act("promote", delivery.version, delivery.release, delivery.base, reason)

    def _act(self, *arguments: str) -> None:
        """Change the champion, in a process of its own.

        Raises:
            RequantError: It was refused.
        """
        act, *rest = arguments
        command = (sys.executable, "-m", "flows.gateway.steering.act", act, self._endpoint.model)
        done = subprocess.run(  # noqa: S603  # this interpreter, and our own module
            (*command, *rest), capture_output=True, text=True, timeout=ACT_S, check=False
        )
        if done.returncode:
            raise RequantError(f"{act} failed: {done.stderr.strip()[-500:]}")

    def _end(self, delivery: Delivery, outcome: str, reason: str) -> None:
        told = f"Version {delivery.version} is {outcome}: {reason}"
        _log.warning("%s: %s", self._endpoint.model, told)
        journal.commit(self._endpoint.model, deliveries.ended, delivery, outcome, told)

    def _leave(self, entries: Sequence[LedgerEntry]) -> None:
        """Let the champion answer; one that failed not before the rollback has reached it."""
        steering, release = self._endpoint.steering, self._endpoint.release
        self._attempt, steering.trial = None, None
        champion = ledger.champion(entries)
        answers = release is not None and release.digest == self._failed
        if not answers or (champion is not None and champion.release == self._failed):
            steering.instead = None

    def _follow(self) -> None:
        while not self._ended.wait(self._look_s):
            try:
                self.look()
            except Exception:  # whatever it is, the next look tries again
                self._not_before = time.monotonic() + AGAIN_S
                _log.exception("the delivery of %s waits", self._endpoint.model)


def _seconds_of(delivery: Delivery) -> float:
    """Return how long the step has lasted."""
    return (datetime.now(UTC) - delivery.since).total_seconds()


def _reigns(entries: Sequence[LedgerEntry], delivery: Delivery) -> bool:
    """Return whether the candidate is champion already."""
    champion = ledger.champion(entries)
    return champion is not None and champion.release == delivery.release


def _named(entries: Sequence[LedgerEntry], version: str, release: str) -> LedgerEntry:
    named = (entry for entry in reversed(entries) if entry.release == release)
    entry = next(named, None)
    if entry is None:
        raise NotFound(f"the ledger names no version {version} of that release")
    return entry
