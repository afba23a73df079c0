#!/usr/bin/env bash
# Version: prefect 3.8.8 with SQLAlchemy 2.1.9, which prefect's own requirement (>=2.0) lets in; Python 3.11.
# Expectation: a server with a deployment on a schedule of seconds creates the runs that are due.
# Behaviour: server and API answer and every page looks healthy, but the scheduler fails at each turn and no run is ever created.
# With SQLAlchemy 2.0.58 the same server creates runs within seconds.
# Output: "SQLAlchemy 2.1.9: 0 scheduled runs", "SQLAlchemy 2.0.58: N scheduled runs" with N > 0, and the scheduler's error.
# Exits 1 if that changes. Takes about four minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/scheduled.py" <<'PY'
"""Start a server, deploy a flow on a schedule of five seconds, and count what was scheduled within 75 s."""
import os, socket, subprocess, sys, time
from pathlib import Path

home = Path(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "DO_NOT_TRACK": "1",
               "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
log = (home / "server.log").open("wb")
command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
server = subprocess.Popen(command, stdout=log, stderr=log)
try:
    import httpx
    for _ in range(240):
        try:
            if httpx.get(os.environ["PREFECT_API_URL"] + "/health").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.5)
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.schedules import IntervalSchedule
    from datetime import timedelta
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("anything")
        schedules = [{"schedule": IntervalSchedule(interval=timedelta(seconds=5)), "active": True}]
        made = client.create_deployment(flow_id=flow, name="often", schedules=schedules)
        time.sleep(75)
        print(len(client.read_flow_runs()))
finally:
    server.terminate()
    server.wait(30)
PY
count() {
  python3 -m venv "$folder/$1"
  "$folder/$1/bin/pip" install --quiet prefect==3.8.8 'fastapi<0.151' "SQLAlchemy==$1" >&2
  mkdir -p "$folder/home-$1"
  "$folder/$1/bin/python" "$folder/scheduled.py" "$folder/home-$1"
}
with_21=$(count 2.1.9)
echo "SQLAlchemy 2.1.9: $with_21 scheduled runs"
grep -o "Can't evaluate bulk DML statement[^.]*" "$folder/home-2.1.9/server.log" | sort | uniq -c | head -3 || true
with_20=$(count 2.0.58)
echo "SQLAlchemy 2.0.58: $with_20 scheduled runs"
[ "$with_21" -eq 0 ] && [ "$with_20" -gt 0 ]
