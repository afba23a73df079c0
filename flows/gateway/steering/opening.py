"""A release that a ledger names, verified, loaded and tried before it may answer."""

from __future__ import annotations

import numpy as np

from flows.gateway.fronts import open_front
from infra.engines.released import load_released
from infra.errors import Refused
from infra.gateway.release import ServedRelease
from infra.gateway.wire.signature import read_signature
from infra.identifiers import ModelName
from infra.releases import Release
from infra.settings import Settings
from tasks.models.catalog import RegisteredModel
from tasks.models.inputs import Inputs
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.release import CPU_PLAN, GRAPH
from tasks.records import Payload
from tasks.specs.registration import current_digest

SMOKE_CASES = 4


def open_registered(model: str) -> RegisteredModel:
    """Return a model as it is registered now.

    It is not one of those that a process keeps open, whose full precision would stay in memory.
    """
    return RegisteredModel(ModelName(model), current_digest(model))


def open_release(
    settings: Settings, registered: RegisteredModel, entry: LedgerEntry
) -> ServedRelease:
    """Verify the bundle that an entry names, load its engine, and let it answer golden cases.

    Raises:
        Tampered: A file, or the manifest's signature, does not hold.
        NotFound: The bundle lacks a file.
        Unavailable: None of its engines runs here.
        Refused: The engine does not answer golden cases.
    """
    release = settings.release(registered.name, str(entry.release))
    for name in release.files:
        release.file(name)
    inputs, spec = registered.inputs, registered.spec
    engine = load_released(release, spec.targets)
    served = ServedRelease(
        registered.name,
        str(entry.version),
        str(entry.release),
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
