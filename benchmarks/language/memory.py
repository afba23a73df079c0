"""Memory and time of a language model of real size, each piece of work in a process of its own.

Run one as `python -m benchmarks.language.memory WORK FOLDER QUICK`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.harness.watched import watched
from benchmarks.language import smollm2
from benchmarks.language.drift import HOME, _text
from infra.identifiers import RequestId
from tasks.graphs.files import float_weights
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Request
from tasks.specs.spec import load_spec

TITLE = "SmolLM2-135M-Instruct from a checkpoint to candidates: peak memory and time"
ADD, OBSERVE = "model add", "observe"
RECIPES = ("int8-smooth", "int4-gptq")
TOKENS, WINDOWS, QUICK_WINDOWS, CASES = 256, 64, 8, 24
LETTERS = 1500
"""Of a text: more than its tokens that are read."""


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """One piece of work; sizes are over the checkpoint's in FP32, children included."""

    work: str = column("work")
    resident: float = column("resident, x", ".2f")
    anonymous: float = column("of it not in files, x", ".2f")
    estimated: float = column("estimated, x", ".2f")
    cpu: float = column("CPU s", ".0f")
    wall: float = column("s", ".0f")


def measure(quick: bool) -> ResultTable:
    """Register the model, observe it, and write and build one candidate of each recipe."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = _prepare(folder)
        for work in (ADD, OBSERVE, *RECIPES):
            row = measured(work, folder, size, quick=quick)
            sys.stderr.write(f"{row}\n")
            rows.append(row)
    notes = (
        f"The checkpoint has {size / 1e9:.2f} GB in FP32. Pages of files are given back when "
        "others need memory; what is not in files is not.",
    )
    return ResultTable("llm-memory", TITLE, rows, _goals(rows), notes)


def _goals(rows: list[MemoryRow]) -> list[Goal]:
    by_work = {row.work: row for row in rows}
    add, smooth = by_work[ADD], by_work[RECIPES[0]]
    return [
        Goal("peak of model add over the checkpoint", 1.5, add.resident, "at most"),
        Goal("s of model add", 60, add.wall, "at most"),
        Goal("peak of int8-smooth over the checkpoint", 2.5, smooth.resident, "at most"),
        Goal("s of int8-smooth", 240, smooth.wall, "at most"),
        *(
            goal
            for row in rows
            for goal in (
                Goal(f"estimate over peak, {row.work}", 0.8, row.estimated / row.anonymous),
                Goal(
                    f"estimate over peak, {row.work}",
                    1.25,
                    row.estimated / row.anonymous,
                    "at most",
                ),
            )
        ),
    ]


def _prepare(folder: Path) -> int:
    """Write spec, checkpoint and texts; returns the checkpoint's bytes in FP32."""
    smollm2.unpack(folder)
    spec = smollm2._SPEC.format(tokens=TOKENS).replace("none.parquet}", "pool.parquet}", 1)
    spec = spec.replace("traffic: none.parquet, ", "").replace("none.parquet", "golden.parquet")
    (folder / "model.yaml").write_text(spec)
    text = _text(HOME)
    texts = [text[place : place + LETTERS] for place in range(0, len(text) - LETTERS, LETTERS)]
    pool = [
        Request(RequestId(f"r{number}"), EPOCH, "corpus", "prose", HOME, payload)
        for number, payload in enumerate(texts[:WINDOWS])
    ]
    (folder / "pool.parquet").write_bytes(write_corpus(pool))
    cases = [
        GoldenCase(f"g{number}", payload, "prose", HOME)
        for number, payload in enumerate(texts[WINDOWS : WINDOWS + CASES])
    ]
    (folder / "golden.parquet").write_bytes(write_golden(cases))
    return float_weights(folder)


def measured(work: str, folder: Path, size: int, *, quick: bool) -> MemoryRow:
    """Do one piece of work in a process, and look at its memory meanwhile.

    Args:
        work: `ADD`, `OBSERVE`, or a recipe of which a candidate is made; in this order.
        folder: With a spec as model.yaml, and what it names. The workspace is made in it.
        size: Bytes of the checkpoint in float32.
        quick: Whether fewer windows are observed.
    """
    command = [sys.executable, "-m", "benchmarks.language.memory", work, str(folder)]
    ran = watched(
        [*command, *(["quick"] if quick else [])], {"REQUANT_WORKSPACE": str(folder / "workspace")}
    )
    told = json.loads(ran.output.splitlines()[-1])
    return MemoryRow(
        work,
        ran.resident / size,
        ran.anonymous / size,
        told["estimated"] / size,
        ran.cpu,
        ran.seconds,
    )


def main(work: str, folder: str, windows: int) -> None:
    """Do one piece of work, and print its estimate."""
    works: Mapping[str, Callable[[Path, int], int]] = {ADD: _add, OBSERVE: _observe}
    do = works.get(work)
    estimated = do(Path(folder), windows) if do else _candidate(Path(folder), work)
    print(json.dumps({"estimated": estimated}))


def _add(folder: Path, _: int) -> int:
    from tasks.graphs.files import largest_float_weight
    from tasks.graphs.memory import export_footprint_beside
    from tasks.models.catalog import register

    register(folder / "model.yaml")
    return export_footprint_beside(float_weights(folder), largest_float_weight(folder), mapped=True)


def _observe(folder: Path, windows: int) -> int:
    from tasks.models.catalog import open_model
    from tasks.observation.archive import dump_observation
    from tasks.observation.watch import watch
    from tasks.quantization.loading import needed_memory

    model = open_model(load_spec(folder / "model.yaml").name)
    payloads = [item.payload for item in model.pool[:windows]]
    passed = (model.calibrating, model.observed_sites, model.inputs, payloads)
    observed = watch(*passed, cases=model.observed_cases)
    (folder / "observed.npz").write_bytes(dump_observation(observed))
    return needed_memory(model)


def _candidate(folder: Path, name: str) -> int:
    from infra.engines import open_target
    from tasks.models.catalog import open_model
    from tasks.observation.archive import parse_observation
    from tasks.observation.observer import MANY_ROWS
    from tasks.observation.watch import watch
    from tasks.quantization.graph.lowering import lower
    from tasks.quantization.loading import needed_memory_for
    from tasks.quantization.pipeline.candidate import (
        CalibrationEvidence,
        candidate_files,
        quantize,
    )
    from tasks.quantization.recipe.catalog import find_recipe

    model, recipe = open_model(load_spec(folder / "model.yaml").name), find_recipe(name)
    observed = parse_observation((folder / "observed.npz").read_bytes(), where="observed.npz")
    payloads, many = [item.payload for item in model.pool], None
    if recipe.learns_from_many:
        passed = (model.instrumented, model.sites, model.inputs, payloads)
        many = watch(*passed, rows=MANY_ROWS, cases=model.observed_cases)
    evidence = CalibrationEvidence(model.graph, model.sites, observed, many_rows=many)
    made = quantize(evidence, recipe)
    candidate_files(made, {})
    target = open_target("onnxruntime-cpu")
    target.build(lower(made.graph, target.form).SerializeToString(), model.inputs.profile)
    return needed_memory_for(model, recipe)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], QUICK_WINDOWS if "quick" in sys.argv[3:] else WINDOWS)
