"""Commands that make a workspace and bring models and traffic in."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.cli import what_next
from flows.cli.application import app, golden_app, model_app, pool_app, traffic_app
from flows.cli.options import Json, Model, OfModel, TrafficFormat
from infra.addresses import without_password
from infra.errors import BadInput
from infra.settings import settings, use_workspace

if TYPE_CHECKING:
    from tasks.models.folders.build import LabelledFile


@app.command()
def demo(
    scene: Annotated[
        Literal["all", "language-model"],
        typer.Option(help="The seven scenes, or SmolLM2 under other text: up to ten minutes."),
    ] = "all",
    as_json: Json = False,
) -> None:
    """Run the whole loop on real models, in scenes, in a workspace of its own."""
    from flows import demo
    from flows.cli import printing

    root = settings().root / "demo"
    use_workspace(root)
    with printing.progress(quiet=as_json) as say:
        story = demo.run(say, scene)
    printing.emit(story, as_json, printing.story)
    if not as_json:
        printing.say(
            f"see it all: {what_next.command('--workspace', what_next.as_typed(root), 'up')}"
        )
    if not story.as_described:
        raise typer.Exit(1)


@app.command()
def init(as_json: Json = False) -> None:
    """Make a workspace: folders and the key that signs releases."""
    from flows.cli import printing

    chosen = settings()
    chosen.signer()
    chosen.registry().ping()
    places = {
        "workspace": str(chosen.root),
        "store": chosen.store_address,
        "mlflow": without_password(chosen.mlflow_uri),
    }
    printing.emit(places, as_json, printing.fields)
    if not as_json:
        printing.say(
            f"next: {what_next.command(*what_next.given_workspace(), 'model', 'add')} SPEC.yaml"
        )


@model_app.command("add")
def model_add(
    spec: Annotated[
        Path, typer.Argument(help="The model's YAML spec, such as examples/minilm/model.yaml.")
    ],
    as_json: Json = False,
) -> None:
    """Check a spec, export its model to ONNX, and register both with their golden set.

    With the target compressed-tensors the checkpoint stays one, and is never exported.
    """
    from flows.cli import printing
    from flows.queries.added_model import describe
    from tasks.models.catalog import register

    with printing.progress(quiet=as_json) as say, printing.details(say):
        say(f"taking in the model of {spec}", 0.0)
        registered = register(spec)
        added = describe(registered, say)
    if as_json:
        printing.emit({**added.facts, **added.more}, as_json, printing.fields)
    else:
        printing.fields(added.facts)
        for sentence in added.sentences:
            printing.say(sentence)
        printing.say(what_next.after_adding(registered.name))


Folder = Annotated[Path, typer.Argument(help="Where the files lie that the table names.")]
Labels = Annotated[
    Path,
    typer.Option(help="CSV, TSV or JSON Lines: file or text, and id, domain, language, label."),
]


@golden_app.command("build")
def golden_build(
    folder: Annotated[
        Path | None, typer.Argument(help="Where the files lie that the table names.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV, TSV or JSON Lines: file or text, and what is known of it."),
    ] = None,
    from_traffic: Annotated[
        str | None, typer.Option(help="A model: add requests of its newest window to its cases.")
    ] = None,
    cases: Annotated[
        int, typer.Option(min=1, help="From traffic: how many a domain and language should have.")
    ] = 20,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("golden.parquet"),
    as_json: Json = False,
) -> None:
    """Write a golden set: from a folder and its labels, or proposed from live traffic."""
    if from_traffic is not None and folder is None and labels is None:
        _propose(from_traffic, cases, output, as_json=as_json)
    elif from_traffic is None and folder is not None and labels is not None:
        from tasks.models.folders.build import golden_of

        _build(golden_of, folder, labels, output, as_json=as_json)
    else:
        raise BadInput(
            "a golden set is built of FOLDER and --labels, or of --from-traffic MODEL: give one"
        )


def _propose(model: str, cases: int, output: Path, *, as_json: bool) -> None:
    from flows.cli import printing
    from flows.commands.proposals import propose_cases
    from tasks.models.folders.build import write_whole

    with printing.progress(quiet=as_json) as say:
        say(f"choosing among the newest requests of {model}", 0.0)
        proposal = propose_cases(model, cases)
    write_whole(output, proposal.file)
    added = {f"new in {domain}, {language}": n for (domain, language), n in proposal.added.items()}
    facts = {"file": str(output), "cases": len(proposal.cases), **added}
    printing.emit(facts, as_json, printing.fields)
    if not as_json:
        printing.say(
            "look the new cases through, name the file as golden.cases in the spec, and run "
            "`requant model add` again"
        )


@pool_app.command("build")
def pool_build(
    folder: Folder,
    labels: Labels,
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("pool.parquet"),
    as_json: Json = False,
) -> None:
    """Write a calibration pool from a folder of images, sounds, tensors or texts."""
    from tasks.models.folders.build import pool_of

    _build(pool_of, folder, labels, output, as_json=as_json)


def _build(
    write: Callable[[Sequence["LabelledFile"]], bytes],
    folder: Path,
    labels: Path,
    output: Path,
    *,
    as_json: bool,
) -> None:
    from flows.cli import printing
    from tasks.models.folders.build import read_folder, write_whole

    read = read_folder(folder, labels)
    write_whole(output, write(read.files))
    facts = {
        "file": str(output),
        "cases": len(read.files),
        "labelled": read.labelled,
        "domains": ", ".join(sorted({item.domain for item in read.files})),
        "files without a row": read.unnamed,
    }
    printing.emit(facts, as_json, printing.fields)


@traffic_app.command("import")
def traffic_import(
    path: Annotated[
        str,
        typer.Argument(help="A file, a folder of files, or mlflow:EXPERIMENT to read a server."),
    ],
    model: OfModel,
    format: Annotated[
        TrafficFormat | None, typer.Option(help="What wrote it; left out, the extension tells.")
    ] = None,
    first_at: Annotated[
        str | None,
        typer.Option(help="When the first record was taken, where the format knows no date."),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(help="Where the clock stood whose times name no zone: Europe/Berlin."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Redact and store traffic; set aside records that are wrong, with the reason."""
    from flows.cli import printing
    from flows.commands import imports

    with printing.progress(quiet=as_json) as show:
        show(f"reading {path}", 0.0)
        counts = imports.take_in(path, model, format, first_at, timezone)
    printing.emit(counts, as_json, printing.intake)


@traffic_app.command("pull")
def traffic_pull(model: Model, as_json: Json = False) -> None:
    """Read what is new in the spec's sources, as every scheduled run does first."""
    from flows.cli import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.intake import intake
        from flows.orchestration.orchestrated import call

        sources = call(intake, model)
    printing.emit(sources, as_json, printing.pulled)
    if any(source.error for source in sources):
        raise typer.Exit(2)


@traffic_app.command("simulate")
def traffic_simulate(
    model: Model,
    scenario: Annotated[
        Path, typer.Option(help="A scenario file, such as examples/scenarios/new-language.yaml.")
    ],
    days: Annotated[float | None, typer.Option(help="Length; left out, the scenario's.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Requests an hour; left out, the scenario's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed and --until give the same bytes.")] = 0,
    until: Annotated[str | None, typer.Option(help="When it ends [the last full hour].")] = None,
    as_json: Json = False,
) -> None:
    """Replay the model's shipped corpus as traffic, shifted as a scenario says."""
    from flows.cli import printing
    from flows.commands import simulation

    with printing.progress(quiet=as_json) as show:
        show(f"replaying {scenario}", 0.0)
        simulated = simulation.replay(model, scenario, days=days, rate=rate, seed=seed, until=until)
    printing.emit(simulated, as_json, printing.fields)


@traffic_app.command("rekey")
def traffic_rekey(
    drop: Annotated[
        bool, typer.Option(help="Drop older keys: what they named can be found no more.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make pseudonyms by a new key from now on; those that are stored stay as they are."""
    from flows.cli import printing

    older = settings().pseudonym_keys().replace(drop=drop)
    printing.emit({"older keys that are kept": older}, as_json, printing.fields)


@traffic_app.command("forget")
def traffic_forget(
    model: OfModel,
    tenant: Annotated[str | None, typer.Option(help="Forget everything of this tenant.")] = None,
    request: Annotated[str | None, typer.Option(help="Forget this one request, by its id.")] = None,
    reason: Annotated[
        str, typer.Option(help="Why; written to the ledger, so name nobody.")
    ] = "asked for by its owner",
    as_json: Json = False,
) -> None:
    """Erase a tenant or a request from everything stored, and name the releases it calibrated."""
    from flows.cli import printing
    from flows.commands import forget

    printing.emit(
        forget.forget(model, tenant=tenant, request=request, reason=reason),
        as_json,
        printing.forgotten,
    )
