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

import numpy as np

from flows.gateway.fronts import open_front
from infra.engines.released import load_released
from infra.errors import Refused, RequantError
from infra.gateway.endpoint import Endpoint
from infra.gateway.release import ServedRelease
from infra.gateway.signature import read_signature
from infra.identifiers import ModelName
from infra.releases import Release
from infra.settings import Settings
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import Inputs
from tasks.promotion import ledger
from tasks.promotion.journal import open_journal
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.records import Payload
from tasks.specs.registration import current_digest

POLL_S = 0.2
"""Seconds between two looks at the ledger's head: one question to the store each."""
AGAIN_S = 5.0
"""Seconds until what could not be served is tried again."""
SMOKE_CASES = 4
_log = logging.getLogger(__name__)


class Follower:
    """What keeps one endpoint on its ledger's champion."""

    def __init__(self, endpoint: Endpoint, settings: Settings, *, poll_s: float = POLL_S) -> None:
        self._endpoint, self._settings, self._poll_s = endpoint, settings, poll_s
        self._journal = open_journal(endpoint.model)
        self._not_before = 0.0  # of the monotonic clock
        self._ended = threading.Event()
        self._thread = threading.Thread(
            target=self._follow, name=f"follow-{endpoint.model}", daemon=True
        )

    def start(self) -> None:
        """Look at the ledger again and again, from a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what answers does so on."""
        self._ended.set()

    def look(self) -> None:
        """Serve the champion, if it does not answer already; nothing is raised."""
        try:
            champion = ledger.champion(self._journal.read())
            if champion is None or champion.release is None or self._answers(champion):
                return
            if time.monotonic() < self._not_before:
                return
            self._endpoint.publish(open_release(self._settings, self._endpoint.model, champion))
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


def open_release(settings: Settings, model: str, champion: LedgerEntry) -> ServedRelease:
    """Verify a champion's bundle, load its engine, and let it answer golden cases.

    Raises:
        Tampered: A file, or the manifest's signature, does not hold.
        NotFound: The bundle lacks a file.
        Unavailable: None of its engines runs here.
        Refused: The engine does not answer golden cases.
    """
    digest = str(champion.release)
    release = settings.release(model, digest)
    for name in release.files:
        release.file(name)
    # Not one of those that a process keeps open: its full precision would stay in memory.
    registered = RegisteredModel(ModelName(model), current_digest(model))
    inputs, spec = registered.inputs, registered.spec
    engine = load_released(release, spec.targets)
    served = ServedRelease(
        model,
        str(champion.version),
        digest,
        _target(release, spec.targets),
        engine,
        read_signature(release.file(CPU_PLAN if CPU_PLAN in release.files else GRAPH)),
        open_front(spec, inputs, registered.layout, engine),
    )
    require_answers(served, inputs, [case.payload for case in registered.golden.cases])
    return served


def require_answers(release: ServedRelease, inputs: Inputs, payloads: list[Payload]) -> None:
    """Raise `Refused` where the engine does not answer some golden cases with numbers."""
    batch = next(inputs.batches(payloads[:SMOKE_CASES]), None)
    if batch is None:
        return
    output = release.engine.run(batch.feeds).get(inputs.output)
    if output is None or (output.dtype.kind == "f" and not np.isfinite(output).all()):
        raise Refused(
            f"release {release.digest[:12]} of {release.model} answers golden cases with "
            f"{'no ' + inputs.output if output is None else 'what is no number'}: it is not "
            "served; roll back"
        )


def _target(release: Release, targets: tuple[str, ...]) -> str:
    return next((name for name in targets if f"engines/{name}/plan" in release.files), "")
