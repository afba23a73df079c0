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

from flows.cli import progress_line
from flows.cli.progress_line import Say
from infra.processes.telling import heard_by
from infra.settings import settings

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 200)


def emit(value: T, as_json: bool, render: Callable[[T], None]) -> None:
    """Print a value as JSON or by its renderer."""
    if as_json:
        print(TypeAdapter(Any).dump_json(value, indent=2).decode())
    else:
        render(value)


def say(sentence: str) -> None:
    """Print one line for a person, unbroken even if long, so that what it quotes can be copied."""
    console.print(escape(sentence))


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Say]:
    """Show one line that moves on a terminal, a line per step otherwise; nothing when quiet."""
    with progress_line.progress(console, quiet=quiet) as show:
        yield show


@contextmanager
def details(show: Say) -> Iterator[None]:
    """Show what a long step inside the block is at, such as a decoder layer, every ten seconds."""
    with heard_by(lambda sentence: show(sentence, 0.0)):
        yield


@contextmanager
def orchestrated(model: str | None, *, quiet: bool) -> Iterator[None]:
    """Show the steps of every flow as they come, and report them to Prefect where one is in use.

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
    """Print what a server has now, and the command that runs it."""
    console.print(f"{len(done.deployments)} deployments in the pool {done.pool} of {done.server}")
    for name in done.deployments:
        console.print(f"  {escape(name)}")
    console.print(
        f"next: {escape(done.worker)}   (on each worker's host, with the same REQUANT_ settings)"
    )


def addresses(listening: Any) -> None:
    """Print where everything listens, once it does."""
    for line in listening.moved:
        console.print(line)
    console.print(f"{'console':<9} {listening.console}")
    for title, address in listening.services.items():
        console.print(f"{title:<9} {address}")
    console.print("the console's link opens the others too; Ctrl-C stops them all")


def fields(value: Any) -> None:
    """Print one line per field."""
    pairs = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    for name, item in pairs.items():
        console.print(f"[bold]{escape(name)}[/bold]  {escape(str(item))}")


def models(views: Sequence[Any]) -> None:
    """Print a table of models."""
    if not views:
        console.print("no models yet: add one with `requant model add SPEC.yaml`")
        return
    table = new_table("model", "task", "champion", "last decision", "waiting", "schedule")
    for view in views:
        decision = view.last_decision.reason if view.last_decision else "none yet"
        waiting = ", ".join(entry.version for entry in view.waiting) or "-"
        champion = f"version {view.champion.version}" if view.champion else "none"
        table.add_row(
            *map(escape, (view.name, view.task, champion, decision, waiting, view.schedule))
        )
    console.print(table)
    for view in views:
        if view.serving:
            console.print(f"{escape(view.name)}: {escape(view.serving)}")
        if view.problem:
            console.print(f"{escape(view.name)} cannot be read: {escape(view.problem)}")


def recipes(views: Sequence[Any]) -> None:
    """Print a table of recipes against targets, and below it the rules behind every no."""
    targets = list(views[0].obstacles)
    table = new_table("recipe", *targets, "what it does")
    for view in views:
        cells = ("no" if reason else "yes" for reason in view.obstacles.values())
        table.add_row(view.name, *cells, escape(view.summary))
    console.print(table)
    for reason in dict.fromkeys(
        reason for view in views for reason in view.obstacles.values() if reason
    ):
        console.print(f"no: {escape(reason)}")


def evaluation(evaluated: Any) -> None:
    """Print both sides of every figure over all cases.

    The groups are in the JSON document and in MLflow.
    """
    table = new_table("metric", "cases", "full precision", "candidate", "difference")
    figures = [row for row in evaluated.figures if row.group == "all"] or evaluated.figures
    for row in figures:
        name = row.metric if row.group == "all" else f"{row.group} {row.metric}"
        sides = (f"{row.full_precision:.4f}", f"{row.candidate:.4f}", f"{row.difference:+.4f}")
        table.add_row(escape(name), "-" if row.count is None else str(row.count), *sides)
    console.print(
        f"{escape(evaluated.suite)} on {evaluated.subject} of {evaluated.model}, {evaluated.target}"
    )
    console.print(table)
    console.print(f"MLflow run {evaluated.run}")


def history(entries: Sequence[Any]) -> None:
    """Print a table of ledger entries, oldest first."""
    table = new_table("#", "time", "what", "version", "by", "why")
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


def served(view: Any) -> None:
    """Print what served at a moment, who approved it, and on which evidence."""
    until = view.until or "now"
    console.print(f"[bold]version {view.version}[/bold] of {view.model} served at {view.at}")
    console.print(f"release  {view.release}")
    console.print(f"from     {view.since} until {until}")
    named = {"made so": view.promotion, "approved": view.approval, "decided": view.decision}
    for what, entry in named.items():
        if entry is not None:
            text = f"entry {entry.number}, {entry.kind.value} by {entry.actor}: {entry.reason}"
            console.print(f"{what:<8} {escape(text)}")
    for name, value in view.evidence.items():
        console.print(f"[bold]{name}[/bold]  {escape(json.dumps(value))}")


def faults(wrong: Sequence[Any]) -> None:
    """Print one line a fault, or that there is none."""
    for fault in wrong:
        say(f"{fault.model}  {fault.what}")
    if not wrong:
        say("no fault: chains, signatures, anchors and bundles are as they should be")


def users(views: Sequence[Any]) -> None:
    """Print a line a user, with the ids of their tokens, or that there is none."""
    for view in views:
        tokens = ", ".join(f"{name} until {end[:10]}" for name, end in view.tokens.items())
        say(f"{view.name}  {view.roles}  tokens: {tokens or 'none'}")
    if not views:
        say("no users: whoever holds the workspace does everything, under the name that they give")


def access_log(entries: Sequence[Any]) -> None:
    """Print a line an entry."""
    for entry in entries:
        told = f"{entry.number}  {entry.time[:19]}  {entry.kind}  {entry.user}"
        say(f"{told}  by {entry.actor or 'nobody known'}: {entry.details}")


def collected(done: Any) -> None:
    """Print what was freed by model and of shared weights, and what stays why."""
    for item in done.models:
        word = "would free" if item.dry_run else "freed"
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(item.objects.items()))
        say(f"{item.model}  {word} {item.bytes / 1e6:.2f} MB: {counts or 'nothing'}")
        for release in item.releases:
            say(f"  bundle {release[:12]} {'would go' if item.dry_run else 'went'}")
        for release, why in item.kept.items():
            say(f"  bundle {release[:12]} stays: {why}")
    weights = done.weights
    if weights.at_work:
        say(f"weights  kept: a run may be at work on {', '.join(weights.at_work)}")
    elif weights.files or weights.kept:
        word = "would free" if weights.dry_run else "freed"
        files = f"{weights.files} files that no graph names, {weights.kept} stay"
        more = ", and what the bundles above alone name" if weights.dry_run else ""
        say(f"weights  {word} {weights.bytes / 1e6:.2f} MB: {files}{more}")


def explanation(decision: Any) -> None:
    """Print one decision: what was done, why, on which evidence."""
    rows = "" if decision.rows is None else f", {decision.rows} requests"
    until = decision.end or "an unknown time"
    console.print(
        f"[bold]{decision.action}[/bold]  window {decision.window[:16]} up to {until}{rows}"
    )
    for line in decision.reasons:
        console.print(f"  {escape(line)}")
    console.print(f"what changed  {escape(decision.attribution)}")
    if decision.held:
        console.print(f"held back     {escape(decision.held)}")
    console.print(f"restraint     {escape(decision.restraint)}")
    console.print(f"false alarms  {escape(decision.false_alarms)}")
    table = new_table(
        "detector", "of", "requests", "e-value since promotion", "e-detector", "needed", "alarm"
    )
    for stream in decision.evidence:
        cells = (
            stream.detector,
            stream.subject,
            str(stream.requests),
            stream.since_promotion,
            stream.now,
            stream.needed,
        )
        table.add_row(*map(escape, cells), "yes" if stream.alarmed else "no")
    console.print(table)
    for name, digests in decision.inputs.items():
        console.print(f"{name:<13} {escape(json.dumps(digests))}")


def intake(counts: Any) -> None:
    """Print what became of a traffic file."""
    duplicates = f"{counts.duplicates} known already; " if counts.duplicates else ""
    console.print(
        f"{counts.accepted} requests stored in {counts.parts} files; "
        f"{duplicates}{counts.rejected} set aside"
    )
    for reason, count in counts.reasons.items():
        console.print(f"  {count} x {escape(reason)}")
    for key in counts.rejects:
        console.print(f"  they lie at {key}")


def pulled(sources: Sequence[Any]) -> None:
    """Print what became of the files of each source, and of the records in them."""
    for source in sources:
        console.print(f"[bold]{escape(source.source)}[/bold]  {escape(source.place)}")
        if source.error:
            console.print(f"  [red]failed[/red]: {escape(source.error)}")
        duplicates = f"{source.duplicates} known already; " if source.duplicates else ""
        kind = "traces" if source.place.startswith("mlflow:") else "files"
        console.print(
            f"  {source.files} {kind} read: {source.accepted} requests stored; "
            f"{duplicates}{source.rejected} set aside"
        )
        for why, count in (*source.reasons.items(), *source.left.items()):
            console.print(f"  {count} x {escape(why)}")
        for problem in source.problems:
            console.print(f"  {escape(problem.name)}: {escape(problem.reason)}")
        for key in source.rejects:
            console.print(f"  they lie at {key}")


def forgotten(acts: Sequence[Any]) -> None:
    """Print what was removed, which releases had been calibrated with it, and what remains."""
    for act in acts:
        counts = (
            ", ".join(f"{count} from {kind}" for kind, count in act.removed.items())
            or "nothing was stored any more"
        )
        console.print(f"[bold]{act.kind} {act.pseudonym[:12]}[/bold]  {escape(counts)}")
        for line in act.remains:
            console.print(f"  {escape(line)}")


def lineage(graph: Any) -> None:
    """Print one line a thing, from traffic to versions, with what it was made from."""
    from tasks.lineage import ordered

    table = new_table("what", "digest", "made from", "facts")
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
    """Print how a run ended, and why."""
    console.print(f"[bold]{result.status.value}[/bold]  {escape(result.reason)}")
    for line in result.decision.reasons[1:] if result.decision else ():
        console.print(f"  {escape(line)}")
    if result.candidates:
        console.print(_candidates(result.candidates))
    for report in result.candidates[-1].reports if result.candidates else ():
        if report.layer_precision is not None:
            console.print(f"{report.target}  {escape(report.layer_precision.reason)}")
        if report.generation_speed is not None:
            console.print(f"{report.target}  {report.generation_speed}")
    for diagnostic in result.candidates[-1].diagnostics if result.candidates else ():
        console.print(f"note  {escape(diagnostic)}")
    for note in result.notes:
        console.print(f"note  {escape(note)}")
    if result.report:
        console.print(f"report  {settings().store_address}/{result.report}")


def _candidates(candidates: Sequence[Any]) -> Table:
    table = new_table("candidate", "verdicts", "runs as asked", "why")
    for candidate in candidates:
        verdicts = ", ".join(
            f"{report.target} {report.verdict.value}" for report in candidate.reports
        )
        ran = ", ".join(f"{report.target} {_ran(report)}" for report in candidate.reports)
        table.add_row(candidate.recipe, verdicts, ran, escape(candidate.reason))
    return table


def _ran(report: Any) -> str:
    """Say which fraction of the work runs in the format that was asked for."""
    gate = report.layer_precision
    if gate is None:
        return "–"
    return "unknown" if gate.estimate is None else f"{gate.estimate.value:.1%}"


def reconciliations(outcomes: Mapping[str, Any]) -> None:
    """Print one line per model."""
    for name, result in outcomes.items():
        console.print(f"{name}  [bold]{result.outcome.value}[/bold]  {escape(result.told)}")


def sentences(by_model: Mapping[str, Sequence[str]]) -> None:
    """Print what was done, a line each."""
    for name, said in by_model.items():
        for sentence in said:
            console.print(f"{name}  {escape(sentence)}")


def checks(results: Sequence[Any]) -> None:
    """Print one line per check, with how to mend it."""
    marks = {
        "fine": "[green]fine[/green]",
        "absent": "[yellow]absent[/yellow]",
        "broken": "[red]broken[/red]",
    }
    for check in results:
        console.print(f"{marks[check.state]:>6}  [bold]{check.what}[/bold]  {escape(check.found)}")
        if check.mend:
            console.print(f"        {escape(check.mend)}")


def story(demo: Any) -> None:
    """Print the demo's scenes and its summary."""
    for scene in demo.scenes:
        mark = (
            "[green]as described[/green]" if scene.as_described else "[red]NOT as described[/red]"
        )
        console.print(
            f"\n[bold]{scene.number}. {scene.title}[/bold]  {mark}  ({scene.seconds:.0f} s)"
        )
        for line in scene.lines:
            console.print(f"   {escape(line)}")
    table = new_table(
        "model",
        "new traffic",
        "metric",
        "champion before",
        "champion after",
        "flips",
        "latency",
        "size",
    )
    for row in demo.summary:
        cells = (row.model, row.traffic, row.metric, f"{row.before:.4f}", f"{row.after:.4f}")
        table.add_row(
            *cells,
            f"{row.flips_before} -> {row.flips_after}",
            f"{row.latency:.2f} x",
            f"{row.size:.2f} x",
        )
    console.print("\n", table)
    console.print("latency and size are ratios to full precision on ONNX Runtime, CPU")
    for path in demo.reports:
        console.print(f"report  {path}")
    verdict = "[green]every scene came out as described[/green]"
    if not demo.as_described:
        verdict = "[red]the demo failed: a scene came out otherwise[/red]"
    console.print(f"\n{verdict} in {demo.seconds:.0f} s")


def routing(shown: Any) -> None:
    """Print quality against cost."""
    say(
        f"{shown.model}, version {shown.version}: {shown.quality} of {shown.cases} golden cases, "
        f"by {shown.measure}; each threshold is judged on cases that it was not chosen on"
    )
    table = new_table(
        "budget", "routed", "quality", "at random", "learned", "at best", "won back", "cost"
    )
    for point in shown.points:
        won = "" if point.won_back is None else f"{point.won_back:.0%}"
        table.add_row(
            f"{point.budget:.0%}",
            f"{point.routed:.1%}",
            f"{point.quality:.4f}",
            f"{point.random:.4f}",
            "" if point.learned is None else f"{point.learned:.4f}",
            f"{point.best:.4f}",
            won,
            f"{point.cost:.2f}",
        )
    console.print(table)


def derived_checkpoint(made: Any) -> None:
    """Print what a checkpoint became, and what it costs in each group of texts."""
    fields(
        {
            "folder": made.folder,
            "recipe": made.recipe,
            "quantized": f"{made.quantized} linear layers of {made.layers} decoder layers",
            "in floating point": ", ".join(made.kept) or "none",
            "size": f"{made.size_ratio:.3f} of the checkpoint's",
            "bits a weight": f"{made.bits:.2f} where quantized, scales counted",
            "seconds": f"{made.seconds:.0f}"
            + (f", from layer {made.resumed_at + 1} on" if made.resumed_at else ""),
        }
    )
    if made.raised:
        fields({"in INT8": ", ".join(made.raised)})
    if made.cached:
        fields({"cached in FP8": f"keys and values of {made.cached} attentions"})
    if made.unsmoothed:
        fields({"not smoothed": ", ".join(made.unsmoothed)})
    if made.scarce:
        fields({"experts few tokens reach": ", ".join(made.scarce)})
    if not made.judged:
        console.print("not judged: name other texts with --judge")
        return
    table = new_table("group", "windows", "perplexity", "ratio", "same next token")
    for item in made.judged:
        figures = (f"{item.perplexity:.2f}", f"{item.perplexity_ratio:.3f}")
        table.add_row(escape(item.group), str(item.windows), *figures, f"{item.agreement:.3f}")
    console.print(table)


def new_table(*columns: str) -> Table:
    """Return an empty table of the form that all commands have."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
