"""Commands about what runs beside: the services, who may reach them, and whether all is well."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.application import app, publish_app
from flows.cli.options import Json, Model, Reason
from infra.errors import BadInput, NotFound
from infra.settings import settings


@app.command()
def up(as_json: Json = False) -> None:
    """Start Prefect, MLflow, Evidently, the gateway, the schedules and the console.

    Ctrl-C stops them all.
    """
    from flows.cli import printing
    from flows.commands.up import run

    run(settings(), lambda addresses: printing.emit(addresses, as_json, printing.addresses))


@app.command()
def serve(
    models: Annotated[
        list[str] | None, typer.Argument(help="Registered models; left out, all.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes behind the one port.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve champions over the Open Inference Protocol, and follow the ledger; Ctrl-C stops it.

    Programs show the key that `requant key` prints.
    """
    from flows.cli import printing
    from flows.gateway.command import serve

    serve(
        settings(),
        models or (),
        lambda serving: printing.emit(serving, as_json, printing.fields),
        workers,
    )


@app.command()
def routing(model: Model, as_json: Json = False) -> None:
    """Show quality against cost when the champion's unsure answers go to full precision.

    Beside it: as many routed at random, and by somebody who knew which gain.
    """
    from flows.cli import printing
    from flows.queries.routing import routing_curve

    printing.emit(routing_curve(model), as_json, printing.routing)


@app.command()
def deliver(
    model: Model,
    version: Annotated[
        str | None, typer.Argument(help="One that waits for approval, or was champion.")
    ] = None,
    stop: Annotated[bool, typer.Option(help="Stop the delivery that goes on.")] = False,
    reason: Reason = "asked for by hand",
    as_json: Json = False,
) -> None:
    """Let a version take traffic over: shadow, canary, full, as the gateway judges it.

    `requant status` shows how far it has come.
    """
    from flows.cli import printing

    if (version is None) is not stop:
        raise BadInput("give the version that is to be delivered, or --stop")
    with printing.orchestrated(model, quiet=as_json):
        from flows.gateway.steering import ordering

        if version is None:
            view = ordering.stop(model, reason)
        else:
            view = ordering.deliver(model, version, reason)
    printing.emit(view, as_json, printing.fields)


@publish_app.command("triton")
def publish_triton(
    model: Model,
    to: Annotated[str, typer.Option(help="The model repository: a folder, or s3://bucket/prefix.")],
    server: Annotated[
        str | None,
        typer.Option(help="A Triton in explicit mode on it, which is tried before it switches."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the champion into a Triton model repository, as a new version directory."""
    from flows.cli import printing
    from flows.publishing.triton import publish_triton

    printing.emit(publish_triton(model, to, server), as_json, printing.fields)


@publish_app.command("kserve")
def publish_kserve(
    model: Model,
    to: Annotated[str, typer.Option(help="Where repositories lie: a folder, or s3://...")],
    storage: Annotated[
        str | None, typer.Option(help="The same place as the cluster reaches it, such as pvc://...")
    ] = None,
    canary: Annotated[
        int | None, typer.Option(help="Percent of traffic of the new version; left out, all.")
    ] = None,
    standard: Annotated[
        bool, typer.Option("--standard", help="For KServe's Standard mode, 0.20 or later.")
    ] = False,
    namespace: Annotated[str | None, typer.Option(help="Of the cluster.")] = None,
) -> None:
    """Write a repository of the champion, and print a KServe InferenceService in YAML."""
    from flows.publishing.manifest import publish_kserve

    manifest = publish_kserve(
        model,
        to,
        storage=storage,
        canary_percent=canary,
        standard=standard,
        namespace=namespace,
    )
    print(manifest, end="")


@publish_app.command("vllm")
def publish_vllm(
    model: Model,
    to: Annotated[str, typer.Option(help="A folder, or s3://...; MODEL/VERSION is made below.")],
    source: Annotated[
        Path | None, typer.Option(help="The checkpoint it was made from; left out, the spec's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a language model's champion as a checkpoint folder that vLLM loads."""
    from flows.cli import printing
    from flows.publishing.checkpoints import publish_vllm

    printing.emit(publish_vllm(model, to, source), as_json, printing.fields)


@publish_app.command("device")
def publish_device(
    model: Model,
    to: Annotated[Path, typer.Option(help="The folder to write.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the engine there.")] = 1,
    as_json: Json = False,
) -> None:
    """Write the champion as a folder that runs with NumPy and ONNX Runtime alone."""
    from flows.cli import printing
    from flows.publishing.device import publish_device

    printing.emit(publish_device(model, to, threads), as_json, printing.fields)


@app.command()
def link(
    person: Annotated[
        str | None, typer.Option("--for", help="Whose name orders carry; left out, yours.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a link that opens the running console for half a day.

    It is for you, or for somebody whom you vouch for.
    """
    from flows.cli import printing
    from flows.commands.up import link
    from flows.orchestration.identity import process_actor
    from flows.orchestration.services import CONSOLE, running_address
    from infra.access.directory import RESERVED

    if person is not None and (not person.strip() or person in RESERVED):
        raise BadInput(
            f"--for is {person!r}: give the name of a person ({', '.join(RESERVED)} act by "
            "themselves)"
        )
    console = running_address(settings(), CONSOLE)
    if console is None:
        raise NotFound(f"no console runs in {settings().root}: start `requant up` first")
    whose = process_actor()
    if settings().directory().in_use and person not in (None, whose):
        raise BadInput(
            "this store has users: they sign in by their own tokens (`requant users token NAME`)"
        )
    printing.emit({"console": link(settings(), console, person or whose)}, as_json, printing.fields)


@app.command()
def key(as_json: Json = False) -> None:
    """Print what programs show, such as Prometheus: the key to all that runs in this workspace."""
    print(json.dumps({"key": settings().secret().key}) if as_json else settings().secret().key)


@app.command()
def deploy(
    pool: Annotated[str, typer.Option(help="The work pool; made if it is not there.")] = "requant",
    describe: Annotated[
        bool, typer.Option("--yaml", help="Print a prefect.yaml instead, and deploy nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring every deployment to a work pool of the configured Prefect server."""
    from flows.cli import printing
    from flows.orchestration.runtime import prefect_environment, using

    if describe:
        from flows.commands.deploy import described

        print(described(pool), end="")
        return
    reached = prefect_environment(settings())
    if not reached:
        raise NotFound(
            "no Prefect server to deploy to: set REQUANT_PREFECT_API_URL, or start `requant up`"
        )
    with using(reached["PREFECT_API_URL"], reached.get("PREFECT_API_AUTH_STRING")):
        from flows.commands.deploy import deploy

        printing.emit(deploy(reached["PREFECT_API_URL"], pool), as_json, printing.deployed)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check versions, stores, registry, device and disk, and say how to mend each."""
    from flows.cli import printing
    from flows.commands import doctor

    checks = doctor.examine(settings())
    printing.emit(checks, as_json, printing.checks)
    if any(check.state == "broken" for check in checks):
        raise typer.Exit(2)
