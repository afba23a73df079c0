"""Releases that a ledger names, each verified, loaded and tried before it may answer."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from weakref import WeakValueDictionary

import numpy as np

from flows.gateway.fronts import open_front
from flows.gateway.guards import Guards, Judge, open_guards
from flows.gateway.judging import FollowedJudge, model_judge
from infra.engines.port import Engine
from infra.engines.released import load_released
from infra.errors import Refused
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import read_signature
from infra.identifiers import ModelName
from infra.releases import Release
from infra.run_scope import run_scope
from infra.settings import Settings
from tasks.models.catalog import RegisteredModel
from tasks.models.source_files import FULL_PRECISION
from tasks.promotion import journal
from tasks.promotion.ledger import LedgerEntry, champion
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.specs.registration import current_digest
from tasks.specs.traits import TRAITS

SMOKE_CASES, AGAIN_CASES = 4, 1
"""Golden cases that an engine answers once it is loaded, and again before it is given out anew."""
NICER = 5
"""By how much verifying is nicer than answering, on Linux: setpriority(2) of one thread."""
REFERENCE = "full-precision"
"""The version that answers of the full-precision tier name."""
_log = logging.getLogger(__name__)
GuardsOf = Callable[[RegisteredModel, Engine], Guards]
"""From a model, and the engine that answers, to what guards it."""


class OpenReleases:
    """What a process has open of some models: each release once, while anything holds it.

    A release that is open was verified byte by byte when it was loaded. It is given out again once
    its manifest and signature hold still and it answers a golden case, so that a rollback to it
    loads nothing. One that answers no more is loaded anew.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._registered: dict[str, RegisteredModel] = {}
        self._releases = WeakValueDictionary[tuple[str, ...], ServedRelease]()
        self._opening = defaultdict[str, threading.RLock](threading.RLock)  # by model

    def registered(self, model: str) -> RegisteredModel:
        """Return a model as it is registered now.

        It is not one of those that a process keeps open, whose full precision would stay in memory.
        """
        digest = current_digest(model)
        with self._opening[model]:
            known = self._registered.get(model)
            if known is None or known.digest != digest:
                known = self._registered[model] = RegisteredModel(ModelName(model), digest)
            return known

    def release(
        self,
        registered: RegisteredModel,
        entry: LedgerEntry,
        *,
        using: ServedRelease | None = None,
    ) -> ServedRelease:
        """Return the release that an entry names.

        Args:
            registered: The model.
            entry: Of its ledger.
            using: What the caller lets answer already, and is not tried again.

        Raises:
            Tampered: A file, or the manifest's signature, does not hold.
            NotFound: The bundle lacks a file.
            Unavailable: None of its engines runs here.
            Refused: The engine does not answer golden cases.
        """
        bundle = self._settings.release(registered.name, str(entry.release))

        def load() -> ServedRelease:
            with run_scope():  # its plan is read once
                return _loaded(bundle, registered, str(entry.version), self._guards)

        return self._open(registered, (bundle.digest, str(entry.version)), load, using)

    def reference(
        self, registered: RegisteredModel, *, using: ServedRelease | None = None
    ) -> ServedRelease:
        """Return the full-precision graph as a release of its own."""
        return self._open(
            registered, (REFERENCE,), lambda: _reference(registered, self._guards), using
        )

    def standing(
        self, model: str, using: ServedRelease | None = None
    ) -> tuple[RegisteredModel, ServedRelease]:
        """Return any model and its champion's release; until it has one, full precision's."""
        registered, head = self.registered(model), champion(journal.read(model))
        if head is None:
            return registered, self.reference(registered, using=using)
        return registered, self.release(registered, head, using=using)

    def _guards(self, registered: RegisteredModel, engine: Engine) -> Guards:
        """Return a release's guards; a model's own decisions are those of its engine."""
        serving = registered.spec.serving
        if serving is None or TRAITS[registered.spec.task].reads != "text":
            return Guards()

        def judge(model: str, prompt: str) -> Judge:
            if model == registered.name:
                return model_judge(registered, engine, prompt)
            return FollowedJudge(partial(self.standing, model), prompt)

        return open_guards(serving.guards, judge)

    def _open(
        self,
        registered: RegisteredModel,
        name: tuple[str, ...],
        load: Callable[[], ServedRelease],
        using: ServedRelease | None,
    ) -> ServedRelease:
        with self._opening[registered.name]:
            known = self._releases.get((registered.digest, *name))
            if known is not None and (known is using or _answers_still(known, registered)):
                return known
            served = self._releases[registered.digest, *name] = load()
            registered.forget_graph()
            return served


def _loaded(
    bundle: Release, registered: RegisteredModel, version: str, guards: GuardsOf
) -> ServedRelease:
    """Verify every file of a bundle, load its engine, and let it answer golden cases."""
    _verify(bundle)
    inputs, spec = registered.inputs, registered.spec
    engine = load_released(bundle, spec.targets)
    served = ServedRelease(
        registered.name,
        version,
        bundle.digest,
        _target(bundle, spec.targets),
        engine,
        read_signature(bundle.file(CPU_PLAN if CPU_PLAN in bundle.files else GRAPH)),
        open_front(spec, inputs, registered.layout, engine, guards(registered, engine)),
    )
    require_answers(served, registered, SMOKE_CASES)
    return served


def _verify(bundle: Release) -> None:
    """Verify every file of a bundle, and keep what an engine is loaded from.

    A thread of lower priority does it, so that requests which are answered meanwhile keep most of
    the cores. It loads no engine: threads that one starts would inherit its priority for good.
    """

    def verify() -> None:
        if sys.platform == "linux":  # elsewhere it would be the whole process's
            os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0) + NICER)
        for name in bundle.files:
            if name.startswith("engines/"):
                bundle.file(name)
            else:
                bundle.require_file(name)

    with ThreadPoolExecutor(1) as thread:
        thread.submit(copy_context().run, verify).result()


def _reference(registered: RegisteredModel, guards: GuardsOf) -> ServedRelease:
    engine = registered.open_reference()
    front = open_front(
        registered.spec, registered.inputs, registered.layout, engine, guards(registered, engine)
    )
    served = ServedRelease(
        registered.name,
        REFERENCE,
        registered.source,
        "onnxruntime-cpu",
        engine,
        read_signature(registered.file(FULL_PRECISION)),
        front,
    )
    require_answers(served, registered, SMOKE_CASES)
    return served


def _answers_still(release: ServedRelease, registered: RegisteredModel) -> bool:
    """Return whether an engine that was loaded before answers; nothing is raised."""
    try:
        require_answers(release, registered, AGAIN_CASES)
    except Exception as error:  # whatever it is, such an engine is not used again
        _log.warning("%s %s is loaded anew: %s", release.model, release.version, error)
        return False
    return True


def require_answers(release: ServedRelease, registered: RegisteredModel, cases: int) -> None:
    """Raise `Refused` where the engine does not answer so many golden cases with numbers."""
    inputs = registered.inputs
    payloads = [case.payload for case in registered.golden.cases[:cases]]
    batch = next(inputs.batches(payloads), None)
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
