"""The steps of the loop on a checkpoint of eight billion random weights, on a device or the CPU.

`--quick` takes two layers. Run where 60 GB of disk are free; without MLflow and Prefect.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.language import random_llama
from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH
from tasks.records import Request

NAME, TITLE = "checkpoint-8b", "The loop's steps on a Llama of eight billion weights"
WORDS = 1000


@dataclass(frozen=True, slots=True)
class Amount:
    """How much is asked, and what is aimed for."""

    recipe: str
    texts: int
    golden: int
    tokens: int
    goal: Goal  # without its figure


ON_DEVICE = Amount(
    "int8-smooth", 256, 96, 256, Goal("minutes of a recalibration", 5, None, "at most")
)
ON_CPU = Amount("int8-max", 32, 8, 64, Goal("GB of the process", 16, None, "at most"))


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """One step."""

    step: str = column("step")
    texts: int = column("texts", "d")
    seconds: float = column("s", ".0f")
    resident: float = column("GB of the process at most", ".1f")
    device: float = column("GB of the device", ".1f")
    figure: str = column("found")


def measure(quick: bool) -> ResultTable:
    """Take a checkpoint in, and do what a recalibration does."""
    import torch

    on_device = torch.cuda.is_available()
    amount = ON_DEVICE if on_device else ON_CPU
    shape = random_llama.LLAMA_3_8B
    shape = replace(shape, layers=2) if quick else shape
    with (
        tempfile.TemporaryDirectory() as name,
        patch.dict(os.environ, REQUANT_WORKSPACE=str(Path(name) / "workspace")),
    ):
        rows = _steps(Path(name), shape, amount)
    minutes = sum(row.seconds for row in rows[1:]) / 60
    figure = minutes if on_device else max(row.resident for row in rows)
    notes = (
        f"{torch.cuda.get_device_name() if on_device else 'CPU'}, torch {torch.__version__}; "
        f"{shape.weights / 1e9:.2f} billion weights in bfloat16, {shape.layers} layers; texts of "
        f"{amount.tokens} tokens; {minutes:.1f} minutes after it was taken in.",
    )
    goal = replace(amount.goal, figure=figure)
    return ResultTable(NAME, TITLE, rows, [goal], notes)


def _steps(folder: Path, shape: random_llama.LlamaShape, amount: Amount) -> list[StepSeconds]:
    from tasks.layerwise.comparing import compare_payloads
    from tasks.layerwise.request_amax import watch_payloads
    from tasks.models.checkpoints.carried import CarriedCheckpoint
    from tasks.models.checkpoints.registering import taken_in
    from tasks.models.language.inputs import LanguageInputs
    from tasks.models.language.layout import NO_CACHE
    from tasks.quantization.recipe.catalog import find_recipe
    from tasks.quantization.streamed.candidate import Origin, derive_candidate

    source, rows = folder / "checkpoint", list[StepSeconds]()
    source.mkdir()
    random_llama.write(source, shape)
    tokenizer = random_llama.word_tokenizer(WORDS)
    (source / "tokenizer.json").write_bytes(tokenizer)
    inputs = LanguageInputs(tokenizer, NO_CACHE, max_length=amount.tokens, new_tokens=1)
    texts = random_llama.texts(amount.texts + amount.golden, amount.tokens, WORDS)
    requests = [
        Request(RequestId(str(n)), EPOCH, "t", "words", "en", text)
        for n, text in enumerate(texts[: amount.texts])
    ]

    def step(said: str, count: int, do: Callable[[], Any], tell: Callable[[Any], str]) -> Any:
        row, made = _timed(said, count, do, tell)
        sys.stderr.write(f"{row}\n")
        rows.append(row)
        return made

    index = step("taken in", 0, lambda: taken_in(source), lambda made: "")
    for path in source.glob("*.safetensors"):
        path.unlink()
    model: Any = SimpleNamespace(checkpoint=CarriedCheckpoint(index), inputs=inputs)
    step(
        "watched, to set requests aside",
        amount.texts,
        lambda: watch_payloads(model, texts[: amount.texts]),
        lambda found: f"{found.amax.shape[1]} sites",
    )
    files = step(
        f"derived by {amount.recipe}",
        amount.texts,
        lambda: derive_candidate(
            model.checkpoint,
            inputs,
            requests,
            find_recipe(amount.recipe),
            Origin("", "", ""),
            folder / "derivation",
            {},
        ),
        lambda made: "",
    )
    import onnx

    served = CarriedCheckpoint(onnx.load_from_string(files["graph.onnx"]))
    step(
        "judged beside full precision",
        amount.golden,
        lambda: compare_payloads(model, served, texts[amount.texts :]),
        lambda found: _told(found, served.size / model.checkpoint.size),
    )
    return rows


def _told(found: Any, size: float) -> str:
    lost = float(np.mean(found.scores.candidate_loss - found.scores.reference_loss))
    return f"perplexity ratio {np.exp(lost):.3f}, {size:.3f} of the bytes"


def _timed(
    said: str, count: int, do: Callable[[], Any], tell: Callable[[Any], str]
) -> tuple[StepSeconds, Any]:
    import torch

    on_device = torch.cuda.is_available()
    if on_device:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    begun = perf_counter()
    made = do()
    seconds = perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_device else 0.0
    status = Path("/proc/self/status").read_text()
    resident = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e9
    return StepSeconds(said, count, seconds, resident, peak, tell(made)), made
