"""One model's endpoint follows its ledger: what is champion answers, once it was verified.

A champion whose bytes, signature or engine do not hold is not served: what answered before does so
on, and the refusal is counted and told. Verification reads every file of the bundle and asks the
public key alone. The new engine is loaded beside the old one and answers golden cases first; then
one assignment swaps them. What was replaced stays loaded for a while, so that a rollback is one
assignment, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from flows.gateway.steering.guardian import Guardian
from flows.gateway.steering.opening import OpenReleases
from flows.gateway.steering.tiers import Tiers
from infra.errors import RequantError
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from tasks.promotion import ledger
from tasks.promotion.journal import open_journal
from tasks.promotion.ledger import LedgerEntry

POLL_S = 0.2
"""Seconds between two looks at the ledger's head: one question to the store each."""
AGAIN_S = 5.0
"""Seconds until what could not be served is tried again, and between two looks for the ledger."""
KEEP_S = 3600.0
"""Seconds that a release stays loaded after another took its place."""
_log = logging.getLogger(__name__)


class Follower:
    """What keeps one endpoint on its ledger's champion."""

    def __init__(
        self,
        endpoint: Endpoint,
        releases: OpenReleases,
        *,
        poll_s: float = POLL_S,
        keep_s: float = KEEP_S,
    ) -> None:
        """Follow one model's ledger.

        Args:
            endpoint: What answers for it.
            releases: What the process has open.
            poll_s: Seconds between two looks.
            keep_s: Seconds that a replaced release stays loaded.
        """
        self._endpoint, self._releases = endpoint, releases
        self._poll_s, self._keep_s = poll_s, keep_s
        self._journal = open_journal(endpoint.model)
        self._guardian = Guardian(endpoint)
        self._tiers = Tiers(endpoint, self._guardian, releases)
        self._replaced: tuple[ServedRelease, float] | None = None  # until when it is kept
        self._tried = "", 0.0  # what was last to be served, and until when it is not tried again
        self._missed = 0.0  # when it is asked next whether the ledger is still stored
        self.looked = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name=f"follow-{endpoint.model}", daemon=True
        )

    def start(self) -> None:
        """Look at the ledger again and again, from a thread of its own."""
        self._thread.start()
        self._guardian.start()

    def stop(self) -> None:
        """Look no more; what answers does so on."""
        self._ended.set()
        self._guardian.stop()

    def look(self) -> None:
        """Serve the champion, if it does not answer already; nothing is raised."""
        if self._replaced is not None and time.monotonic() > self._replaced[1]:
            self._replaced = None
        try:
            entries = self._read()
            champion = ledger.champion(entries)
            if champion is None or champion.release is None:
                return
            if self._answers(champion):
                self._guardian.follow(entries)
                self._tiers.follow_core()
            elif self._tried[0] != champion.release or time.monotonic() >= self._tried[1]:
                self._tried = champion.release, time.monotonic() + AGAIN_S
                self._serve(champion, entries)
        except Exception as error:  # whatever it is, what answered before does so on
            reason = str(error) if isinstance(error, RequantError) else "it could not be loaded"
            if reason != self._endpoint.reason:  # told once, and not at each look
                _log.warning("%s: %s", self._endpoint.model, error)
            self._endpoint.refuse(reason)

    def _read(self) -> Sequence[LedgerEntry]:
        """Return the ledger; raises `Unavailable`, also where what was read is gone."""
        entries = self._journal.read()
        if time.monotonic() >= self._missed:
            self._journal.chain.require_there()
            self._missed = time.monotonic() + AGAIN_S
        return entries

    def _serve(self, champion: LedgerEntry, entries: Sequence[LedgerEntry]) -> None:
        """Open the champion and its tiers, and let it answer."""
        registered = self._releases.registered(self._endpoint.model)
        served = self._releases.release(registered, champion)
        self._tiers.open(registered, served, entries)
        before = self._endpoint.release
        if before is not None:
            self._replaced = before, time.monotonic() + self._keep_s
        self._endpoint.publish(served)

    def _answers(self, champion: LedgerEntry) -> bool:
        release = self._endpoint.release
        if release is None or release.digest != champion.release:
            return False
        if self._endpoint.reason:  # a rollback to what answers ended the trouble
            self._endpoint.refuse("")
        return True

    def _follow(self) -> None:
        self.look()
        self.looked.set()
        while not self._ended.wait(self._poll_s):
            self.look()
