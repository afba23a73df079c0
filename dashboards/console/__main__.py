"""`python -m dashboards.console [--port N]`: the console alone, on 127.0.0.1.

It prints the link that opens it.
"""

import argparse
import signal
import sys
from contextlib import suppress

from flows.commands.up import console_address
from flows.orchestration.runtime import prefect_environment
from flows.orchestration.services import CONSOLE, started
from infra.errors import RequantError
from infra.processes.supervision import listening_socket
from infra.settings import use_workspace


def main() -> int:
    """Serve until stopped; 2 for wrong settings."""
    try:
        chosen = use_workspace(None)
        parser = argparse.ArgumentParser(prog="python -m dashboards.console", description=__doc__)
        parser.add_argument(
            "--port",
            type=int,
            default=chosen.console_port,
            help="port on 127.0.0.1 (0: a free one)",
        )
        opened = listening_socket(int(parser.parse_args().port), fixed=True)
        with started(chosen, {CONSOLE: opened}, environment=prefect_environment(chosen)) as (
            console,
        ):
            print(console_address(chosen, console.address), flush=True)
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with suppress(KeyboardInterrupt):
                console.process.wait()
    except RequantError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
