"""One model's limits are watched while it serves: a broken one moves its traffic at once.

Traffic moves by one assignment, before anything is written. Then the incident goes to the ledger,
where the schedules find that maintenance is asked for. What stands open there is taken up again
after a restart. The champion is probed meanwhile, and comes back when it kept its limits for long
enough.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import psutil

from flows.gateway.steering.notes import Notes
from infra.errors import RequantError
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from infra.gateway.steering.shadow import Tensors
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.serving import incidents
from tasks.serving.comparing import LiveComparison
from tasks.serving.objectives import (
    ERRORS,
    FIDELITY,
    FLIPS,
    LATENCY,
    MEMORY,
    ServingWatch,
    waits_s,
    watching,
)
from tasks.specs.serving import FallbackSpec

LOOK_S = 0.2
"""Seconds between two looks at what was answered."""
AGAIN_S = 5.0
"""Seconds until an incident that could not be written is written again."""
_log = logging.getLogger(__name__)


def resident_mb() -> float:
    """Return the memory that this process holds, in MB of 10^6 bytes."""
    return float(psutil.Process().memory_info().rss) / 1e6


class ChampionObserver:
    """Takes notes of one champion's answers."""

    def __init__(
        self,
        spec: FallbackSpec,
        champion: ServedRelease,
        comparison: LiveComparison | None,
        *,
        probed: bool = True,
        tell: Callable[[Sequence[float]], None] = lambda _: None,
    ) -> None:
        """Take notes for a spec's limits.

        Args:
            spec: The limits.
            champion: Whose answers count.
            comparison: How they are held against the reference; None: they are not.
            probed: Whether it can be probed while traffic is away; otherwise time alone decides.
            tell: Is told how close the champion's answers are to the reference's.
        """
        self.spec, self.champion, self.probed = spec, champion, probed
        self.notes, self._comparison, self._tell = Notes(), comparison, tell

    @property
    def share(self) -> float:
        """Return the share of requests that are compared."""
        return self.spec.shadow

    def answered(self, release: ServedRelease, seconds: float) -> None:
        """Note an answer."""
        if release is not self.champion:
            return
        self.notes.add(ERRORS, 1.0)
        if self.spec.latency_ms is not None:
            self.notes.add(LATENCY, float(seconds * 1e3 <= self.spec.latency_ms))

    def remembered(self, held_mb: float) -> None:
        """Note how much memory the process holds, in MB."""
        if self.spec.memory_mb is not None:
            self.notes.add(MEMORY, float(held_mb <= self.spec.memory_mb))

    def failed(self, release: ServedRelease) -> None:
        """Note a request without an answer."""
        if release is self.champion:
            self.notes.add(ERRORS, 0.0)
            self.notes.add(LATENCY, 0.0)

    def compared(self, reference: Tensors, outputs: Tensors | None) -> None:
        """Note how close the champion's answer is to the reference's."""
        if self._comparison is None:
            return
        fidelity, same = self._comparison.scores(reference, outputs)
        self._tell(fidelity.tolist())
        self.notes.add(FIDELITY, *fidelity.tolist())
        self.notes.add(FLIPS, *same.tolist())


class Guardian:
    """What watches one endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        look_s: float = LOOK_S,
        memory_mb: Callable[[], float] | None = None,
    ) -> None:
        self._endpoint, self._look_s = endpoint, look_s
        self._memory_mb = memory_mb or resident_mb
        self._observer: ChampionObserver | None = None
        self._watch: ServingWatch | None = None
        self._fell: float | None = None  # of the monotonic clock; None: the champion answers
        self._falls = 0
        self._unwritten: tuple[float, str, tuple[str, ...]] | None = None  # due, reason, limits
        self._told = ""  # digest of the newest entry about the champion's traffic
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name=f"guard-{endpoint.model}", daemon=True
        )

    def start(self) -> None:
        """Look again and again, from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended.set()

    def guard(self, observer: ChampionObserver | None, fallback: ServedRelease | None) -> None:
        """Watch another champion from now on, or none."""
        with self._lock:
            steering = self._endpoint.steering
            self._observer = observer
            steering.observer, steering.fallback = observer, fallback
            self._fell, self._unwritten, self._falls, self._told = None, None, 0, ""
            self._watch = None if observer is None else watching(observer.spec)
            self._set_fallen(False)

    def stand_by(self, fallback: ServedRelease) -> None:
        """Let another release answer where the champion falls, or has fallen."""
        self._endpoint.steering.fallback = fallback

    def resume(self, entries: Sequence[LedgerEntry]) -> None:
        """Take up the incident of the champion that stands open in its ledger."""
        with self._lock:
            if self._observer is None:
                return
            self._told = incidents.newest(entries, self._observer.champion.digest)
            self._take_up(entries, self._observer)

    def follow(self, entries: Sequence[LedgerEntry]) -> None:
        """Move as another process that serves this champion wrote that its traffic did."""
        with self._lock:
            observer = self._observer
            if observer is None or self._unwritten is not None:
                return
            newest = incidents.newest(entries, observer.champion.digest)
            if newest == self._told:  # also where what this process wrote is not read yet
                return
            self._told = newest
            if self._take_up(entries, observer) != (self._fell is not None):
                self._set_fallen(False)
                self._fell, self._watch = None, watching(observer.spec)

    def _take_up(self, entries: Sequence[LedgerEntry], observer: ChampionObserver) -> bool:
        """Return whether an incident stands open, and let traffic leave where it does."""
        release = observer.champion.digest
        self._falls = incidents.falls_of(entries, release)
        incident = incidents.open_incident(entries, release)
        if incident is None:
            return False
        if self._fell is None:
            gone = (datetime.now(UTC) - incident.since).total_seconds()
            self._fell, self._watch = time.monotonic() - max(gone, 0.0), watching(observer.spec)
            self._set_fallen(True)
        return True

    def look(self) -> None:
        """Judge what was answered since the last look; nothing is raised."""
        with self._lock:
            observer, watch = self._observer, self._watch
            if observer is None or watch is None:
                return
            if observer.spec.memory_mb is not None:
                observer.remembered(self._memory_mb())
            self._watch = watch = watch.looked(observer.notes.taken())
            if self._fell is None:
                broken = watch.broken(observer.spec.false_alarms)
                if broken:
                    self._fall(observer, watch, broken)
            elif self._may_return(observer, watch):
                self._return(observer)
            self._write(observer)

    def _fall(
        self, observer: ChampionObserver, watch: ServingWatch, broken: tuple[str, ...]
    ) -> None:
        self._set_fallen(True)
        self._fell, self._falls = time.monotonic(), self._falls + 1
        self._watch = watching(observer.spec)
        told = watch.told(broken)
        reason = (
            f"Version {observer.champion.version} broke a limit ({told}): "
            f"{observer.spec.to} answers, and maintenance is asked for"
        )
        _log.warning("%s: %s", self._endpoint.model, reason)
        self._unwritten = (0.0, reason, broken)

    def _may_return(self, observer: ChampionObserver, watch: ServingWatch) -> bool:
        if self._unwritten is not None or self._fell is None:
            return False
        waited = time.monotonic() - self._fell >= waits_s(observer.spec, self._falls)
        return waited and (not observer.probed or watch.recovered(observer.spec.false_alarms))

    def _return(self, observer: ChampionObserver) -> None:
        self._set_fallen(False)
        self._fell, self._watch = None, watching(observer.spec)
        reason = f"Version {observer.champion.version} kept its limits while it was probed"
        self._unwritten = (0.0, reason, ())

    def _write(self, observer: ChampionObserver) -> None:
        """Write what happened last to the ledger; what fails is tried again."""
        if self._unwritten is None or time.monotonic() < self._unwritten[0]:
            return
        _, reason, limits = self._unwritten
        model, release = self._endpoint.model, observer.champion.digest
        try:
            if limits:
                to = observer.spec.to
                journal.commit(model, incidents.fell_back, release, to, limits, reason)
            else:
                journal.commit(model, incidents.returned, release, reason)
        except RequantError as error:
            _log.warning("%s: the incident is not in the ledger yet: %s", model, error)
            self._unwritten = (time.monotonic() + AGAIN_S, reason, limits)
        else:
            self._unwritten = None

    def _set_fallen(self, fallen: bool) -> None:
        self._endpoint.steering.fallen = fallen
        self._endpoint.metrics.fell_back(self._endpoint.model, fallen)

    def _follow(self) -> None:
        while not self._ended.wait(self._look_s):
            try:
                self.look()
            except Exception:  # whatever it is, the next look is made
                _log.exception("%s is not watched", self._endpoint.model)
