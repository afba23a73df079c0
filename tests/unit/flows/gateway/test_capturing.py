"""The first flush of a sample finds everything imported, so that it takes no core from requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FLUSH = """
import sys
from datetime import UTC, datetime
from flows.gateway.capturing import traffic_writer
from infra.gateway.capture import ServedExchange
from infra.settings import settings
write = traffic_writer(settings(), "m")
settings().store()
before = {name.partition(".")[0] for name in sys.modules}
assert write([ServedExchange("r", datetime.now(UTC), 1.0, "1", {"tenant": "Ann"}, "a text")])
print(sorted({name.partition(".")[0] for name in sys.modules} - before))
"""


def test_the_first_flush_imports_nothing(tmp_path: Path) -> None:
    environment = {"REQUANT_WORKSPACE": str(tmp_path), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", FLUSH], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
