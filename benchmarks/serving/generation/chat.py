"""Tokens a second of a served language model, beside libraries that generate on the same weights.

Every stream is a client of `/v1/completions`; the libraries get as many prompts as one batch, in a
process of their own, without a server. All write the same number of tokens, greedily.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import httpx

from benchmarks.harness import ours
from benchmarks.harness.subject import EXAMPLES, Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.language import drift, smollm2
from benchmarks.language.held_out import open_material
from benchmarks.serving.generation import library_chat
from benchmarks.serving.servers import READY, running

STREAMS, QUICK_STREAMS = (1, 4, 16), (1, 4)
TOKENS, QUICK_TOKENS = 48, 8
"""That each stream writes."""
WINDOW, QUICK_WINDOW = 256, 96
"""Tokens that the model reads."""
RECIPES = ("int8-dynamic",)
"""Weight-only INT8 takes 25 times the CPU time a token here: its products are in floating point."""
FULL, TRANSFORMERS, GENAI = "gateway, full precision", "transformers generate", "onnxruntime-genai"
GATEWAY_MODULE, MODEL = "benchmarks.serving.generation.language_gateway", "chat"
TEXT = "Explain why a quantized model has to be watched after it was released"


@dataclass(frozen=True, slots=True)
class ChatRow:
    """Tokens a second of one contender."""

    name: str = column("server or library")
    streams: int = column("streams", "d")
    tokens: float | None = column("tokens/s", ".1f")
    first: float | None = column("until the first token, ms", ".0f")
    of_transformers: float | None = column("times transformers", ".2f")
    failed: int | None = column("failed", "d")
    why: str | None = reason("why not")


@dataclass(frozen=True, slots=True)
class Written:
    """What one round of streams wrote."""

    tokens: int
    seconds: float
    first: float | None  # seconds until the first token, of the median stream
    failures: tuple[str, ...] = ()


def measure(quick: bool) -> ResultTable:
    """Measure the gateway on several plans, then the libraries."""
    real = smollm2.is_installed() and not quick
    chosen = _subject(real, quick)
    streams, tokens = (QUICK_STREAMS, QUICK_TOKENS) if quick else (STREAMS, TOKENS)
    written: dict[str, dict[int, Written] | str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = _checkpoint(chosen, folder / "checkpoint", real)
        written[TRANSFORMERS] = _of_library("transformers", checkpoint, streams, tokens)
        if real:
            written[GENAI] = _genai(checkpoint, folder / "genai", streams, tokens)
        plans: dict[str, Callable[[], bytes]] = {FULL: lambda: chosen.source}
        for recipe in RECIPES:
            plans[f"gateway, {recipe}"] = lambda recipe=recipe: ours.quantize(
                chosen, recipe
            ).lowered("u8")
        for contender, plan in plans.items():
            written[contender] = _served(chosen, plan(), checkpoint, folder, streams, tokens)
    rows = _rows(written, streams)
    note = f"{chosen.name}: each stream reads a short prompt and writes {tokens} tokens."
    return ResultTable(
        "chat",
        "Tokens a second over HTTP, all streams together, beside libraries without a server",
        rows,
        _goals(rows, streams),
        (note,) if real or quick else (note, smollm2.MISSING),
    )


def _subject(real: bool, quick: bool) -> Subject:
    if not real:
        return open_material(True).subject
    chosen = smollm2.smollm2(QUICK_WINDOW if quick else WINDOW)
    return replace(chosen, calibration=drift._windows(chosen, "en", 64, 8))


def _checkpoint(chosen: Subject, folder: Path, real: bool) -> Path:
    """Return a Hugging Face folder of the model."""
    if not real:
        return EXAMPLES / "lm"
    folder.mkdir()
    smollm2.unpack(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("quantization_config", None)  # the weights in the folder are plain
    config["architectures"] = ["LlamaForCausalLM"]
    path.write_text(json.dumps(config))
    return folder


def _prompts(count: int) -> list[str]:
    return [f"{TEXT}, in {place + 2} steps." for place in range(count)]


def _served(
    chosen: Subject,
    plan: bytes,
    checkpoint: Path,
    folder: Path,
    streams: Sequence[int],
    tokens: int,
) -> dict[int, Written]:
    (folder / "plan.onnx").write_bytes(plan)
    (folder / "spec.json").write_text(chosen.spec.model_dump_json())
    command = (sys.executable, "-m", GATEWAY_MODULE, str(folder), str(checkpoint))
    with running(lambda port: (*command, str(port)), READY) as server:
        _ask(server.address, _prompts(1), 2)
        return {each: _ask(server.address, _prompts(each), tokens) for each in streams}


def _ask(address: str, prompts: Sequence[str], tokens: int) -> Written:
    """Let each prompt be continued by a stream of its own."""
    counts, firsts, failures = list[int](), list[float](), list[str]()
    began = time.perf_counter()

    def follow(prompt: str) -> None:
        body = {
            "model": MODEL,
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            with httpx.stream(
                "POST", f"{address}/v1/completions", json=body, timeout=600
            ) as answer:
                lines = []
                for line in filter(None, answer.iter_lines()):
                    if not lines:
                        firsts.append(time.perf_counter() - began)
                    lines.append(line)
            usage = json.loads(lines[-2].removeprefix("data: "))["usage"]
            counts.append(int(usage["completion_tokens"]))
        except (httpx.HTTPError, KeyError, IndexError, ValueError) as error:
            failures.append(repr(error))

    threads = [threading.Thread(target=follow, args=(prompt,)) for prompt in prompts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    middle = sorted(firsts)[len(firsts) // 2] if firsts else None
    return Written(sum(counts), time.perf_counter() - began, middle, tuple(failures))


def _of_library(
    library: str, folder: Path, streams: Sequence[int], tokens: int
) -> dict[int, Written] | str:
    """Let a library generate in a process of its own."""
    asked = json.dumps(
        {"streams": list(streams), "tokens": tokens, "prompts": _prompts(max(streams))}
    )
    command = (sys.executable, "-m", library_chat.__name__, library, str(folder))
    ended = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"it failed: {ended.stderr[-300:]}"
    said = json.loads(ended.stdout.splitlines()[-1])
    return {int(each): Written(*figures, None) for each, figures in said.items()}


def _genai(
    checkpoint: Path, folder: Path, streams: Sequence[int], tokens: int
) -> dict[int, Written] | str:
    """Build the model with its own builder, in INT4 as it does by default, and generate."""
    if find_spec("onnxruntime_genai") is None:
        return "it is not installed: pip install --no-deps onnxruntime-genai"
    builder = (sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", str(checkpoint))
    options = ("-o", str(folder), "-p", "int4", "-e", "cpu", "-c", str(folder / "cache"))
    ended = subprocess.run((*builder, *options), capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"its builder failed: {ended.stderr[-300:]}"
    return _of_library("genai", folder, streams, tokens)


def _rows(written: dict[str, dict[int, Written] | str], streams: Sequence[int]) -> list[ChatRow]:
    base = written[TRANSFORMERS]
    rows = []
    for name, figures in written.items():
        if isinstance(figures, str):
            rows.append(ChatRow(name, 0, None, None, None, None, figures))
            continue
        for each in streams:
            own = figures[each]
            speed = own.tokens / own.seconds
            times = None
            if not isinstance(base, str):
                times = speed / (base[each].tokens / base[each].seconds)
            first = None if own.first is None else own.first * 1e3
            why = own.failures[0] if own.failures else None
            rows.append(ChatRow(name, each, speed, first, times, len(own.failures), why))
    return rows


def _goals(rows: Sequence[ChatRow], streams: Sequence[int]) -> tuple[Goal, ...]:
    def best(each: int) -> float | None:
        reached = [
            row.of_transformers
            for row in rows
            if row.streams == each and row.name.startswith("gateway") and row.of_transformers
        ]
        return max(reached, default=None)

    return tuple(
        Goal(f"{each} stream{'s' * (each > 1)}, times transformers:", 2.0, best(each))
        for each in streams
    )
