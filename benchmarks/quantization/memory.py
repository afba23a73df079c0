"""Peak memory of a pass over MiniLM, each in a process of its own.

Run it as `python -m benchmarks.quantization.memory WORK FOLDER QUICK`.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from benchmarks.harness import subject
from infra.engines import open_target
from tasks.graphs.sites import expose
from tasks.models.inputs import run_all
from tasks.observation.watch import watch

PLAIN, OBSERVED = "plain", "observed"


def peaks(quick: bool) -> Mapping[str, float]:
    """Return the megabytes that a process had at most during each work.

    Its interpreter and the model are included.
    """
    chosen = subject.minilm(quick)
    # An export in the process would be most of what it holds.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "model.onnx").write_bytes(chosen.source)
        tokenizer = str(chosen.spec.input.tokenizer)
        Path(folder, tokenizer).write_bytes((chosen.folder / tokenizer).read_bytes())
        return {work: _peak(work, folder, quick) for work in (PLAIN, OBSERVED)}


def _peak(work: str, folder: str, quick: bool) -> float:
    arguments = [
        sys.executable,
        "-m",
        "benchmarks.quantization.memory",
        work,
        folder,
        *(["quick"] if quick else []),
    ]
    return float(
        subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.split()[-1]
    )


def _prepared(work: str, folder: Path, quick: bool) -> Callable[[], object]:
    chosen = subject.minilm(quick, folder)
    if work == PLAIN:
        return partial(run_all, chosen.reference, chosen.inputs, chosen.calibration)
    instrumented = open_target("onnxruntime-cpu").load(
        expose(chosen.model, chosen.sites).SerializeToString()
    )
    return partial(watch, instrumented, chosen.sites, chosen.inputs, chosen.calibration)


def _measured(call: Callable[[], object]) -> float:
    """Call it, and return the megabytes that the process had at most meanwhile.

    Linux forgets the peak so far when 5 is written to clear_refs. Loading a model takes more than
    running it.
    """
    Path("/proc/self/clear_refs").write_text("5")
    call()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    print(f"{_measured(_prepared(sys.argv[1], Path(sys.argv[2]), 'quick' in sys.argv[3:])):.1f}")
