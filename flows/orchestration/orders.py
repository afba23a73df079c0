"""Orders: a flow run that a person started carries a signed note of who it was.

The note is bound to one run (its idempotency key), flow and parameters, so that it cannot be moved
to another run. It is signed by the workspace's secret. Prefect's own password follows from that,
but not the other way round.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infra.access.sessions import Sessions
from infra.canonical import canonical, sha256
from infra.settings import settings

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun

NOTE = "requant.order"
"""Where a flow run's context holds the note."""


def signed_order(actor: str, flow: str, key: str, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Return the context of a flow run that this person ordered."""
    return {NOTE: _sessions().order(actor, _order(flow, key, parameters))}


def proven_actor(flow: str, flow_run: FlowRun) -> str | None:
    """Return who ordered the run of a flow; None where nothing proves it."""
    note = (flow_run.context or {}).get(NOTE)
    if not isinstance(note, str) or flow_run.idempotency_key is None:
        return None
    return _sessions().of_order(note, _order(flow, flow_run.idempotency_key, flow_run.parameters))


def _sessions() -> Sessions:
    return Sessions(settings().secret())


def _order(flow: str, key: str, parameters: Mapping[str, Any]) -> str:
    return sha256(canonical({"flow": flow, "key": key, "parameters": dict(parameters)}))
