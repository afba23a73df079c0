"""Peak memory of one engine, measured in a process of its own."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from infra.engines import open_target
from infra.engines.port import Arrays
from infra.errors import Unavailable

RUNS = 5
TIMEOUT_S = 1800
"""Of a process that may share its cores: how long it takes is measured elsewhere."""


def peak_memory(target: str, plan: bytes, feeds: Arrays) -> int:
    """Measure by how much loading and running a plan raises a process's peak memory.

    Returns:
        Bytes at the peak of loading the plan and running it a few times, above the empty process:
            of resident memory, or of the device's where the target loads graphs onto one.

    Raises:
        Unavailable: The measuring process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        plan_path, feeds_path = Path(folder) / "plan", Path(folder) / "feeds.npz"
        plan_path.write_bytes(plan)
        np.savez(feeds_path, **feeds)  # type: ignore[arg-type]  # the stub takes the names for its own options
        command = [
            sys.executable,
            "-m",
            "infra.engines.footprint",
            target,
            str(plan_path),
            str(feeds_path),
        ]
        # The command is this module, by this interpreter.
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(
                f"peak memory could not be measured: it took more than {TIMEOUT_S} s"
            ) from exc
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise Unavailable(f"peak memory could not be measured: {why}")
    return int(json.loads(done.stdout.splitlines()[-1])["bytes"])


def _resident(field: str) -> int:
    status = Path("/proc/self/status").read_text()
    return next(
        int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field)
    )


def _used_on_device() -> int:
    """Return the bytes in use on the current device, by whoever uses it.

    The runtime's pool gives nothing back before its session ends, so what is left is the peak.
    """
    import torch

    free, total = torch.cuda.mem_get_info()
    return total - free


def main(target: str, plan: str, feeds: str) -> None:
    """Load the plan, run it and print the growth of the peak."""
    adapter = open_target(target)
    with np.load(feeds, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    before = _used_on_device() if adapter.on_device else _resident("VmRSS")
    engine = adapter.load(Path(plan).read_bytes())
    for _ in range(RUNS):
        engine.run(arrays)
    after = _used_on_device() if adapter.on_device else _resident("VmHWM")
    print(json.dumps({"bytes": max(after - before, 1)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
