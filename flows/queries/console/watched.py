"""One run as its page shows it: how it ended, what it tried, what it wrote, where to look on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from flows.outcomes import Status
from flows.queries.console.entries import EntryView, view_of
from flows.queries.console.ledgers import ledgers
from flows.queries.runs import RunView
from infra.errors import NotFound, RequantError
from infra.settings import settings
from infra.stores import layout
from tasks.drift.report.keys import EVIDENTLY, project_id, snapshot_id
from tasks.promotion.ledger import EntryKind, LedgerEntry
from tasks.specs.registration import current_digest

_TRYING = re.compile(r"trying (\S+): (.*)")
_PASSED_BY = re.compile(r"passing (\S+) by: (.*)")
_RECIPE = re.compile(r"version \S+ \((\S+)\)")
_ACTS = frozenset(
    {EntryKind.PROMOTED, EntryKind.ROLLED_BACK, EntryKind.APPROVED, EntryKind.REJECTED}
)
_ENDED_WELL = (Status.KEPT, Status.PROMOTED, Status.ALREADY_DONE)
ELSEWHERE = (
    "The Prefect server in use does not have this run: it ran without a server or on another one. "
    "Its steps and log are not known here; the ledger tells the rest."
)


@dataclass(frozen=True, slots=True)
class TriedRecipe:
    """One recipe that a run went through."""

    recipe: str
    summary: str
    state: str  # trying, passed, "did not pass", "passed by"


@dataclass(frozen=True, slots=True)
class WatchedRun:
    """One run with everything that is known of it."""

    run: RunView
    word: str  # promoted, refused, ... as the run itself said; Prefect's state while it said none
    sentence: str  # the end and its reason, or what it is doing
    ended_well: bool  # False also while it lasts
    tried: tuple[TriedRecipe, ...]
    entries: tuple[EntryView, ...]  # of the ledger, written by it, newest first
    versions: tuple[str, ...]  # that these entries are about
    why: tuple[str, ...]  # why it acted: its order's reason, and those of the decision
    # Where Evidently shows the window that was decided, below its address; "" for none.
    snapshot: str = ""


def watched(run: RunView) -> WatchedRun:
    """Return what a run's page shows."""
    written = _written(run)
    sentence = _sentence(run, written)
    word = sentence.partition(":")[0]
    is_word = run.finished and run.state == "Completed" and word in set(Status)
    return WatchedRun(
        run=run,
        word=word if is_word else run.state,
        sentence=sentence,
        ended_well=run.finished
        and run.state == "Completed"
        and (not is_word or Status(word) in _ENDED_WELL),
        tried=_tried(run, sentence),
        entries=tuple(view_of(run.model or "", entry) for entry in reversed(written)),
        versions=tuple(dict.fromkeys(entry.version for entry in written if entry.version)),
        why=_why(run, written),
        snapshot=_snapshot(run.model or "", written) if run.finished else "",
    )


def told_by_ledger(run_id: str, model: str) -> RunView:
    """Return a run that the Prefect server in use does not have, as a model's ledger tells it.

    Raises:
        NotFound: There is no such model, or nothing in its ledger is by the run.
        Tampered: The ledger cannot be believed.
    """
    current_digest(model)
    written = [entry for entry in ledgers.entries(model) if entry.details.get("run") == run_id]
    if not written:
        raise NotFound(f"neither Prefect nor the ledger of {model} has a run {run_id}")
    end = next((entry for entry in written if entry.kind is EntryKind.FINISHED), None)
    failed = end is not None and bool(end.details.get("failed"))
    return RunView(
        run_id=run_id,
        name=f"run {run_id[:8]}",
        model=model,
        state="Unknown" if end is None else "Failed" if failed else "Completed",
        message="the ledger has no end of it" if end is None else end.reason,
        started=written[0].time.isoformat(),
        finished=True,
        fraction=1.0,
        doing="",
        ended=written[-1].time.isoformat(),
        runs=(run_id,),
        problem=ELSEWHERE,
    )


def labelled(run: RunView, ends: Mapping[str, str]) -> WatchedRun:
    """Return a run of a list, by what it wrote to its ledger at its end."""
    asked = f"because: {run.reason}" if run.reason else ""
    sentence = ends.get(run.run_id) or run.message or asked
    word = sentence.partition(":")[0]
    is_word = run.finished and run.state == "Completed" and word in set(Status)
    ended = run.finished and run.state == "Completed"
    well = ended and (not is_word or Status(word) in _ENDED_WELL)
    return WatchedRun(run, word if is_word else run.state, sentence, well, (), (), (), ())


def _sentence(run: RunView, written: Sequence[LedgerEntry]) -> str:
    """Return how it ended, or what it is doing."""
    if run.finished:
        ended = (
            entry.reason
            for entry in reversed(written)
            if entry.kind is EntryKind.FINISHED and entry.details.get("run") in run.runs
        )
        failed = run.message if run.state != "Completed" else ""
        return failed or run.message or next(ended, "") or _act(written) or run.doing or "done"
    if run.doing:
        return run.doing
    if run.state == "Late":
        return "nobody has picked it up yet: see whether `requant up` runs"
    return "at work" if run.started else "waits to be picked up"


def _act(written: Sequence[LedgerEntry]) -> str:
    """Return what a run did that tries no candidate: an answer, a rollback; "" for nothing."""
    acts = (entry for entry in reversed(written) if entry.kind in _ACTS)
    return next((f"{act.kind}: version {act.version}, {act.reason}" for act in acts), "")


def _written(run: RunView) -> list[LedgerEntry]:
    """Return the entries that say that this run wrote them, or were written while it ran."""
    if not run.model or not run.started:
        return []
    try:
        current_digest(run.model)
        entries = ledgers.entries(run.model)
    except RequantError:
        return []
    until = run.ended or "9999"
    return [
        entry
        for entry in entries
        if entry.details.get("run") in run.runs
        or (run.started <= entry.time.isoformat() <= until and "run" not in entry.details)
    ]


def _tried(run: RunView, sentence: str) -> tuple[TriedRecipe, ...]:
    """Return the recipes that the log tells of, in order."""
    tried: list[TriedRecipe] = []
    for line in run.lines:
        if found := _TRYING.match(line.text):
            if tried and tried[-1].state == "trying":
                tried[-1] = replace(tried[-1], state="did not pass")
            tried.append(TriedRecipe(found[1], found[2], "trying"))
        elif found := _PASSED_BY.match(line.text):
            tried.append(TriedRecipe(found[1], found[2], "passed by"))
    if not run.finished:
        return tuple(tried)
    chosen = _RECIPE.search(sentence)
    passed = sentence.startswith((Status.PROMOTED, Status.AWAITING_APPROVAL))
    return tuple(
        replace(item, state=_at_the_end(item, passed and chosen is not None, chosen))
        for item in tried
    )


def _at_the_end(item: TriedRecipe, passed: bool, chosen: "re.Match[str] | None") -> str:
    if item.state == "passed by":
        return item.state
    if passed and chosen is not None and item.recipe == chosen[1]:
        return "passed"
    return "did not pass"


def _snapshot(model: str, written: Sequence[LedgerEntry]) -> str:
    """Return the path of the decided window's snapshot in Evidently, where a report was written."""
    decided = (entry for entry in reversed(written) if entry.kind is EntryKind.DECIDED)
    window = next((str(entry.details.get("window") or "") for entry in decided), "")
    if not window:
        return ""
    try:
        if not settings().store().exists(layout.report(model, window, EVIDENTLY)):
            return ""
    except RequantError:  # the store does not answer
        return ""
    return f"/projects/{project_id(model)}/reports/{snapshot_id(model, window)}"


def _why(run: RunView, written: Sequence[LedgerEntry]) -> tuple[str, ...]:
    decided = [entry for entry in written if entry.kind is EntryKind.DECIDED]
    reasons = decided[-1].details.get("reasons") if decided else None
    told = [str(reason) for reason in reasons] if isinstance(reasons, list | tuple) else []
    return tuple(dict.fromkeys(filter(None, (run.reason, *told))))
