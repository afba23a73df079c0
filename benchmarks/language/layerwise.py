"""INT4 from a checkpoint, layer by layer, beside llm-compressor: time, memory, perplexity.

On SmolLM2-135M-Instruct and on a Llama of 1.1 billion random weights. llm-compressor runs by the
interpreter that `LLM_COMPRESSOR_PYTHON` names, since it wants other versions of what Requant needs;
so does AutoRound by `AUTO_ROUND_PYTHON`, on SmolLM2 alone: it learns, which takes long. There
Requant also writes two means of bits a weight, which measure what each site loses first.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.harness.watched import watched
from benchmarks.language import random_llama, smollm2
from benchmarks.language.drift import HOME, _text

NAME, TITLE = "llm-layerwise", "INT4 by GPTQ from a checkpoint: time, memory, perplexity"
PEER_PYTHON, LEARNING_PYTHON = "LLM_COMPRESSOR_PYTHON", "AUTO_ROUND_PYTHON"
OURS, PEER = "Requant", "llm-compressor"
LEARNING, LEARNING_RECIPES = "AutoRound", {"AutoRound, light": "light", "AutoRound": "default"}
OUR_RECIPES = {OURS: "int4-gptq"}
BY_BITS = {"Requant, 4.5 bits": "int4-4.5-bits", "Requant, 6 bits": "int4-6-bits"}
LEARNED = "perplexity over AutoRound's"
PACKED = "packed"
"""A folder beside weights in floating point, with what their toolkit would ship of them."""
TOKENS, WINDOWS, JUDGED, QUICK_WINDOWS = 256, 64, 12, 4
BLOCK = 32
SMOLLM2, LLAMA = "SmolLM2-135M", "Llama 1.1B, random"
Ids = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LayerwiseRow:
    """One toolkit on one model."""

    model: str = column("model")
    toolkit: str = column("toolkit")
    resident: float = column("peak, GB", ".2f")
    anonymous: float = column("of it not in files, GB", ".2f")
    estimated: float | None = column("estimated, GB", ".2f")
    seconds: float = column("s", ".0f")
    cpu: float = column("CPU s", ".0f")
    bits: float | None = column("bits a weight", ".2f")
    size: float = column("bytes over the checkpoint's", ".3f")
    ratio: float = column("perplexity over full precision's", ".4f")


def measure(quick: bool) -> ResultTable:
    """Quantize each model by each toolkit, one after the other, on the same windows."""
    rows, notes = list[LayerwiseRow](), list[str]()
    peers = {
        PEER: os.environ.get(PEER_PYTHON, ""),
        LEARNING: os.environ.get(LEARNING_PYTHON, ""),
    }
    notes += [
        f"no interpreter is named with {peer}: it did not run" for peer in peers if not peers[peer]
    ]
    with tempfile.TemporaryDirectory() as name:
        for model in (SMOLLM2, LLAMA):
            if model == SMOLLM2 and not smollm2.is_installed():
                notes.append(smollm2.MISSING)
                continue
            folder = Path(name) / "checkpoint"
            folder.mkdir()
            observed, judged = _prepared(model, folder, quick)
            for row in _rows(model, folder, observed, judged, peers):
                sys.stderr.write(f"{row}\n")
                rows.append(row)
            shutil.rmtree(folder)
    notes.append(
        f"{WINDOWS if not quick else QUICK_WINDOWS} windows of {TOKENS} tokens to calibrate, "
        f"{JUDGED} others to judge by transformers; blocks of {BLOCK}; the peak holds pages of "
        "files, which are given back when others need memory."
    )
    return ResultTable(NAME, TITLE, rows, _goals(rows), notes)


def _prepared(model: str, folder: Path, quick: bool) -> tuple[Ids, Ids]:
    """Write a checkpoint, and return windows to calibrate and to judge."""
    windows = QUICK_WINDOWS if quick else WINDOWS
    count = windows + JUDGED
    if model == SMOLLM2:
        from transformers import AutoTokenizer

        smollm2.unpack(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        found = tokenizer(_text(HOME), add_special_tokens=False)["input_ids"]
        ids = np.array(found[: count * TOKENS], np.int64).reshape(count, TOKENS)
    else:
        shape = random_llama.TINYLLAMA_1_1B
        shape = replace(shape, layers=2) if quick else shape
        random_llama.write(folder, shape)
        _write_tokenizer(folder)
        ids = np.random.default_rng(0).integers(0, shape.words, (count, TOKENS))
    return ids[:windows], ids[windows:]


def _write_tokenizer(folder: Path) -> None:
    """Write a tokenizer of one word: llm-compressor wants one, and is given token ids."""
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"?": 0}, unk_token="?")).save(str(folder / "tokenizer.json"))
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "?"}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))


def _rows(
    model: str, folder: Path, observed: Ids, judged: Ids, peers: Mapping[str, str]
) -> Iterator[LayerwiseRow]:
    path, output = folder.parent / "ids.npy", folder.parent / "out"
    np.save(path, observed)
    scripts = Path(__file__).resolve().parents[1] / "peers"
    ours = OUR_RECIPES | (BY_BITS if model == SMOLLM2 else {})
    own = [sys.executable, "-m", "benchmarks.language.one_derivation"]
    commands = dict.fromkeys(ours, own)
    if peers[PEER]:
        commands[PEER] = [peers[PEER], str(scripts / "llm_compressor.py")]
    if peers[LEARNING] and model == SMOLLM2:
        script = str(scripts / "auto_round_recipes.py")
        commands |= {name: [peers[LEARNING], script] for name in LEARNING_RECIPES}
    exact = _loss(folder, judged)
    for toolkit, command in commands.items():
        last = [ours[toolkit]] if toolkit in ours else [str(BLOCK)]
        last += [LEARNING_RECIPES[toolkit]] if toolkit in LEARNING_RECIPES else []
        ran = watched([*command, str(folder), str(path), str(output), *last])
        told = json.loads(ran.output.splitlines()[-1]) if toolkit in ours else {}
        size = (_bytes(output / PACKED) or _bytes(output)) / _bytes(folder)
        ratio = math.exp(_loss(output, judged) - exact)
        shutil.rmtree(output)
        yield LayerwiseRow(
            model,
            toolkit,
            ran.resident / 1e9,
            ran.anonymous / 1e9,
            told["estimated"] / 1e9 if told else None,
            ran.seconds,
            ran.cpu,
            told.get("bits"),
            size,
            ratio,
        )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _loss(folder: Path, judged: Ids) -> float:
    """Return the mean loss of a token, in float32 by transformers' own loading."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses = []
    with torch.no_grad():
        for row in torch.from_numpy(judged):
            logits = model(row[None]).logits[0, :-1]
            losses.append(float(torch.nn.functional.cross_entropy(logits, row[1:])))
    return sum(losses) / len(losses)


def _goals(rows: Sequence[LayerwiseRow]) -> list[Goal]:
    goals = []
    for model in dict.fromkeys(row.model for row in rows):
        found = {row.toolkit: row for row in rows if row.model == model}
        ours, peer = found[OURS], found.get(PEER)
        learning = found.get(LEARNING)
        figures = {
            LEARNED: (1.0, learning and ours.ratio / learning.ratio),
            "peak over llm-compressor's": (0.5, peer and ours.resident / peer.resident),
            "time over llm-compressor's": (0.5, peer and ours.seconds / peer.seconds),
            "perplexity over llm-compressor's": (1.0, peer and ours.ratio / peer.ratio),
        }
        goals += [
            Goal(f"{what}, {model}", most, value, "at most")
            for what, (most, value) in figures.items()
            if what != LEARNED or model == SMOLLM2
        ]
        estimate = (ours.estimated or 0) / ours.resident
        goals.append(Goal(f"estimate over peak, {model}", 0.8, estimate))
        goals.append(Goal(f"estimate over peak, {model}", 1.25, estimate, "at most"))
    return goals
