"""Commands that run a flow: what the schedule does, now and by hand."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.application import app
from flows.cli.options import AnyModel, Cluster, Json, Model, Reason, Search
from infra.errors import BadInput
from infra.settings import use_cluster


@app.command()
def maintain(model: Model, cluster: Cluster = None, as_json: Json = False) -> None:
    """Run one scheduled maintenance, now."""
    from flows.cli import printing

    use_cluster(cluster)
    with printing.orchestrated(model, quiet=as_json):
        from flows.maintenance import maintenance
        from flows.orchestration.orchestrated import call

        outcome = call(maintenance, model)
    printing.emit(outcome, as_json, printing.outcome)
    if outcome.refused:
        raise typer.Exit(1)


@app.command()
def requantize(
    model: Model,
    recipe: Annotated[
        str | None, typer.Option(help="One recipe; left out, the ladder is climbed.")
    ] = None,
    reason: Reason = "asked for by hand",
    require_approval: Annotated[
        bool, typer.Option(help="Let a passing candidate wait for a person.")
    ] = False,
    search: Annotated[
        Search,
        typer.Option(
            help="first: stop at the first candidate that passes; "
            "full: measure all, promote the cheapest."
        ),
    ] = "first",
    allow_scale_change: Annotated[
        bool,
        typer.Option(
            help="Let new scales differ from the champion's by more than the spec allows "
            "one window."
        ),
    ] = False,
    cluster: Cluster = None,
    as_json: Json = False,
) -> None:
    """Build, judge and promote a candidate for the newest traffic."""
    from flows.cli import printing

    use_cluster(cluster)
    with printing.orchestrated(model, quiet=as_json):
        from flows.orchestration.orchestrated import call
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
    version: Annotated[
        str | None, typer.Option(help="A registered version; left out, the champion.")
    ] = None,
    candidate: Annotated[
        str | None, typer.Option(help="Id of a candidate that was built, or its beginning.")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(help="Folder with lm-eval task files of your own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Cases of an lm-eval task, at most.")] = None,
    as_json: Json = False,
) -> None:
    """Run a suite on a version or candidate and on full precision, side by side.

    The figures are logged to MLflow; nothing is promoted.
    """
    from flows.cli import printing

    with printing.progress(quiet=as_json) as show, printing.details(show):
        show(f"running {suite} on {model} and on full precision", 0.0)
        from flows.evaluate import evaluate

        evaluated = evaluate(
            model,
            suite=suite,
            version=version,
            candidate=candidate,
            include=include_path,
            limit=limit,
        )
    printing.emit(evaluated, as_json, printing.evaluation)


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
    from flows.cli import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.orchestration.orchestrated import call
        from flows.rollback import rollback

        release = call(rollback, model, reason=reason, to=to)
    printing.emit(release, as_json, printing.fields)


@app.command()
def reconcile(
    model: AnyModel = None,
    as_json: Json = False,
) -> None:
    """Follow what operators did in MLflow when it is verified; else undo and report it."""
    from flows.cli import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.orchestration.orchestrated import call
        from flows.reconcile import reconcile

        reconciled = call(reconcile, model)
    printing.emit(reconciled, as_json, printing.reconciliations)
    if any(answer.failed for answer in reconciled.values()):
        raise typer.Exit(1)


@app.command()
def restore(
    model: AnyModel = None,
    as_json: Json = False,
) -> None:
    """Rebuild MLflow's versions and aliases from the ledger and the stored bundles."""
    from flows.cli import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.commands.restore import restore_registry

        restored = restore_registry(model)
    printing.emit(restored, as_json, printing.sentences)


def _answer(model: str, version: str, approve: bool, reason: str, as_json: bool) -> None:
    from flows.cli import printing

    with printing.orchestrated(model, quiet=as_json):
        from flows.approval import approval
        from flows.orchestration.orchestrated import call

        call(approval, model, version, approve, reason)
    word = "promoted" if approve else "rejected"
    printing.emit({"model": model, "version": version, "answer": word}, as_json, printing.fields)


@app.command("export")
def export_checkpoint(
    model: Model,
    output: Annotated[Path, typer.Option(help="The folder to write.")],
    source: Annotated[
        Path | None, typer.Option(help="The checkpoint it was made from; left out, the spec's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a language model's champion as a compressed-tensors checkpoint.

    transformers and vLLM load it.
    """
    from flows.cli import printing
    from flows.queries.checkpoint import export_checkpoint

    written = export_checkpoint(model, output, source)
    facts = {
        "folder": written.folder,
        "quantized layers": written.quantized,
        "formats": ", ".join(written.formats),
        "in floating point": ", ".join(written.kept) or "none",
    }
    printing.emit(facts, as_json, printing.fields)


@app.command()
def quantize(
    folder: Annotated[Path, typer.Argument(help="A language model's Hugging Face folder.")],
    output: Annotated[Path, typer.Option(help="The folder to write, or to go on with.")],
    recipe: Annotated[str, typer.Option(help="Such as int8-smooth, fp8, int4-gptq.")],
    texts: Annotated[
        Path | None, typer.Option(help="To calibrate on: a pool, or a table with `text`.")
    ] = None,
    judge: Annotated[
        Path | None, typer.Option(help="Other texts that both models read afterwards.")
    ] = None,
    at_most: Annotated[
        float | None,
        typer.Option(help="Perplexity of each group, times full precision's: else exit with 1."),
    ] = None,
    windows: Annotated[int, typer.Option(help="Of text to calibrate on, at most.")] = 64,
    tokens: Annotated[int, typer.Option(help="Of a window.")] = 512,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Linear layers that stay in floating point: a regular expression, or how many of "
            "their weights, such as 10%: those that lose most."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Where layers are computed: cpu, cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Quantize a language model's checkpoint layer by layer, in the memory of one layer.

    Writes a compressed-tensors checkpoint, which transformers and vLLM load. Ended, it goes on;
    whole, it is only judged.
    """
    from flows.cli import printing
    from flows.publishing.quantized import quantize_checkpoint, require_close

    if at_most is not None and judge is None:
        raise BadInput("--at-most needs texts to judge by: name them with --judge")
    with printing.progress(quiet=as_json) as say:
        made = quantize_checkpoint(
            folder,
            output,
            recipe,
            texts=texts,
            judge=judge,
            windows=windows,
            tokens=tokens,
            keep=keep,
            device=device,
            told=lambda layer, of: say(f"layer {layer} of {of}", (layer - 1) / of),
        )
    printing.emit(made, as_json, printing.derived_checkpoint)
    if at_most is not None:
        require_close(made, at_most)
