"""What the windows since the champion came have shown so far, as one versioned document a detector.

A window counts once, by its digest, and of overlapping windows only requests newer than everything
counted before: a request that was counted twice would look like two.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import log

from infra.canonical import Json, canonical
from infra.errors import BadInput
from tasks.drift.statistics.multiplicity import e_bh, threshold
from tasks.drift.statistics.streams import FLOOR, Increment, Stream, advanced
from tasks.records import Request

VERSION = 1
ACTING = 4
"""Detectors that act and share the false-alarm budget: range, fidelity, safety and control."""


@dataclass(frozen=True, slots=True)
class Alarms:
    """When evidence is enough, and when it has gone again."""

    windows: float = (
        1000.0  # between two false alarms, at least, on average while nothing has changed
    )
    recover: float = (
        0.5  # an alarm ends when its e-detector has fallen to this fraction of what set it off
    )
    minimum: int = 20  # requests that a stream needs to be judged


@dataclass(frozen=True, slots=True)
class Evidence:
    """The streams of one detector and one champion."""

    streams: Mapping[str, Stream] = field(default_factory=dict)  # "language=ja", "length", ...
    windows: tuple[str, ...] = ()  # digests of the windows counted, in order
    until: datetime | None = None  # newest request counted

    @property
    def alarmed(self) -> frozenset[str]:
        """Streams that are called out."""
        return frozenset(name for name, stream in self.streams.items() if stream.alarmed)


def is_fresh(evidence: Evidence, window: str, requests: Sequence[Request]) -> list[bool]:
    """Return which requests of a window are still to be counted: none when the window was."""
    if window in evidence.windows:
        return [False] * len(requests)
    return [evidence.until is None or request.time > evidence.until for request in requests]


def with_window(
    before: Evidence,
    window: str,
    until: datetime | None,
    increments: Mapping[str, Increment],
    rules: Alarms,
) -> Evidence:
    """Return the evidence after one more window; the same window again changes nothing."""
    if window in before.windows:
        return before
    streams = dict(before.streams)
    for name, step in increments.items():
        streams[name] = advanced(streams.get(name), step)
    newest = max((time for time in (before.until, until) if time is not None), default=None)
    return Evidence(_judged(streams, rules), (*before.windows, window), newest)


def _judged(streams: Mapping[str, Stream], rules: Alarms) -> dict[str, Stream]:
    """Apply e-BH to all streams; one that was called out stays so until it clearly recovered."""
    statistics = {
        name: stream.statistic if stream.count >= rules.minimum else FLOOR
        for name, stream in streams.items()
    }
    picked = e_bh(statistics, rules.windows)
    stays = threshold(rules.windows, len(streams)) + log(rules.recover)
    return {
        name: replace(
            stream, alarmed=name in picked or (stream.alarmed and statistics[name] >= stays)
        )
        for name, stream in streams.items()
    }


def needed(evidence: Evidence, rules: Alarms) -> float:
    """Return the log of the e-value that one stream needs when no other helps it."""
    return threshold(rules.windows, len(evidence.streams))


def dump_evidence(evidence: Evidence) -> bytes:
    """Return the JSON document."""
    document: dict[str, Json] = {
        "version": VERSION,
        "windows": list(evidence.windows),
        "until": evidence.until.isoformat() if evidence.until else None,
        "streams": {
            name: {
                "basis": stream.basis,
                "product": list(stream.product),
                "detector": list(stream.e_detector),
                "count": stream.count,
                "total": stream.total,
                "alarmed": stream.alarmed,
            }
            for name, stream in evidence.streams.items()
        },
    }
    return canonical(document)


def parse_evidence(data: bytes, *, where: str) -> Evidence:
    """Read the document; raises `BadInput` when it is damaged or of another version."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise BadInput(
                f"{where} is evidence of version {document['version']}, "
                f"and {VERSION} is read here: "
                "upgrade Requant, or delete it to gather evidence anew"
            )
        streams = {
            str(name): Stream(
                str(row["basis"]),
                tuple(float(value) for value in row["product"]),
                tuple(float(value) for value in row["detector"]),
                int(row["count"]),
                float(row["total"]),
                bool(row["alarmed"]),
            )
            for name, row in document["streams"].items()
        }
        until = datetime.fromisoformat(document["until"]) if document["until"] else None
        return Evidence(streams, tuple(document["windows"]), until)
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise BadInput(
            f"{where} holds no evidence ({exc!r}): delete it to gather evidence anew"
        ) from exc
