"""The `requant` command.

Exit codes: 0 done, 1 refused or a gate failed, 2 bad input or usage, 130 interrupted. Nothing heavy
is imported before a command runs: the workspace must be chosen before Prefect reads its settings.
"""

import json
import sys
from typing import Any

from flows.cli import what_next
from flows.cli.access import users
from flows.cli.access.permissions import guarded
from flows.cli.application import app
from infra.errors import RequantError
from infra.processes.interruption import Interrupted, ignore_from_now_on, raise_when_asked

# --help lists commands in the order in which they are made
from flows.cli import setting_up, acting, looking, auditing, serving  # isort: skip

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it; SIGTERM is answered alike, being the same wish."""


def main() -> None:
    """Run the command; an error is one sentence on standard error, and its exit code."""
    try:
        raise_when_asked()
        guarded(app)(prog_name="requant")
    except Interrupted as exc:
        ignore_from_now_on()
        where = f" {exc}" if str(exc) else ""
        print(
            f"requant: interrupted{where}; {what_next.how_to_go_on(sys.argv[1:])}", file=sys.stderr
        )
        sys.exit(INTERRUPTED)
    except RequantError as exc:
        document: dict[str, Any] = {"error": str(exc), "kind": type(exc).__name__}
        if "--json" in sys.argv:
            print(json.dumps(document))
        print(f"requant: {exc}", file=sys.stderr)
        sys.exit(exc.exit_code)


__all__ = ["acting", "app", "auditing", "looking", "main", "serving", "setting_up", "users"]
