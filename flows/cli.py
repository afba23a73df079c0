"""The `requant` command. Exit codes: 0 done, 1 refused or a gate failed, 2 bad input or usage, 130 interrupted.

Nothing heavy is imported before a command runs: the workspace must be chosen before Prefect reads its settings.
"""

import json
import os
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flows import what_next
from flows.completion import model_names
from infra.errors import NotFound, RequantError
from infra.interruption import Interrupted, ignore_from_now_on, raise_when_asked
from infra.settings import settings, use_cluster, use_workspace

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; SIGTERM is answered alike, being the same wish."""


app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keeps quantized models right on today's traffic.",
)
model_app = typer.Typer(no_args_is_help=True, help="Register models and list them.")
traffic_app = typer.Typer(no_args_is_help=True, help="Bring live traffic in.")
app.add_typer(model_app, name="model")
app.add_typer(traffic_app, name="traffic")

Model = Annotated[
    str,
    typer.Argument(help="Name of a registered model, such as minilm.", autocompletion=model_names),
]
AnyModel = Annotated[
    str | None,
    typer.Argument(help="Name of a registered model; left out, all.", autocompletion=model_names),
]
OfModel = Annotated[str, typer.Option("--model", help="The model that served it.", autocompletion=model_names)]
Reason = Annotated[str, typer.Option(help="Why, in one sentence; written to the ledger.")]
Search = Literal["first", "full"]
TrafficFormat = Literal["requant-parquet", "jsonl", "kserve", "triton", "openai-chat", "mlflow-traces"]
Cluster = Annotated[
    str | None, typer.Option(help="Where work is spread: none, local, or a Dask scheduler's tcp://HOST:PORT.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]


def _print_version(asked: bool) -> None:
    if asked:
        print(f"requant {installed('requant')}")
        raise typer.Exit


@app.callback()
def choose_workspace(
    workspace: Annotated[
        Path | None, typer.Option(help="Folder that holds everything the embedded default stores [.requant].")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Point this run, and what it starts, at a workspace."""
    # A failure is told in one sentence; Prefect would print its traceback beside it. Its server
    # gets everything all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    use_workspace(workspace)


@app.command()
def demo(as_json: Json = False) -> None:
    """Run the whole loop on two real models, in seven scenes, in a workspace of its own."""
    from flows import demo, printing

    root = settings().root / "demo"
    use_workspace(root)
    with printing.progress(quiet=as_json) as say:
        story = demo.run(say)
    printing.emit(story, as_json, printing.story)
    if not as_json:
        printing.say(f"see it all: {what_next.command('--workspace', what_next.as_typed(root), 'up')}")
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
    if not as_json:
        printing.say(f"next: {what_next.command(*what_next.given_workspace(), 'model', 'add')} SPEC.yaml")


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
    if not as_json:
        printing.say(what_next.after_adding(added.name))


@model_app.command("list")
def model_list(as_json: Json = False) -> None:
    """All registered models."""
    from flows import printing, views

    printing.emit(views.all_models(), as_json, printing.models)


@traffic_app.command("import")
def traffic_import(
    path: Annotated[str, typer.Argument(help="A file, a folder of files, or mlflow:EXPERIMENT to read a server.")],
    model: OfModel,
    format: Annotated[TrafficFormat | None, typer.Option(help="What wrote it; left out, the extension tells.")] = None,
    first_at: Annotated[
        str | None, typer.Option(help="When the first record was taken, where the format knows no date.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Redact and store traffic; records that are wrong are set aside with the reason."""
    from flows import imports, printing

    with printing.progress(quiet=as_json) as show:
        show(f"reading {path}", 0.0)
        taken = imports.take_in(path, model, format, first_at)
    printing.emit(taken, as_json, printing.intake)


@traffic_app.command("pull")
def traffic_pull(model: Model, as_json: Json = False) -> None:
    """Read what is new in the sources that the model's spec names, as every scheduled run does first."""
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.intake import intake
        from flows.orchestration import call

        taken = call(intake, model)
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

    with printing.progress(quiet=as_json) as show:
        show(f"replaying {scenario}", 0.0)
        made = simulation.replay(model, scenario, days=days, rate=rate, seed=seed, until=until)
    printing.emit(made, as_json, printing.fields)


@traffic_app.command("forget")
def traffic_forget(
    model: OfModel,
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
        from flows.orchestration import call

        outcome = call(maintenance, model)
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
        from flows.orchestration import call
        from flows.requantize import requantize

        outcome = call(
            requantize,
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

    with printing.progress(quiet=as_json) as show:
        show(f"running {suite} on {model} and on full precision", 0.0)
        from flows.evaluate import evaluate

        found = evaluate(model, suite=suite, version=version, candidate=candidate, include=include_path, limit=limit)
    printing.emit(found, as_json, printing.evaluation)


@app.command()
def recipes(as_json: Json = False) -> None:
    """Every recipe, and which targets can express it."""
    from flows import printing, recipe_table

    printing.emit(recipe_table.recipes(), as_json, printing.recipes)


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
        from flows.orchestration import call
        from flows.rollback import rollback

        release = call(rollback, model, reason=reason, to=to)
    printing.emit(release, as_json, printing.fields)


@app.command()
def reconcile(
    model: AnyModel = None,
    as_json: Json = False,
) -> None:
    """Follow what operators did in MLflow when it is verified; undo and report it when it is not."""
    from flows import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.orchestration import call
        from flows.reconcile import reconcile

        found = call(reconcile, model)
    printing.emit(found, as_json, printing.reconciliations)


@app.command()
def status(
    model: AnyModel = None,
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
def link(
    person: Annotated[str | None, typer.Option("--for", help="Whose name orders carry; left out, yours.")] = None,
    as_json: Json = False,
) -> None:
    """Print a link that opens the running console for half a day, as you or as somebody whom you vouch for."""
    from flows import printing
    from flows.services import CONSOLE, running_address
    from flows.up import link

    console = running_address(settings(), CONSOLE)
    if console is None:
        raise NotFound(f"no console runs in {settings().root}: start `requant up` first")
    printing.emit({"console": link(settings(), console, person or settings().actor)}, as_json, printing.fields)


@app.command()
def deploy(
    pool: Annotated[str, typer.Option(help="The work pool; made if it is not there.")] = "requant",
    describe: Annotated[bool, typer.Option("--yaml", help="Print a prefect.yaml instead, and deploy nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Bring every deployment to a work pool of the configured Prefect server, for workers to run."""
    from flows import printing
    from flows.runtime import prefect_environment, using

    if describe:
        from flows.deploy import described

        print(described(pool), end="")
        return
    reached = prefect_environment(settings())
    if not reached:
        raise NotFound("no Prefect server to deploy to: set REQUANT_PREFECT_API_URL, or start `requant up`")
    with using(reached["PREFECT_API_URL"], reached.get("PREFECT_API_AUTH_STRING")):
        from flows.deploy import deploy

        printing.emit(deploy(reached["PREFECT_API_URL"], pool), as_json, printing.deployed)


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
        from flows.orchestration import call

        call(approval, model, version, approve, reason)
    word = "promoted" if approve else "rejected"
    printing.emit({"model": model, "version": version, "answer": word}, as_json, printing.fields)


def main() -> None:
    """Run the command; an error is one sentence on standard error, and its exit code."""
    try:
        raise_when_asked()
        app(prog_name="requant")
    except Interrupted as exc:
        ignore_from_now_on()
        where = f" {exc}" if str(exc) else ""
        print(f"requant: interrupted{where}; {what_next.how_to_go_on(sys.argv[1:])}", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except RequantError as exc:
        document: dict[str, Any] = {"error": str(exc), "kind": type(exc).__name__}
        if "--json" in sys.argv:
            print(json.dumps(document))
        print(f"requant: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


if __name__ == "__main__":
    main()
