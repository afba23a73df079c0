"""`python -m benchmarks [NAME...] [--quick] [--json FILE] [--base REV]`."""

import argparse
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path

from rich.console import Console

from benchmarks.harness.machine import conditions
from benchmarks.harness.table import ResultTable

MODULES: Mapping[str, str] = {
    "fidelity": "benchmarks.quantization.fidelity",
    "latency": "benchmarks.quantization.latency",
    "int8-kernels": "benchmarks.kernels.int8_kernels",
    "gpu-observe": "benchmarks.kernels.gpu_observe",
    "gpu-engines": "benchmarks.kernels.gpu_engines",
    "gpu-products": "benchmarks.kernels.gpu_products",
    "gpu-derive": "benchmarks.kernels.gpu_derive",
    "checkpoint-8b": "benchmarks.language.checkpoints.steps",
    "pareto-front": "benchmarks.quantization.pareto_front",
    "recalibration": "benchmarks.quantization.recalibration",
    "observation": "benchmarks.quantization.observation",
    "drift-to-quality": "benchmarks.quantization.drift_to_quality",
    "recipes": "benchmarks.quantization.recipes",
    "sensitivity": "benchmarks.quantization.sensitivity",
    "scan": "benchmarks.traffic.scan",
    "profiles": "benchmarks.traffic.profiles",
    "sampling": "benchmarks.traffic.sampling",
    "language": "benchmarks.language.held_out",
    "llm-memory": "benchmarks.language.memory",
    "llm-layerwise": "benchmarks.language.layerwise",
    "llm-int8": "benchmarks.language.checkpoints.eight_bits",
    "llm-8b": "benchmarks.language.checkpoints.eight_billion",
    "llm-loop": "benchmarks.language.checkpoints.one_loop",
    "llm-loop-kept": "benchmarks.language.checkpoints.kept",
    "llm-int4": "benchmarks.language.four_bits",
    "llm-floats": "benchmarks.language.block_floats",
    "llm-drift": "benchmarks.language.drift",
    "llm-outliers": "benchmarks.language.outliers",
    "selection": "benchmarks.quantization.selection",
    "poisoning": "benchmarks.quantization.poisoning",
    "scale": "benchmarks.traffic.scale",
    "detection": "benchmarks.drift.detection",
    "first-step": "benchmarks.orchestration.first_step",
    "commands": "benchmarks.orchestration.commands",
    "maintain": "benchmarks.orchestration.maintain",
    "console": "benchmarks.orchestration.console",
    "console-scale": "benchmarks.orchestration.console_scale",
    "up": "benchmarks.orchestration.started_up",
    "ledger": "benchmarks.orchestration.ledger",
    "quiet-runs": "benchmarks.orchestration.quiet_runs",
    "promotion": "benchmarks.orchestration.promotion",
    "serving": "benchmarks.serving.throughput",
    "hot-swap": "benchmarks.serving.hot_swap",
    "capture": "benchmarks.serving.capturing",
    "chat": "benchmarks.serving.generation.chat",
    "streaming-speech": "benchmarks.serving.streaming_speech",
    "serving-soak": "benchmarks.serving.soak",
    "fallback": "benchmarks.serving.steering.false_fallbacks",
    "routing": "benchmarks.serving.steering.routing",
    "falling-back": "benchmarks.serving.steering.falling_back",
    "personal-data": "benchmarks.personal_data.recall",
}
NAMES = tuple(MODULES)
BY_NAME_ALONE = frozenset({"serving-soak", "console-scale", "llm-8b", "checkpoint-8b"})
"""Take half an hour and more: they run where they are named."""
RENAMED = {"front": "pareto-front"}
BESIDE_A_COMMIT = frozenset({"commands", "console", "maintain", "up"})
WIDTH = 180
"""Columns of a table that goes to a file."""


def main(arguments: list[str] | None = None) -> None:
    """Run the named benchmarks, or all, and print each table as soon as it is there."""
    options = _options(arguments)
    console, before = Console(), conditions()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    console.print(
        " · ".join(f"{name} {value}" for name, value in before.items()),
        style="dim",
        highlight=False,
    )
    documents = []
    for name in options.names or [each for each in NAMES if each not in BY_NAME_ALONE]:
        table = _measure(name, options.base)(options.quick)
        console.print(table.render())
        documents.append(table.document())
    if options.json:
        report = {
            "version": 1,
            "quick": options.quick,
            "conditions": before,
            "benchmarks": documents,
        }
        options.json.write_text(
            json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )


def _measure(name: str, base: str | None) -> Callable[[bool], ResultTable]:
    """Return the benchmark of that name; `base` is the commit that some compare with."""
    module = import_module(MODULES[name])
    measure: Callable[[bool], ResultTable] = module.measure
    return partial(measure, base=base) if base and name in BESIDE_A_COMMIT else measure


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks", description="Side-by-side runs against peers.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--quick", action="store_true", help="fewer texts, peers and rounds: to see that it works"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write all figures with versions and CPU"
    )
    parser.add_argument(
        "--base",
        metavar="REV",
        help="the commit that `commands`, `console`, `maintain` and `up` compare with",
    )
    options = parser.parse_args(arguments)
    for old in sorted(set(options.names) & set(RENAMED)):
        parser.error(f"the benchmark {old} is called {RENAMED[old]} now")
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}: allowed are {', '.join(NAMES)}")
    if options.base and not BESIDE_A_COMMIT & set(options.names or NAMES):
        parser.error(
            "--base is for the benchmarks commands, console, maintain and up: name one, too"
        )
    return options


if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    main()
