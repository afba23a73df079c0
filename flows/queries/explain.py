"""Why the loop did or did not act on a window: what the ledger and the evidence say. Reads only."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from infra.canonical import Json, sha256
from infra.errors import BadInput, NotFound
from infra.settings import settings
from tasks.drift.evidence import Alarms, needed, parse_evidence
from tasks.drift.formatting import power_of_ten
from tasks.drift.restraint import state
from tasks.drift.rules import alarms, restraint
from tasks.promotion import journal
from tasks.promotion.decisions import past_decisions
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.specs.registration import current_spec


@dataclass(frozen=True, slots=True)
class StreamView:
    """The evidence about one group or feature after the window."""

    detector: str
    subject: str
    requests: int  # since the champion came
    since_promotion: str  # e-value of the whole time
    now: str  # e-detector, which a change after a long good time reaches too
    needed: str
    alarmed: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """One decision with everything that it rests on."""

    model: str
    window: str
    end: str
    rows: int | None  # requests of its sample; None in entries of earlier versions
    number: int  # of the ledger entry
    action: str
    attribution: str
    held: str
    reasons: tuple[str, ...]
    restraint: str  # cooldown and budget before the decision
    false_alarms: str
    evidence: tuple[StreamView, ...]
    inputs: Mapping[str, Json]  # digests of what it rests on


def explain(model: str, window: str = "latest") -> Explanation:
    """Return the decision about a window (its digest, or how it begins), or the newest.

    Raises:
        NotFound: for an unknown model or window.
        BadInput: when several fit or the evidence changed.
    """
    spec, entries = current_spec(model), journal.read(model)
    entry = _find(model, entries, window)
    details = entry.details
    past = past_decisions(entries, before=entry.number)
    end = str(details.get("end") or "")
    budget = spec.drift.false_alarms
    return Explanation(
        model=model,
        window=str(details["window"]),
        end=end,
        rows=rows if isinstance(rows := details.get("rows"), int) else None,
        number=entry.number,
        action=str(details.get("action")),
        attribution=str(details.get("attribution") or "not recorded"),
        held=str(details.get("held") or ""),
        reasons=tuple(str(reason) for reason in _list(details.get("reasons"))),
        restraint=state(past, restraint(spec), datetime.fromisoformat(end) if end else None).text,
        false_alarms=f"one in {budget} windows or fewer, "
        "of range, fidelity, safety and control together",
        evidence=tuple(
            view
            for detector, document in _mapping(details.get("evidence")).items()
            for view in _streams(detector, _mapping(document), alarms(spec, detector))
        ),
        inputs={
            name: details.get(name) for name in ("champion", "source", "references", "evidence")
        },
    )


def _find(model: str, entries: tuple[LedgerEntry, ...], window: str) -> LedgerEntry:
    decided = [entry for entry in entries if entry.kind is EntryKind.DECIDED]
    if not decided:
        raise NotFound(f"no window of {model} was decided yet: run `requant maintain {model}`")
    if window == "latest":
        return decided[-1]
    decisions = [
        entry for entry in decided if window and str(entry.details.get("window")).startswith(window)
    ]
    if not decisions:
        raise NotFound(
            f"no decision of {model} is about a window {window!r}: see `requant history {model}`"
        )
    windows = {entry.details.get("window") for entry in decisions}
    if len(windows) > 1:
        raise BadInput(
            f"{len(windows)} windows of {model} begin with {window!r}: give more of the digest"
        )
    return decisions[-1]  # the newest: other weights are decided about anew


def _streams(detector: str, document: Mapping[str, Json], rules: Alarms) -> list[StreamView]:
    key = str(document["key"])
    data = settings().store().get(key)
    if sha256(data) != document["digest"]:
        raise BadInput(f"{key} differs from what the decision rested on: restore it from a backup")
    evidence = parse_evidence(data, where=key)
    enough = power_of_ten(needed(evidence, rules))
    return [
        StreamView(
            detector,
            name,
            stream.count,
            power_of_ten(stream.e_value),
            power_of_ten(stream.statistic),
            enough,
            stream.alarmed,
        )
        for name, stream in evidence.streams.items()
    ]


def _mapping(value: Json) -> Mapping[str, Json]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Json) -> list[Json]:
    return list(value) if isinstance(value, list | tuple) else []
