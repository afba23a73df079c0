"""One process that does one piece of work on a model.

It prints its estimate beside the memory that it took.

`python -m tests.integration.memory_use WORKSPACE register SPEC` or `... derive MODEL RECIPE`
"""

import json
import sys
from pathlib import Path

from infra.settings import use_workspace


def resident(field: str) -> int:
    """Return the bytes of a line of this process's status: VmRSS now, VmHWM at the peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(workspace: str, work: str, *arguments: str) -> None:
    """Print one JSON document: estimate and peak above the start, in bytes."""
    settings = use_workspace(Path(workspace))
    import onnx  # noqa: F401  # the libraries are there before the work begins
    import torch  # noqa: F401

    from infra.stores.layout import CALIBRATION
    from tasks.graphs.memory import READY_COPIES, export_footprint, footprint
    from tasks.models.batches import BATCH
    from tasks.models.catalog import open_model, register
    from tasks.observation.observer import ROWS
    from tasks.quantization.recipe.catalog import find_recipe
    from tasks.quantization.recipe.schemes import Gptq, Trained
    from tasks.quantization.steps import build_engine, observe, write_graph
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    before = resident("VmRSS")
    if work == "register":
        model = register(Path(arguments[0]))
        estimate = export_footprint(
            sum(path.stat().st_size for path in Path(arguments[0]).parent.glob("model.onnx*")),
            READY_COPIES,
        )
        tokens = model.spec.input.max_length
    else:
        model, recipe = open_model(arguments[0]), find_recipe(arguments[1])
        calibration = keep_sample(
            settings.store(),
            CALIBRATION,
            model.name,
            sample_of(model.pool[:48], seen=48, dropped={}),
        )
        candidate = write_graph.fn(calibration, observe.fn(calibration), recipe.name, None)
        build_engine.fn(candidate, "onnxruntime-cpu")
        tokens = model.spec.input.max_length
        hessian = isinstance(recipe.rounding, Gptq | Trained)
        estimate = footprint(
            model.graph, model.sites, tokens=tokens, batch=BATCH, kept=ROWS, hessian=hessian
        ).total
    assert settings.root
    print(json.dumps({"estimate": estimate, "peak": resident("VmHWM") - before}))


if __name__ == "__main__":
    main(*sys.argv[1:])
