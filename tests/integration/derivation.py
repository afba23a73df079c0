"""One process that registers a model, observes its pool and writes graphs; it prints digests.

`python -m tests.integration.derivation SPEC WORKSPACE THREADS BATCH RECIPE...`
"""

import json
import os
import sys
from pathlib import Path

from infra.canonical import sha256
from infra.settings import use_workspace

FILES = ("graph.onnx", "scales.json", "ranges.npz", "candidate.json")


def main(spec: str, workspace: str, threads: str, batch: str, *recipes: str) -> None:
    """Print one JSON document of digests."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    use_workspace(Path(workspace))
    from infra.settings import settings
    from infra.stores.layout import CALIBRATION
    from tasks.models import inputs
    from tasks.models.catalog import register
    from tasks.models.language import inputs as language
    from tasks.quantization.steps import observe, write_graph
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    inputs.BATCH = language.BATCH = int(batch)  # type: ignore[attr-defined,misc]  # what is to be varied
    model, store = register(Path(spec)), settings().store()
    calibration = keep_sample(
        store, CALIBRATION, model.name, sample_of(model.pool[:96], seen=96, dropped={})
    )
    key = observe.fn(calibration)
    told: dict[str, object] = {"model": model.digest, "calibration": calibration.digest}
    told["observation"] = sha256(store.get(key))
    for name in recipes:
        candidate = write_graph.fn(calibration, key, name, None)
        told[name] = candidate.candidate_id
        told |= {f"{name} {part}": sha256(store.get(candidate.key(part))) for part in FILES}
    print(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
