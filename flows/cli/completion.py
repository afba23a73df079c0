"""What the shell completes beyond commands and options."""

import typer

from infra.errors import RequantError
from infra.settings import use_workspace


def model_names(context: typer.Context, incomplete: str) -> list[str]:
    """Return, for the shell, the models of the workspace at hand that begin so.

    It is nothing where the workspace cannot be read.
    """
    from tasks.specs import registration

    try:
        names = registration.model_names(
            use_workspace(context.find_root().params.get("workspace")).store()
        )
    except RequantError:
        return []
    return [name for name in names if name.startswith(incomplete)]
