"""Sampled exchanges become traffic, redacted before they touch the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from infra.gateway.capture import ServedExchange
from infra.identifiers import RequestId
from infra.settings import Settings
from tasks.personal_data.names import clean
from tasks.records import UNKNOWN, Payload, Request
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.parts import write_traffic

TENANT = "default"
"""Of a request that names none, as in imports."""


def traffic_writer(settings: Settings, model: str) -> Callable[[Sequence[ServedExchange]], object]:
    """Return what stores a model's exchanges as its live traffic.

    What that takes is imported here, before requests come: pyarrow brings pandas at its first
    table, and the search for secrets its libraries, which takes a core for half a second.
    """
    if settings.gateway_capture:
        to_parquet(())
        clean(TENANT)

    def write(exchanges: Sequence[ServedExchange]) -> list[str]:
        return write_traffic(settings.store(), model, map(as_request, exchanges))

    return write


def as_request(exchange: ServedExchange) -> Request:
    """Return an exchange as traffic has it."""
    said = exchange.context
    return Request(
        RequestId(exchange.request_id),
        exchange.time,
        said.get("tenant", TENANT),
        said.get("domain", UNKNOWN),
        said.get("language", UNKNOWN),
        cast(Payload, exchange.payload),
        latency_ms=exchange.latency_ms,
        model_version=exchange.version,
        label=said.get("label"),
    )
