"""The `requant` command. Exit codes: 0 done, 1 refused or a gate failed, 2 bad input or usage.

Nothing heavy is imported before a command runs: the workspace must be chosen before Prefect reads its settings.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from infra.errors import RequantError
from infra.settings import settings, use_cluster, use_workspace

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Keeps quantized models right on today's traffic.",
)
model_app = typer.Typer(no_args_is_help=True, help="Register models and list them.")
traffic_app = typer.Typer(no_args_is_help=True, help="Bring live traffic in.")
app.add_typer(model_app, name="model")
app.add_typer(traffic_app, name="traffic")

Model = Annotated[str, typer.Argument(help="Name of a registered model, such as minilm.")]
Reason = Annotated[str, typer.Option(help="Why, in one sentence; written to the ledger.")]
Search = Literal["first", "full"]
TrafficFormat = Literal["requant-parquet", "jsonl", "kserve", "triton", "openai-chat", "mlflow-traces"]
Cluster = Annotated[
    str | None, typer.Option(help="Where work is spread: none, local, or a Dask scheduler's tcp://HOST:PORT.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


@app.callback()
def choose_workspace(
    workspace: Annotated[
        Path | None, typer.Option(help="Folder that holds everything the embedded default stores [.requant].")
    ] = None,
) -> None:
    """Point this run, and what it starts, at a workspace."""
    # A failure is told in one sentence; Prefect would print its traceback beside it.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    use_workspace(workspace)


@app.command()
def demo(as_json: Json = False) -> None:
    """Run the whole loop on two real models, in seven scenes, in a workspace of its own."""
    from flows import demo, printing

    use_workspace(settings().root / "demo")
    with printing.progress(quiet=as_json) as say:
        story = demo.run(say)
    printing.emit(story, as_json, printing.story)
    if not story.as_described:
        raise typer.Exit(1)


@app.command()
def init(as_json: Json = False) -> None:
    """Make a workspace: folders and the key that signs releases."""
    from flows import printing

    chosen = settings()
    chosen.signer()
    chosen.registry().ping()
    places = {"workspace": str(chosen.root), "store": chosen.store_address, "mlflow": chosen.mlflow_uri}
    printing.emit(places, as_json, printing.fields)


@model_app.command("add")
def model_add(
    spec: Annotated[Path, typer.Argument(help="The model's YAML spec, such as examples/minilm/model.yaml.")],
    as_json: Json = False,
) -> None:
    """Check a spec, export its model to ONNX, and register both with their golden set."""
    from flows import printing
    from tasks.models.catalog import register

    with printing.progress(quiet=as_json) as say:
        say(f"exporting the model of {spec}", 0.0)
        added = register(spec)
    facts = {
        "model": added.name,
        "digest": added.digest,
        "sites": len(added.sites),
        "golden cases": len(added.golden.cases),
    }
    printing.emit(facts, as_json, printing.fields)


@model_app.command("list")
def model_list(as_json: Json = False) -> None:
    """All registered models."""
    from flows import printing, views

    printing.emit(views.all_models(), as_json, printing.models)


@traffic_app.command("import")
def traffic_import(
    path: Annotated[str, typer.Argument(help="A file, a folder of files, or mlflow:EXPERIMENT to read a server.")],
    model: Annotated[str, typer.Option(help="The model that served it.")],
    format: Annotated[TrafficFormat | None, typer.Option(help="What wrote it; left out, the extension tells.")] = None,
    first_at: Annotated[
        str | None, typer.Option(help="When the first record was taken, where the format knows no date.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Redact and store traffic; records that are wrong are set aside with the reason."""
    from flows import imports, printing

    taken = imports.take_in(path, model, format, first_at)
    printing.emit(taken, as_json, printing.intake)


@traffic_app.command("pull")
def traffic_pull(model: Model, as_json: Json = False) -> None:
    """Read what is new in the sources that the model's spec names, as every scheduled run does first."""
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.intake import intake

        taken = intake(model)
    printing.emit(taken, as_json, printing.pulled)
    if any(one.error for one in taken):
        raise typer.Exit(2)


@traffic_app.command("simulate")
def traffic_simulate(
    model: Model,
    scenario: Annotated[Path, typer.Option(help="A scenario file, such as examples/scenarios/new-language.yaml.")],
    days: Annotated[float | None, typer.Option(help="Length; left out, the scenario's.")] = None,
    rate: Annotated[float | None, typer.Option(help="Requests an hour; left out, the scenario's.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and --until give the same bytes.")] = 0,
    until: Annotated[str | None, typer.Option(help="When it ends [the last full hour].")] = None,
    as_json: Json = False,
) -> None:
    """Replay the model's shipped corpus as traffic, shifted as a scenario says."""
    from flows import printing, simulation

    made = simulation.replay(model, scenario, days=days, rate=rate, seed=seed, until=until)
    printing.emit(made, as_json, printing.fields)


@traffic_app.command("forget")
def traffic_forget(
    model: Annotated[str, typer.Option(help="The model that served it.")],
    tenant: Annotated[str | None, typer.Option(help="Forget everything of this tenant.")] = None,
    request: Annotated[str | None, typer.Option(help="Forget this one request, by its id.")] = None,
    reason: Annotated[str, typer.Option(help="Why; written to the ledger, so name nobody.")] = "asked for by its owner",
    as_json: Json = False,
) -> None:
    """Erase a tenant or a request from everything stored, and name every release that was calibrated with it."""
    from flows import forget, printing

    printing.emit(forget.forget(model, tenant=tenant, request=request, reason=reason), as_json, printing.forgotten)


@app.command()
def maintain(model: Model, cluster: Cluster = None, as_json: Json = False) -> None:
    """One scheduled maintenance run, now."""
    from flows import printing

    use_cluster(cluster)
    with printing.orchestrated(model, quiet=as_json):
        from flows.maintenance import maintenance

        outcome = maintenance(model, actor=settings().actor)
    printing.emit(outcome, as_json, printing.outcome)
    if outcome.refused:
        raise typer.Exit(1)


@app.command()
def requantize(
    model: Model,
    recipe: Annotated[str | None, typer.Option(help="One recipe; left out, the ladder is climbed.")] = None,
    reason: Reason = "asked for by hand",
    require_approval: Annotated[bool, typer.Option(help="Let a passing candidate wait for a person.")] = False,
    search: Annotated[
        Search, typer.Option(help="first: stop at the first rung that passes; full: measure all, promote the cheapest.")
    ] = "first",
    allow_scale_change: Annotated[
        bool, typer.Option(help="Let new scales differ from the champion's by more than the spec allows one window.")
    ] = False,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Build, judge and promote a candidate for the newest traffic."""
    from flows import printing

    use_cluster(cluster)
    with printing.orchestrated(model, quiet=as_json):
        from flows.requantize import requantize

        outcome = requantize(
            model,
            recipe=recipe,
            reason=reason,
            require_approval=require_approval,
            search=search,
            allow_scale_change=allow_scale_change,
        )
    printing.emit(outcome, as_json, printing.outcome)
    if outcome.refused:
        raise typer.Exit(1)


@app.command()
def evaluate(
    model: Model,
    suite: Annotated[
        str, typer.Option(help="golden, or lm-eval:TASK for a task of the evaluation harness.")
    ] = "golden",
    version: Annotated[str | None, typer.Option(help="A registered version; left out, the champion.")] = None,
    candidate: Annotated[str | None, typer.Option(help="Id of a candidate that was built, or its beginning.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="Folder with lm-eval task files of your own.")] = None,
    limit: Annotated[int | None, typer.Option(help="Cases of an lm-eval task, at most.")] = None,
    as_json: Json = False,
) -> None:
    """Run a suite on a version or candidate and on full precision, side by side; logged to MLflow, promotes nothing."""
    from flows import printing
    from flows.evaluate import evaluate

    found = evaluate(model, suite=suite, version=version, candidate=candidate, include=include_path, limit=limit)
    printing.emit(found, as_json, printing.evaluation)


@app.command()
def recipes(as_json: Json = False) -> None:
    """Every recipe, and which targets can express it."""
    from flows import printing, views

    printing.emit(views.recipes(), as_json, printing.recipes)


@app.command()
def approve(
    model: Model,
    candidate: Annotated[str, typer.Argument(help="Version that waits for approval.")],
    reason: Reason = "reviewed",
    as_json: Json = False,
) -> None:
    """Promote a candidate that waits."""
    _answer(model, candidate, True, reason, as_json)


@app.command()
def reject(
    model: Model,
    candidate: Annotated[str, typer.Argument(help="Version that waits for approval.")],
    reason: Reason = "reviewed",
    as_json: Json = False,
) -> None:
    """Turn a candidate down that waits."""
    _answer(model, candidate, False, reason, as_json)


@app.command()
def rollback(
    model: Model,
    reason: Annotated[str, typer.Option(help="Why, in one sentence; written to the ledger.")],
    to: Annotated[str | None, typer.Option(help="A version that was champion before.")] = None,
    as_json: Json = False,
) -> None:
    """Bring an earlier champion back, verified first."""
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.rollback import rollback

        release = rollback(model, reason=reason, to=to)
    printing.emit(release, as_json, printing.fields)


@app.command()
def reconcile(
    model: Annotated[str | None, typer.Argument(help="Name of a registered model; left out, all.")] = None,
    as_json: Json = False,
) -> None:
    """Follow what operators did in MLflow when it is verified; undo and report it when it is not."""
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.reconcile import reconcile

        found = reconcile(model)
    printing.emit(found, as_json, printing.reconciliations)


@app.command()
def status(
    model: Annotated[str | None, typer.Argument(help="Name of a registered model; left out, all.")] = None,
    as_json: Json = False,
) -> None:
    """Who serves, what was decided last, what waits."""
    from flows import printing, views

    printing.emit([views.one_model(model)] if model else views.all_models(), as_json, printing.models)


@app.command()
def history(model: Model, as_json: Json = False) -> None:
    """The model's ledger: who did what, when and why."""
    from flows import printing, views

    printing.emit(views.history(model), as_json, printing.history)


@app.command("lineage")
def show_lineage(
    model: Model,
    version: Annotated[str | None, typer.Option(help="Only what leads to and from this version.")] = None,
    digest: Annotated[
        str | None, typer.Option(help="Only what leads to and from this digest, or its first digits.")
    ] = None,
    export: Annotated[
        Literal["openlineage", "prov"] | None, typer.Option(help="OpenLineage events or PROV-JSON.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the export to this file.")] = None,
    as_json: Json = False,
) -> None:
    """From traffic to calibration set, scales, graph, engines and release, up and down from any digest."""
    from flows import lineage, printing

    found = lineage.of(model, version, digest)
    if export is None:
        printing.emit(found, as_json, printing.lineage)
    elif output is None:
        print(lineage.exported(found, export).decode(), end="")
    else:
        lineage.write(found, export, output)
        printing.emit({"written": str(output), "nodes": len(found.nodes)}, as_json, printing.fields)


@app.command()
def explain(
    model: Model,
    window: Annotated[str, typer.Option(help="Digest of a window, or how it begins; or latest.")] = "latest",
    as_json: Json = False,
) -> None:
    """Why the loop did or did not act on a window, with the figures of every lens and the evidence so far."""
    from flows import printing
    from flows.explain import explain as explained

    printing.emit(explained(model, window), as_json, printing.explanation)


@app.command()
def up(as_json: Json = False) -> None:
    """Start Prefect, MLflow, Evidently, the schedules and the console; Ctrl-C stops them all."""
    from flows import printing
    from flows.up import run

    run(settings(), lambda addresses: printing.emit(addresses, as_json, printing.addresses))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check versions, stores, registry, device and disk, and say how to mend each."""
    from flows import doctor, printing

    checks = doctor.examine(settings())
    printing.emit(checks, as_json, printing.checks)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(2)


def _answer(model: str, version: str, approve: bool, reason: str, as_json: bool) -> None:
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.approval import approval

        approval(model, version, approve, reason)
    word = "promoted" if approve else "rejected"
    printing.emit({"model": model, "version": version, "answer": word}, as_json, printing.fields)


def main() -> None:
    """Run the command; an error is one sentence on standard error, and its exit code."""
    try:
        app()
    except RequantError as exc:
        document: dict[str, Any] = {"error": str(exc), "kind": type(exc).__name__}
        if "--json" in sys.argv:
            print(json.dumps(document))
        print(f"requant: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
