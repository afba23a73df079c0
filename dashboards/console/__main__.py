"""`python -m dashboards.console [--port N]`: serve the console on 127.0.0.1 and print its address with the token."""

import argparse
import os
import secrets
import sys
from urllib.parse import quote

import uvicorn

from infra.errors import BadInput, RequantError
from infra.settings import Settings, use_workspace

TOKEN = "REQUANT_CONSOLE_TOKEN"  # noqa: S105  # the variable's name


def main() -> int:
    """Serve until stopped; 2 for wrong settings."""
    try:
        chosen = use_workspace(None)
        port = _port(chosen.console_port)
        token = os.environ.get(TOKEN) or secrets.token_urlsafe(24)
        _serve(chosen, port, token)
    except RequantError as exc:
        print(exc, file=sys.stderr)
        return exc.exit_code
    return 0


def _port(default: int) -> int:
    parser = argparse.ArgumentParser(prog="python -m dashboards.console", description=__doc__)
    parser.add_argument("--port", type=int, default=default, help=f"port on 127.0.0.1 (default {default})")
    port = int(parser.parse_args().port)
    if not 0 < port < 65536:
        raise BadInput(f"--port is {port}: give a number from 1 to 65535")
    return port


def _serve(chosen: Settings, port: int, token: str) -> None:
    # Imported late: Prefect and MLflow read the environment that use_workspace wrote as they load.
    from dashboards.console.app import create_app
    from flows.runtime import using

    with using(_prefect(chosen)):
        app = create_app(token)
        print(f"http://127.0.0.1:{port}/?token={quote(token, safe='')}", flush=True)
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False, server_header=False)


def _prefect(chosen: Settings) -> str:
    """The configured server, else the workspace's running one, else where `requant up` will start it."""
    from flows.runtime import running_server

    configured = chosen.prefect_api_url or os.environ.get("PREFECT_API_URL")
    return configured or running_server(chosen) or f"http://127.0.0.1:{chosen.prefect_port}/api"


if __name__ == "__main__":
    raise SystemExit(main())
