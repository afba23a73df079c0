"""Commands of whoever answers for what serves: evidence, keys, retention."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.application import app
from flows.cli.options import AnyModel, Json, Model
from infra.settings import settings

audit_app = typer.Typer(no_args_is_help=True, help="Verify ledger, signatures and bundles.")
keys_app = typer.Typer(no_args_is_help=True, help="The keys that sign, and those that count.")
app.add_typer(audit_app, name="audit")
app.add_typer(keys_app, name="keys")


@audit_app.command("verify")
def audit_verify(model: AnyModel = None, as_json: Json = False) -> None:
    """Verify chain, signatures, anchors and bundles anew; one line a fault, and exit code 1."""
    from flows.cli import printing
    from flows.commands.audit import verify

    faults = verify(model)
    printing.emit(faults, as_json, printing.faults)
    if faults:
        raise typer.Exit(1)


@app.command("gc")
def collect(
    model: AnyModel = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Earlier champions to keep [REQUANT_ROLLBACK_DEPTH].")
    ] = None,
    days: Annotated[
        int | None, typer.Option(min=0, help="Keep what is younger [REQUANT_KEEP_DAYS].")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove old bundles and what a run makes again; say what was freed and what is kept why."""
    from flows.cli import printing
    from flows.commands.collection import collect_garbage

    done = collect_garbage(model, depth, days, dry_run=dry_run)
    printing.emit(done, as_json, printing.collected)


@app.command("hold")
def hold(
    model: Model,
    version: Annotated[str, typer.Argument(help="A version that the ledger knows.")],
    reason: Annotated[str, typer.Option(help="Why; written to the ledger.")],
    lift: Annotated[bool, typer.Option(help="End the hold instead.")] = False,
    as_json: Json = False,
) -> None:
    """Place a version under legal hold: `gc` never removes its bundle."""
    from flows.cli import printing
    from flows.commands import collection

    told = collection.hold(model, version, reason, lift=lift)
    printing.emit({model: told}, as_json, printing.fields)


@keys_app.command("show")
def keys_show(as_json: Json = False) -> None:
    """Show where the signing key is, and whose signatures count."""
    from flows.cli import printing
    from flows.commands import keys

    printing.emit(keys.shown(settings()), as_json, printing.fields)


@keys_app.command("export")
def keys_export(
    key_id: Annotated[
        str | None, typer.Argument(help="Id of a trusted key; left out, the one that signs.")
    ] = None,
) -> None:
    """Print a public key in PEM: for hosts that only serve, and for other tools."""
    from flows.commands import keys

    print(keys.exported(settings(), key_id).decode(), end="")


@keys_app.command("rotate")
def keys_rotate(as_json: Json = False) -> None:
    """Make a new signing key; what the one before signed stays valid until it is retired."""
    from flows.cli import printing
    from flows.commands import keys

    printing.emit(keys.rotated(settings()), as_json, printing.fields)


@keys_app.command("trust")
def keys_trust(
    path: Annotated[Path, typer.Argument(help="A public key in PEM, as `keys export` prints it.")],
    as_json: Json = False,
) -> None:
    """Let a public key's signatures count, beside those that count already."""
    from flows.cli import printing
    from flows.commands import keys

    printing.emit(keys.trusted(settings(), path), as_json, printing.fields)


@keys_app.command("retire")
def keys_retire(
    key_id: Annotated[str, typer.Argument(help="Id of a key that no longer signs.")],
    as_json: Json = False,
) -> None:
    """Let a key's signatures count no longer: what only it signed no longer loads."""
    from flows.cli import printing
    from flows.commands import keys

    printing.emit(keys.retired(settings(), key_id), as_json, printing.fields)
