"""The steps of the loop on a checkpoint of eight billion random weights, on a CUDA device.

`--quick` takes two layers. Run where 60 GB of disk are free.
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

NAME, TITLE = "gpu-checkpoint", "The loop on a Llama of eight billion weights, on a CUDA device"
TEXTS, GOLDEN, TOKENS, WORDS = 256, 96, 256, 1000
RECIPE = "int8-smooth"
MINUTES = 5
"""For the whole of a static INT8 derivation."""


@dataclass(frozen=True, slots=True)
class StepSeconds:
    """One step."""

    step: str = column("step")
    texts: int = column("texts", "d")
    seconds: float = column("s", ".0f")
    device: float = column("GB of the device at most", ".1f")
    figure: str = column("found")


def measure(quick: bool) -> ResultTable:
    """Take a checkpoint in, and do what a recalibration does; without a device nothing."""
    import torch

    if not torch.cuda.is_available():
        reason = f"no CUDA device is visible to torch {torch.__version__}: nothing was measured"
        goal = Goal("minutes of a recalibration", MINUTES, None, "at most")
        return ResultTable(NAME, TITLE, [], [goal], [reason])
    shape = random_llama.LLAMA_3_8B
    shape = replace(shape, layers=2) if quick else shape
    with (
        tempfile.TemporaryDirectory() as name,
        patch.dict(os.environ, REQUANT_WORKSPACE=str(Path(name) / "workspace")),
    ):
        rows = _steps(Path(name), shape)
    seconds = sum(row.seconds for row in rows[1:])
    notes = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}; "
        f"{shape.weights / 1e9:.2f} billion weights in bfloat16, {shape.layers} layers; texts of "
        f"{TOKENS} tokens.",
    )
    goal = Goal("minutes of a recalibration", MINUTES, seconds / 60, "at most")
    return ResultTable(NAME, TITLE, rows, [goal], notes)


def _steps(folder: Path, shape: random_llama.LlamaShape) -> list[StepSeconds]:
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
    inputs = LanguageInputs(tokenizer, NO_CACHE, max_length=TOKENS, new_tokens=1)
    texts = random_llama.texts(TEXTS + GOLDEN, TOKENS, WORDS)
    requests = [
        Request(RequestId(str(n)), EPOCH, "t", "words", "en", text)
        for n, text in enumerate(texts[:TEXTS])
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
        TEXTS,
        lambda: watch_payloads(model, texts[:TEXTS]),
        lambda found: f"{found.amax.shape[1]} sites",
    )
    files = step(
        f"derived by {RECIPE}",
        TEXTS,
        lambda: derive_candidate(
            model.checkpoint,
            inputs,
            requests,
            find_recipe(RECIPE),
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
        GOLDEN,
        lambda: compare_payloads(model, served, texts[TEXTS:]),
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

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    begun = perf_counter()
    made = do()
    seconds = perf_counter() - begun
    peak = torch.cuda.max_memory_allocated() / 1e9
    return StepSeconds(said, count, seconds, peak, tell(made)), made
