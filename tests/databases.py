"""A real PostgreSQL server on 127.0.0.1, for the time of a test."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.conftest import free_port

USER, PASSWORD = "requant", "only for tests"


def programs() -> Path | None:
    """Return where initdb and postgres lie; Debian keeps them off the path."""
    placed = [Path(one).parent for one in [shutil.which("initdb")] if one]
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in (*placed, *packaged) if (folder / "postgres").exists()), None)


@contextmanager
def postgresql(database: str) -> Iterator[str]:
    """Yield the address of an empty database; the server and all its files are gone afterwards."""
    found = programs()
    assert found is not None, "no PostgreSQL: bash tests/services/packages.sh installs it"
    folder, port = Path(tempfile.mkdtemp(prefix="requant-postgresql-", dir="/tmp")), free_port()
    account = (
        ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    )  # it refuses to run as root
    if account:
        shutil.chown(folder, "postgres", "postgres")
    data, secret = folder / "data", folder / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    made = ["-D", str(data), "-U", USER, "-A", "scram-sha-256", "--pwfile", str(secret)]
    subprocess.run(
        [*account, str(found / "initdb"), *made], check=True, capture_output=True, cwd=folder
    )
    listening = ["-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [*account, str(found / "postgres"), *listening], stdout=log, stderr=log, cwd=folder
    )
    try:
        _create(port, database)
        yield f"postgresql://{USER}:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{port}/{database}"
    finally:
        server.terminate()  # runuser hands it on: a fast shutdown after the last connection
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def _create(port: int, database: str) -> None:
    import psycopg2

    deadline = time.monotonic() + 60
    while True:
        try:
            known = {
                "host": "127.0.0.1",
                "port": port,
                "user": USER,
                "password": PASSWORD,
                "dbname": "postgres",
            }
            connection = psycopg2.connect(**known)
            break
        except psycopg2.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.3)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{database}"')
    connection.close()
