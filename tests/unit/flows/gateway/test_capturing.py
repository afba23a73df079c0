"""The first flush of a sample finds everything imported, so that it takes no core from requests."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from flows.gateway.capturing import traffic_writer
from infra.gateway.capture import ServedExchange
from infra.settings import Settings
from tasks.traffic.storage.parts import read_part

FLUSH = """
import sys
from datetime import UTC, datetime
from flows.gateway.capturing import traffic_writer
from infra.gateway.capture import ServedExchange
from infra.settings import settings
write = traffic_writer(settings(), "m")
settings().store()
before = {name.partition(".")[0] for name in sys.modules}
assert not write([ServedExchange("r", datetime.now(UTC), 1.0, "1", {"tenant": "Ann"}, "a text")])
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def test_the_first_flush_imports_nothing(tmp_path: Path) -> None:
    environment = {"REQUANT_WORKSPACE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FLUSH], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def exchange(id: str, payload: object) -> ServedExchange:
    return ServedExchange(id, datetime.now(UTC), 1.0, "1", {}, payload)


def test_one_row_that_no_table_holds_is_dropped_and_the_others_are_stored(
    workspace: Settings,
) -> None:
    texts = {"letters": np.asarray(["a", "b"], dtype=object)}  # tensors hold numbers
    batch = [exchange("a~00000001", "first"), exchange("b", texts), exchange("c", "half \ud800")]
    assert traffic_writer(workspace, "m")(batch) == 2
    (key,) = workspace.store().list("traffic/m/")
    assert [row.payload for row in read_part(workspace.store(), key)] == ["first"]


def test_an_id_that_is_a_persons_keeps_its_mark_and_not_the_person(workspace: Settings) -> None:
    traffic_writer(workspace, "m")([exchange("jo@acme.com~5f3a9c01/3", "a text")])
    (key,) = workspace.store().list("traffic/m/")
    (row,) = read_part(workspace.store(), key)
    assert row.request_id.startswith("redacted-")
    assert row.request_id.endswith("~5f3a9c01/3")
