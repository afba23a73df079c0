"""Commands about users: who may do what, and what they show for it."""

from typing import Annotated

import typer

from flows.cli.application import app
from flows.cli.options import Json

users_app = typer.Typer(no_args_is_help=True, help="Who may do what: users, roles, tokens.")
app.add_typer(users_app, name="users")
UserName = Annotated[str, typer.Argument(help="Name of a user, as ledgers will show it.")]


@users_app.command("add")
def users_add(
    name: UserName,
    role: Annotated[
        list[str],
        typer.Option(help="viewer, operator, approver or admin, with :MODEL behind it for one."),
    ],
    oidc: Annotated[
        str, typer.Option(help="How the OpenID Connect provider calls them: docs/access.md.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Add a user, or give a known one other roles.

    The first has to be an admin, and gets a token: from then on nobody acts without one.
    """
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit(users.add(name, role, oidc), as_json, printing.fields)


@users_app.command("list")
def users_list(as_json: Json = False) -> None:
    """List users with their roles and valid tokens."""
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit(users.listed(), as_json, printing.users)


@users_app.command("token")
def users_token(
    name: UserName,
    days: Annotated[int, typer.Option(min=1, max=366, help="How long it is valid.")] = 90,
    as_json: Json = False,
) -> None:
    """Make a token for a user, and print it once: only its hash is kept."""
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit(users.issue(name, days), as_json, printing.fields)


@users_app.command("recover")
def users_recover(name: UserName, as_json: Json = False) -> None:
    """Make a token of a day for a user, where every admin's is lost.

    Whoever holds the workspace's files can; the access log says that it was done.
    """
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit(users.recover(name), as_json, printing.fields)


@users_app.command("revoke")
def users_revoke(
    name: UserName,
    token: Annotated[
        str | None, typer.Option(help="Id of one token; left out, the user and all they hold.")
    ] = None,
    as_json: Json = False,
) -> None:
    """End a user, or one of their tokens, everywhere within two seconds."""
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit({"revoked": users.revoke(name, token)}, as_json, printing.fields)


@users_app.command("log")
def users_log(as_json: Json = False) -> None:
    """Print the access log: accounts, sign-ins, refusals; newest first."""
    from flows.cli import printing
    from flows.commands.access import users

    printing.emit(users.log(), as_json, printing.access_log)
