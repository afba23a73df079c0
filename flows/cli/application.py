"""The `requant` application: its groups of commands, and the workspace that they are pointed at."""

import os
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated

import typer

from infra.settings import use_workspace

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Keeps quantized models right on today's traffic.",
)
model_app = typer.Typer(no_args_is_help=True, help="Register models and list them.")
traffic_app = typer.Typer(no_args_is_help=True, help="Bring live traffic in.")
golden_app = typer.Typer(no_args_is_help=True, help="Make golden sets of your own files.")
pool_app = typer.Typer(no_args_is_help=True, help="Make calibration pools of your own files.")
publish_app = typer.Typer(no_args_is_help=True, help="Bring champions to other servers.")
app.add_typer(model_app, name="model")
app.add_typer(golden_app, name="golden")
app.add_typer(pool_app, name="pool")
app.add_typer(traffic_app, name="traffic")
app.add_typer(publish_app, name="publish")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"requant {installed('requant')}")
        raise typer.Exit


@app.callback()
def choose_workspace(
    workspace: Annotated[
        Path | None,
        typer.Option(help="Folder that holds everything the embedded default stores [.requant]."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Point this run, and what it starts, at a workspace."""
    # A failure is told in one sentence; Prefect would print its traceback beside it. Its server
    # gets everything all the same.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    use_workspace(workspace)
