"""Ledgers written in one line each, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from infra.canonical import Json
from infra.chain import Chain
from tasks.promotion.ledger import EntryKind, LedgerEntry, body, parse
from tests.unit.infra.test_chain import MemoryStore

START = datetime(2026, 1, 1, tzinfo=UTC)

Line = tuple[EntryKind, str | None] | tuple[EntryKind, str | None, Mapping[str, Json]]


def history(*lines: Line) -> tuple[LedgerEntry, ...]:
    """Write entries an hour apart, the first at START, through a real chain."""
    store = MemoryStore()
    for hour, line in enumerate(lines):
        kind, version, details = line if len(line) == 3 else (*line, {})
        clock = lambda at=START + timedelta(hours=hour): at  # noqa: E731  # a clock in one line
        release = f"release-{version}" if version else None
        entry = body(
            kind, actor="test", reason="because", version=version, release=release, details=details
        )
        Chain(store, "ledger/m", clock).append(entry)
    return parse(Chain(store, "ledger/m").read())
