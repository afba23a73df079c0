"""A Llama of eight billion random weights, from its checkpoint to releases in a small memory.

Each command of the loop runs in a process of its own. Checkpoint, workspace and releases take 60 GB
of disk at most. `--quick` takes two layers.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.harness.watched import watched
from benchmarks.language import random_llama
from benchmarks.language.checkpoints import one_loop
from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Request

NAME, TITLE = "llm-8b", "A Llama of eight billion weights on the CPU, from checkpoint to releases"
MODEL = "large"
RECIPES = ("int4-block-32", "int8-max")
MOST_GB = 16
TOKENS, WORDS, REQUESTS, CASES = 64, 1000, 32, 12


@dataclass(frozen=True, slots=True)
class LargeRow:
    """One command."""

    command: str = column("command")
    outcome: str = column("outcome")
    resident: float = column("peak, GB", ".2f")
    anonymous: float = column("of it not in files, GB", ".2f")
    seconds: float = column("s", ".0f")
    size: float | None = column("bytes over the checkpoint's", ".3f")
    ratio: float | None = column("perplexity over full precision's", ".3f")


def measure(quick: bool) -> ResultTable:
    """Write the checkpoint, register it, and release each recipe."""
    shape = random_llama.LLAMA_3_8B
    shape = replace(shape, layers=2) if quick else shape
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "checkpoint"
        source.mkdir()
        random_llama.write(source, shape)
        _write_data(folder)
        rows = [_ran(folder, "model", "add", str(folder / "model.yaml"))]
        for path in source.glob("*.safetensors"):
            path.unlink()  # the workspace has them, and the disk is small
        watched(
            _command("traffic", "import", str(folder / "day.jsonl"), "--model", MODEL), _in(folder)
        )
        for recipe in RECIPES:
            rows.append(_ran(folder, "requantize", MODEL, "--recipe", recipe))
            sys.stderr.write(f"{rows[-1]}\n")
    goals = [Goal(f"GB at most, {row.command}", MOST_GB, row.resident, "at most") for row in rows]
    notes = (
        f"{shape.weights / 1e9:.2f} billion weights in bfloat16, {shape.layers} layers; {REQUESTS} "
        f"requests and {CASES} golden cases of up to {TOKENS} tokens. Each is judged, signed and "
        "registered; children are counted.",
    )
    return ResultTable(NAME, TITLE, rows, goals, notes)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", *arguments]


def _in(folder: Path) -> dict[str, str]:
    return {"REQUANT_WORKSPACE": str(folder / "workspace")}


def _ran(folder: Path, *arguments: str) -> LargeRow:
    ran = watched(_command(*arguments, "--json"), _in(folder))
    outcome = json.loads(ran.output)
    gates = {
        gate["metric"]: gate["estimate"]["value"]
        for candidate in outcome.get("candidates", ())
        for report in candidate["reports"]
        for gate in report["gates"]
        if gate["group"] == "all" and gate["estimate"]
    }
    return LargeRow(
        " ".join(item for item in arguments if "/" not in item and item != MODEL),
        str(outcome.get("status", "registered")),
        ran.resident / 1e9,
        ran.anonymous / 1e9,
        ran.seconds,
        gates.get("size-ratio"),
        gates.get("perplexity-ratio"),
    )


def _write_data(folder: Path) -> None:
    """Write tokenizer, spec, pool, golden set and a day of traffic, of random words."""
    (folder / "checkpoint" / "tokenizer.json").write_bytes(random_llama.word_tokenizer(WORDS))
    drawn = iter(random_llama.texts(16 + CASES + REQUESTS, TOKENS, WORDS))
    pool = [
        Request(RequestId(f"p{n}"), EPOCH, "corpus", "words", "en", next(drawn)) for n in range(16)
    ]
    (folder / "pool.parquet").write_bytes(write_corpus(pool))
    cases = [GoldenCase(f"g{n}", next(drawn), "words", "en") for n in range(CASES)]
    (folder / "golden.parquet").write_bytes(write_golden(cases))
    rows = [
        {
            "request_id": str(n),
            "time": f"2026-01-05T08:00:{n:02d}Z",
            "text": next(drawn),
            "domain": "words",
            "language": "en",
        }
        for n in range(REQUESTS)
    ]
    (folder / "day.jsonl").write_text("\n".join(map(json.dumps, rows)))
    spec = dict(one_loop.spec(REQUESTS)) | {
        "name": MODEL,
        "source": "checkpoint",
        "input": {"tokenizer": "tokenizer.json", "max_length": TOKENS},
        "budgets": {
            "latency_ratio": 1.0,
            "size_ratio": 1.0,  # of two layers most bytes are the embeddings'
            "quality": [{"metric": "perplexity-ratio", "at_most": 1.5}],
        },
    }
    (folder / "model.yaml").write_text(yaml.safe_dump(spec))
