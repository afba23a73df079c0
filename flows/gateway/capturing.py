"""Sampled exchanges become traffic, redacted before they touch the store."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import cast

from infra.errors import RequantError
from infra.gateway.capture import ServedExchange
from infra.identifiers import RequestId, marked
from infra.settings import Settings
from tasks.personal_data.names import clean
from tasks.records import UNKNOWN, Payload, Request
from tasks.traffic.masking import redacted, stored_id
from tasks.traffic.storage.codec import to_parquet
from tasks.traffic.storage.parts import write_traffic

_log = logging.getLogger(__name__)
TENANT = "default"
"""Of a request that names none, as in imports."""


def traffic_writer(settings: Settings, model: str) -> Callable[[Sequence[ServedExchange]], int]:
    """Return what stores a model's exchanges as its live traffic, and counts what it cannot store.

    What that takes is imported here, before requests come: pyarrow brings pandas at its first
    table, and the search for secrets its libraries, which takes a core for half a second.
    """
    if settings.gateway_capture:
        to_parquet(())
        clean(TENANT)

    def write(exchanges: Sequence[ServedExchange]) -> int:
        requests = list(map(as_request, exchanges))
        try:
            write_traffic(settings.store(), model, requests)
        except RequantError:
            raise
        except Exception:  # of one row, which the others are not to wait for
            fit = [request for request in requests if _is_fit(request)]
            write_traffic(settings.store(), model, fit)
            return len(requests) - len(fit)
        return 0

    return write


def _is_fit(request: Request) -> bool:
    try:
        to_parquet([redacted(request)])
    except Exception as error:  # whatever it is, this row is at fault
        _log.warning("a sampled request cannot be stored: %s", type(error).__name__)
        return False
    return True


def as_request(exchange: ServedExchange) -> Request:
    """Return an exchange as traffic has it."""
    said = exchange.context
    caller, mark = marked(exchange.request_id)
    return Request(
        RequestId(stored_id(caller) + mark),
        exchange.time,
        said.get("tenant", TENANT),
        said.get("domain", UNKNOWN),
        said.get("language", UNKNOWN),
        cast(Payload, exchange.payload),
        latency_ms=exchange.latency_ms,
        model_version=exchange.version,
        label=said.get("label"),
    )
