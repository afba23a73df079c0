#!/usr/bin/env bash
# Version: prefect 3.8.8 (SQLAlchemy 2.0.58), Python 3.11.
# Expectation: applying a deployment again with its one schedule under another slug leaves that one schedule, as under the same slug.
# Behaviour: the schedule of the earlier slug stays active beside the new one, so that the flow runs on both from then on.
# Output: "same slug: 1 schedule", "another slug: 2 schedules, all active: True".
# Exits 1 if that changes. Takes about two minutes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet prefect==3.8.8 'fastapi<0.151' SQLAlchemy==2.0.58 >&2
cat >"$folder/renamed.py" <<'PY'
import os, socket, subprocess, sys, time
from pathlib import Path

home = Path(sys.argv[1])
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = str(probe.getsockname()[1])
os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "DO_NOT_TRACK": "1",
               "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
log = (home / "server.log").open("wb")
command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port, "--no-services"]
server = subprocess.Popen(command, stdout=log, stderr=log)
try:
    import httpx
    for _ in range(240):
        try:
            if httpx.get(os.environ["PREFECT_API_URL"] + "/health").is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.5)
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.schedules import Cron

    @flow
    def nightly() -> None:
        """Nothing."""

    def applied(slug: str, hour: int) -> list:
        made = nightly.to_deployment("kept", schedules=[Cron(f"0 {hour} * * *", timezone="UTC", slug=slug)])
        identity = made.apply()
        with get_client(sync_client=True) as client:
            return client.read_deployment_schedules(identity)

    applied("first", 3)
    same = applied("first", 4)
    other = applied("second", 4)
    print(f"same slug: {len(same)} schedule")
    print(f"another slug: {len(other)} schedules, all active: {all(one.active for one in other)}")
    sys.exit(0 if (len(same), len(other)) == (1, 2) and all(one.active for one in other) else 1)
finally:
    server.terminate()
    server.wait(30)
PY
mkdir "$folder/home"
"$folder/venv/bin/python" "$folder/renamed.py" "$folder/home"
