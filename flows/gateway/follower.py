"""One model's endpoint follows its ledger: what is champion answers, once it was verified.

A champion whose bytes, signature or engine do not hold is not served: what answered before does so
on, and the refusal is counted and told. Verification reads every file of the bundle and asks the
public key alone. The new engine is loaded beside the old one and answers golden cases first; then
one assignment swaps them.
"""

from __future__ import annotations

import logging
import threading
import time

from flows.gateway.steering.guardian import Guardian
from flows.gateway.steering.opening import open_registered, open_release
from flows.gateway.steering.tiers import open_tiers
from infra.errors import RequantError
from infra.gateway.endpoint import Endpoint
from infra.settings import Settings
from tasks.promotion import ledger
from tasks.promotion.journal import open_journal
from tasks.promotion.ledger import LedgerEntry

POLL_S = 0.2
"""Seconds between two looks at the ledger's head: one question to the store each."""
AGAIN_S = 5.0
"""Seconds until what could not be served is tried again."""
_log = logging.getLogger(__name__)


class Follower:
    """What keeps one endpoint on its ledger's champion."""

    def __init__(self, endpoint: Endpoint, settings: Settings, *, poll_s: float = POLL_S) -> None:
        self._endpoint, self._settings, self._poll_s = endpoint, settings, poll_s
        self._journal = open_journal(endpoint.model)
        self._guardian = Guardian(endpoint)
        self._not_before = 0.0  # of the monotonic clock
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
        try:
            entries = self._journal.read()
            champion = ledger.champion(entries)
            if champion is None or champion.release is None or self._answers(champion):
                return
            if time.monotonic() < self._not_before:
                return
            registered = open_registered(self._endpoint.model)
            served = open_release(self._settings, registered, champion)
            open_tiers(self._endpoint, self._guardian, self._settings, registered, served, entries)
            self._endpoint.publish(served)
        except Exception as error:  # whatever it is, what answered before does so on
            self._not_before = time.monotonic() + AGAIN_S
            reason = str(error) if isinstance(error, RequantError) else "it could not be loaded"
            _log.warning("%s: %s", self._endpoint.model, error)
            self._endpoint.refuse(reason)

    def _answers(self, champion: LedgerEntry) -> bool:
        release = self._endpoint.release
        if release is None or release.digest != champion.release:
            return False
        if self._endpoint.reason:  # a rollback to what answers ended the trouble
            self._endpoint.refuse("")
        return True

    def _follow(self) -> None:
        self.look()
        while not self._ended.wait(self._poll_s):
            self.look()
