"""Commands that only read: they start nothing, and import no more than they show."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.cli.application import app, model_app
from flows.cli.options import AnyModel, Json, Model


@model_app.command("list")
def model_list(as_json: Json = False) -> None:
    """List all registered models."""
    from flows.cli import printing
    from flows.queries import views

    printing.emit(views.all_models(), as_json, printing.models)


@app.command()
def status(
    model: AnyModel = None,
    as_json: Json = False,
) -> None:
    """Show who serves, what was decided last and what waits."""
    from flows.cli import printing
    from flows.queries import views

    printing.emit(
        [views.one_model(model)] if model else views.all_models(), as_json, printing.models
    )


@app.command()
def history(
    model: Model,
    at: Annotated[
        str | None, typer.Option(help="Only what served then: 2026-03-01T12:00:00+00:00.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the model's ledger: who did what, when and why; or what served at a moment."""
    from flows.cli import printing
    from flows.queries import views

    if at is None:
        printing.emit(views.history(model), as_json, printing.history)
        return
    from flows.queries.served import served

    printing.emit(served(model, at), as_json, printing.served)


@app.command()
def explain(
    model: Model,
    window: Annotated[
        str, typer.Option(help="Digest of a window, or how it begins; or latest.")
    ] = "latest",
    as_json: Json = False,
) -> None:
    """Show why the loop did or did not act on a window, with figures and evidence."""
    from flows.cli import printing
    from flows.queries.explain import explain as explained

    printing.emit(explained(model, window), as_json, printing.explanation)


@app.command("lineage")
def show_lineage(
    model: Model,
    version: Annotated[
        str | None, typer.Option(help="Only what leads to and from this version.")
    ] = None,
    digest: Annotated[
        str | None,
        typer.Option(help="Only what leads to and from this digest, or its first digits."),
    ] = None,
    export: Annotated[
        Literal["openlineage", "prov"] | None, typer.Option(help="OpenLineage events or PROV-JSON.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the export to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Show the lineage from traffic to release, up and down from any digest.

    Between them are calibration set, scales, graph and engines.
    """
    from flows.cli import printing
    from flows.queries import lineage

    graph = lineage.of(model, version, digest)
    if export is None:
        printing.emit(graph, as_json, printing.lineage)
    elif output is None:
        print(lineage.exported(graph, export).decode(), end="")
    else:
        lineage.write(graph, export, output)
        printing.emit({"written": str(output), "nodes": len(graph.nodes)}, as_json, printing.fields)


@app.command()
def recipes(as_json: Json = False) -> None:
    """List every recipe, and which targets can express it."""
    from flows.cli import printing
    from flows.queries import recipe_table

    printing.emit(recipe_table.recipes(), as_json, printing.recipes)
