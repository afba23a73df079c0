"""How the command line speaks: Rich on a terminal, plain lines in a pipe, or one JSON document."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flows.cli.progress_line import Say
from flows.cli.progress_line import progress as shown
from infra.settings import settings

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)


def emit(value: T, as_json: bool, render: Callable[[T], None]) -> None:
    """Print a value as JSON or by its renderer."""
    if as_json:
        print(TypeAdapter(Any).dump_json(value, indent=2).decode())
    else:
        render(value)


def say(sentence: str) -> None:
    """One line for a person; a long one is not broken, so that what it quotes can be copied."""
    console.print(escape(sentence))


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Say]:
    """One line that moves on a terminal, a line per step otherwise; nothing when quiet."""
    with shown(console, quiet=quiet) as show:
        yield show


@contextmanager
def orchestrated(model: str | None, *, quiet: bool) -> Iterator[None]:
    """The steps of every flow shown as they come, and reported to Prefect where a server is in use.

    An unknown model is refused first.
    """
    with progress(quiet=quiet) as show:
        show("starting", 0.0)
        from flows.orchestration.runtime import served
        from tasks.specs.registration import current_digest

        if model is not None:
            current_digest(model)
        with served(settings()):
            from flows.orchestration.progress import listening

            with listening(show):
                yield


def deployed(done: Any) -> None:
    """What a server has now, and the command that runs it."""
    console.print(f"{len(done.deployments)} deployments in the pool {done.pool} of {done.server}")
    for name in done.deployments:
        console.print(f"  {escape(name)}")
    console.print(
        f"next: {escape(done.worker)}   (on each worker's host, with the same REQUANT_ settings)"
    )


def addresses(listening: Any) -> None:
    """Where everything listens, once it does."""
    for line in listening.moved:
        console.print(line)
    console.print(f"{'console':<9} {listening.console}")
    for title, address in listening.services.items():
        console.print(f"{title:<9} {address}")
    console.print("the console's link opens the others too; Ctrl-C stops them all")


def fields(value: Any) -> None:
    """One line per field."""
    pairs = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    for name, item in pairs.items():
        console.print(f"[bold]{escape(name)}[/bold]  {escape(str(item))}")


def models(views: Sequence[Any]) -> None:
    """A table of models."""
    if not views:
        console.print("no models yet: add one with `requant model add SPEC.yaml`")
        return
    table = _table("model", "task", "champion", "last decision", "waiting", "schedule")
    for view in views:
        decision = view.last_decision.reason if view.last_decision else "none yet"
        waiting = ", ".join(entry.version for entry in view.waiting) or "-"
        champion = f"version {view.champion.version}" if view.champion else "none"
        table.add_row(
            *map(escape, (view.name, view.task, champion, decision, waiting, view.schedule))
        )
    console.print(table)


def recipes(views: Sequence[Any]) -> None:
    """A table of recipes against targets, and below it the rules behind every no."""
    targets = list(views[0].obstacles)
    table = _table("recipe", *targets, "what it does")
    for view in views:
        cells = ("no" if reason else "yes" for reason in view.obstacles.values())
        table.add_row(view.name, *cells, escape(view.summary))
    console.print(table)
    for reason in dict.fromkeys(
        reason for view in views for reason in view.obstacles.values() if reason
    ):
        console.print(f"no: {escape(reason)}")


def evaluation(found: Any) -> None:
    """Both sides of every figure over all cases; the groups are in the JSON document and in MLflow."""
    table = _table("metric", "cases", "full precision", "candidate", "difference")
    shown = [one for one in found.figures if one.group == "all"] or found.figures
    for one in shown:
        name = one.metric if one.group == "all" else f"{one.group} {one.metric}"
        sides = (f"{one.full_precision:.4f}", f"{one.candidate:.4f}", f"{one.difference:+.4f}")
        table.add_row(escape(name), "-" if one.count is None else str(one.count), *sides)
    console.print(f"{escape(found.suite)} on {found.subject} of {found.model}, {found.target}")
    console.print(table)
    console.print(f"MLflow run {found.run}")


def history(entries: Sequence[Any]) -> None:
    """A table of ledger entries, oldest first."""
    table = _table("#", "time", "what", "version", "by", "why")
    for entry in entries:
        when = entry.time.strftime("%Y-%m-%d %H:%M:%S")
        cells = (
            str(entry.number),
            when,
            entry.kind.value,
            entry.version or "-",
            entry.actor,
            entry.reason,
        )
        table.add_row(*map(escape, cells))
    console.print(table)


def explanation(found: Any) -> None:
    """One decision: what was done, why, on which evidence."""
    rows = "" if found.rows is None else f", {found.rows} requests"
    until = found.end or "an unknown time"
    console.print(f"[bold]{found.action}[/bold]  window {found.window[:16]} up to {until}{rows}")
    for line in found.reasons:
        console.print(f"  {escape(line)}")
    console.print(f"what changed  {escape(found.attribution)}")
    if found.held:
        console.print(f"held back     {escape(found.held)}")
    console.print(f"restraint     {escape(found.restraint)}")
    console.print(f"false alarms  {escape(found.false_alarms)}")
    table = _table(
        "detector", "of", "requests", "e-value since promotion", "e-detector", "needed", "alarm"
    )
    for one in found.evidence:
        cells = (
            one.detector,
            one.subject,
            str(one.requests),
            one.since_promotion,
            one.now,
            one.needed,
        )
        table.add_row(*map(escape, cells), "yes" if one.alarmed else "no")
    console.print(table)
    for name, digests in found.inputs.items():
        console.print(f"{name:<13} {escape(json.dumps(digests))}")


def intake(taken: Any) -> None:
    """What became of a traffic file."""
    known = f"{taken.duplicates} known already; " if taken.duplicates else ""
    console.print(
        f"{taken.accepted} requests stored in {taken.parts} files; {known}{taken.rejected} set "
        "aside"
    )
    for reason, count in taken.reasons.items():
        console.print(f"  {count} x {escape(reason)}")
    for key in taken.rejects:
        console.print(f"  they lie at {key}")


def pulled(sources: Sequence[Any]) -> None:
    """What became of the files of each source, and of the records in them."""
    for one in sources:
        console.print(f"[bold]{escape(one.source)}[/bold]  {escape(one.place)}")
        if one.error:
            console.print(f"  [red]failed[/red]: {escape(one.error)}")
        known = f"{one.duplicates} known already; " if one.duplicates else ""
        what = "traces" if one.place.startswith("mlflow:") else "files"
        console.print(
            f"  {one.files} {what} read: {one.accepted} requests stored; {known}{one.rejected} set "
            "aside"
        )
        for why, count in (*one.reasons.items(), *one.left.items()):
            console.print(f"  {count} x {escape(why)}")
        for problem in one.problems:
            console.print(f"  {escape(problem.name)}: {escape(problem.reason)}")
        for key in one.rejects:
            console.print(f"  they lie at {key}")


def forgotten(acts: Sequence[Any]) -> None:
    """What was removed, which releases had been calibrated with it, and what remains."""
    for act in acts:
        counts = (
            ", ".join(f"{count} from {room}" for room, count in act.removed.items())
            or "nothing was stored any more"
        )
        console.print(f"[bold]{act.kind} {act.pseudonym[:12]}[/bold]  {escape(counts)}")
        for line in act.remains:
            console.print(f"  {escape(line)}")


def lineage(graph: Any) -> None:
    """One line a thing, from traffic to versions, with what it was made from."""
    from tasks.lineage import ordered

    table = _table("what", "digest", "made from", "facts")
    for node in ordered(graph):
        sources = ", ".join(
            f"{kind} {digest[:12]}" for kind, digest in _named(graph.sources.get(node.name, ()))
        )
        facts = ", ".join(f"{key} {value}" for key, value in node.facts.items() if value)
        table.add_row(
            *map(escape, (node.kind, node.digest.rpartition("/")[2][:24], sources or "-", facts))
        )
    console.print(table)


def _named(names: Sequence[str]) -> list[tuple[str, str]]:
    return [
        (kind, digest.rpartition("/")[2])
        for kind, _, digest in (name.partition(":") for name in names)
    ]


def outcome(result: Any) -> None:
    """How a run ended, and why."""
    console.print(f"[bold]{result.status.value}[/bold]  {escape(result.reason)}")
    for line in result.decision.reasons[1:] if result.decision else ():
        console.print(f"  {escape(line)}")
    if result.candidates:
        console.print(_candidates(result.candidates))
    for remark in result.candidates[-1].remarks if result.candidates else ():
        console.print(f"note  {escape(remark)}")
    for note in result.notes:
        console.print(f"note  {escape(note)}")
    if result.report:
        console.print(f"report  {settings().store_address}/{result.report}")


def _candidates(candidates: Sequence[Any]) -> Table:
    table = _table("candidate", "verdicts", "why")
    for candidate in candidates:
        verdicts = ", ".join(
            f"{report.target} {report.verdict.value}" for report in candidate.reports
        )
        table.add_row(candidate.recipe, verdicts, escape(candidate.reason))
    return table


def reconciliations(found: Mapping[str, Any]) -> None:
    """One line per model."""
    for name, one in found.items():
        console.print(f"{name}  [bold]{one.outcome.value}[/bold]  {escape(one.reason)}")


def checks(found: Sequence[Any]) -> None:
    """One line per check, with how to mend it."""
    marks = {
        "fine": "[green]fine[/green]",
        "absent": "[yellow]absent[/yellow]",
        "broken": "[red]broken[/red]",
    }
    for check in found:
        console.print(f"{marks[check.state]:>6}  [bold]{check.what}[/bold]  {escape(check.found)}")
        if check.mend:
            console.print(f"        {escape(check.mend)}")


def story(told: Any) -> None:
    """The demo's scenes and its summary."""
    for scene in told.scenes:
        mark = (
            "[green]as described[/green]" if scene.as_described else "[red]NOT as described[/red]"
        )
        console.print(
            f"\n[bold]{scene.number}. {scene.title}[/bold]  {mark}  ({scene.seconds:.0f} s)"
        )
        for line in scene.lines:
            console.print(f"   {escape(line)}")
    table = _table(
        "model",
        "new traffic",
        "metric",
        "champion before",
        "champion after",
        "flips",
        "latency",
        "size",
    )
    for row in told.summary:
        cells = (row.model, row.traffic, row.metric, f"{row.before:.4f}", f"{row.after:.4f}")
        table.add_row(
            *cells,
            f"{row.flips_before} -> {row.flips_after}",
            f"{row.latency:.2f} x",
            f"{row.size:.2f} x",
        )
    console.print("\n", table)
    console.print("latency and size are ratios to full precision on ONNX Runtime, CPU")
    for path in told.reports:
        console.print(f"report  {path}")
    verdict = "[green]every scene came out as described[/green]"
    if not told.as_described:
        verdict = "[red]the demo failed: a scene came out otherwise[/red]"
    console.print(f"\n{verdict} in {told.seconds:.0f} s")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
