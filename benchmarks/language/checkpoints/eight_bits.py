"""SmolLM2 in INT8 from its checkpoint, by what it is calibrated on and by what it then reads.

By the functions that `requant quantize` calls, beside other toolkits on the same windows; on a
device where there is one. torchao and llm-compressor run by the interpreters that `TORCHAO_PYTHON`
and `LLM_COMPRESSOR_PYTHON` name.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.language import smollm2
from benchmarks.language.drift import AWAY, CODE, HOME, _text
from benchmarks.language.layerwise import PEER_PYTHON
from benchmarks.peers import int8_decoders
from benchmarks.peers.int8_decoders import CALIBRATION
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import derive
from tasks.quantization.streamed.losses import place

if TYPE_CHECKING:
    import torch

NAME, TITLE = "llm-int8", "SmolLM2-135M-Instruct in INT8: perplexity over full precision's"
GROUPS = (HOME, CODE, AWAY, "de", "fr", "ru")
TOKENS, WINDOWS, JUDGED, QUICK_WINDOWS, QUICK_JUDGED = 256, 64, 40, 8, 2
FLOOR = 4
"""Windows of each other group in a calibration set with floors."""
FLOORS = f"{HOME}, {FLOOR} windows of each other"
TORCHAO_PYTHON = "TORCHAO_PYTHON"
TENTH, WIDE = "10%", "down_proj"
STATIC, COMPENSATED, BY_TOKEN = "int8-smooth", "int8-gptq", "int8-per-token"
ROOMY, BY_TOKEN_COMPENSATED = "int8-headroom", "int8-per-token-gptq"


@dataclass(frozen=True, slots=True)
class Int8Row:
    """One contender."""

    name: str = column("contender")
    seen: str = column("calibrated on")
    en: float | None = column("en", ".4f")
    code: float | None = column("code", ".4f")
    ja: float | None = column("ja", ".4f")
    de: float | None = column("de", ".4f")
    fr: float | None = column("fr", ".4f")
    ru: float | None = column("ru", ".4f")
    every: float | None = column("all", ".4f")
    agreement: float | None = column("agreement where calibrated", ".3f")
    size: float | None = column("bytes over the checkpoint's", ".3f")
    seconds: float | None = column("s, judging too", ".0f")
    why: str = reason("made")

    def ratios(self) -> Sequence[float | None]:
        """Return perplexity over full precision's of every group."""
        return self.en, self.code, self.ja, self.de, self.fr, self.ru


@dataclass(frozen=True, slots=True)
class OwnContender:
    """One of ours."""

    recipe: str
    seen: str  # a group, or `FLOORS`
    keep: str | None = None

    @property
    def name(self) -> str:
        """Return what a table calls it."""
        return f"{self.recipe}, {self.keep} kept" if self.keep else self.recipe


OURS = (
    *(OwnContender(STATIC, seen) for seen in (HOME, AWAY, CODE, FLOORS)),
    *(OwnContender(COMPENSATED, seen) for seen in (HOME, AWAY, CODE)),
    *(OwnContender(STATIC, HOME, keep) for keep in (TENTH, WIDE)),
    *(OwnContender(ROOMY, HOME, keep) for keep in (None, TENTH, WIDE)),
    *(OwnContender(BY_TOKEN, seen) for seen in (HOME, FLOORS)),
    OwnContender(BY_TOKEN, HOME, WIDE),
    *(OwnContender(BY_TOKEN_COMPENSATED, seen) for seen in (HOME, FLOORS)),
)
QUICK = (OwnContender(STATIC, HOME), OwnContender(STATIC, HOME, TENTH))


def measure(quick: bool) -> ResultTable:
    """Derive each contender, and let it and full precision read every group's windows."""
    rows = list[Int8Row]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoint"
        folder.mkdir()
        smollm2.unpack(folder)
        material = _material(folder, quick)
        for row in _rows(folder, material, quick):
            sys.stderr.write(f"{row}\n")
            rows.append(row)
    notes = (
        f"{len(material.calibration[HOME])} windows of {TOKENS} tokens to calibrate, "
        f"{len(material.judged[HOME])} others of each group to judge, on {_device()}. "
        "torchao and modelopt have no file: they are judged in torch.",
    )
    return ResultTable(NAME, TITLE, rows, goals(rows), notes)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Token ids [windows, tokens]."""

    calibration: Mapping[str, torch.Tensor]  # by what a contender is calibrated on
    judged: Mapping[str, torch.Tensor]


def _material(folder: Path, quick: bool) -> Material:
    """Read windows: to calibrate the first of a text, and to judge those that follow.

    Of groups that nothing is calibrated on alone, the first are judged, and the last in
    `FLOORS`.
    """
    import torch
    from transformers import AutoTokenizer

    windows, judged = (QUICK_WINDOWS, QUICK_JUDGED) if quick else (WINDOWS, JUDGED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = dict[str, torch.Tensor]()
    for group in GROUPS:
        ids = tokenizer(_text(group), add_special_tokens=False)["input_ids"]
        whole = len(ids) // TOKENS
        read[group] = torch.tensor(ids[: whole * TOKENS]).view(whole, TOKENS)
    alone = {group: read[group][:windows] for group in (HOME, CODE, AWAY)}
    others = [
        alone[group][:FLOOR] if group in alone else read[group][-FLOOR:] for group in GROUPS[1:]
    ]
    first = {group: WINDOWS if group in alone else 0 for group in GROUPS}
    return Material(
        {**alone, FLOORS: torch.cat([alone[HOME][: -FLOOR * len(others)], *others])},
        {group: ids[first[group] :][:judged] for group, ids in read.items()},
    )


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _rows(folder: Path, material: Material, quick: bool) -> Iterator[Int8Row]:
    for item in QUICK if quick else OURS:
        yield _ours(folder, material, item)
    peers = {
        "modelopt": (sys.executable, "SmoothQuant", (HOME, AWAY)),
        "torchao": (os.environ.get(TORCHAO_PYTHON), "per token", ("",)),
        "llm-compressor": (os.environ.get(PEER_PYTHON), "SmoothQuant, GPTQ, per token", (HOME,)),
    }
    for method, (python, what, seen) in peers.items():
        for groups in seen[:1] if quick else seen:
            yield _peer(folder, material, method, f"{method}, {what}", groups, python)


def _ours(folder: Path, material: Material, item: OwnContender) -> Int8Row:
    begun, output = perf_counter(), folder.parent / "out"
    stored, recipe = StoredCheckpoint(folder), find_recipe(item.recipe)
    observed, device = material.calibration[item.seen], _device()
    keep = place(item.keep, stored, recipe, observed, device=device).keep
    made = derive(stored, output, recipe, observed, material.judged, device=device, keep=keep)
    shutil.rmtree(output)
    found = {
        judged.group: {
            "perplexity_ratio": judged.perplexity_ratio,
            "agreement": judged.agreement,
        }
        for judged in made.judged
    }
    return _row(item.name, item.seen, found, made.size_ratio, perf_counter() - begun)


def _peer(
    folder: Path, material: Material, method: str, name: str, seen: str, python: str | None
) -> Int8Row:
    if python is None:
        return _absent(name, seen, "no: no interpreter is named that has it")
    begun, path = perf_counter(), folder.parent / "ids.npz"
    windows = {group: ids.numpy() for group, ids in material.judged.items()}
    windows[CALIBRATION] = material.calibration[seen or HOME].numpy()
    np.savez(path, allow_pickle=False, **windows)
    command = [python, str(Path(int8_decoders.__file__)), method, str(folder), str(path)]
    # A peer's interpreter has packages of its own.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:  # whatever a peer raises is its result
        return _absent(name, seen, f"no: {(ran.stderr.strip() or '?').splitlines()[-1]}")
    return _row(name, seen, json.loads(ran.stdout.splitlines()[-1]), None, perf_counter() - begun)


def _absent(name: str, seen: str, why: str) -> Int8Row:
    return Int8Row(name, seen or "nothing", *(None,) * 10, why)


def _row(
    name: str,
    seen: str,
    judged: Mapping[str, Mapping[str, float]],
    size: float | None,
    seconds: float,
) -> Int8Row:
    ratios = {group: judged[group]["perplexity_ratio"] for group in GROUPS}
    known = judged[seen if seen in GROUPS else HOME]["agreement"]
    return Int8Row(
        name,
        seen or "nothing",
        **ratios,
        every=math.prod(ratios.values()) ** (1 / len(ratios)),
        agreement=known,
        size=size,
        seconds=seconds,
        why="yes",
    )


def goals(rows: Sequence[Int8Row]) -> tuple[Goal, ...]:
    """Return the goals: where it is calibrated, and where it never was.

    As many tokens of each group are judged, so that perplexity of all is a geometric mean.
    """

    def of(item: OwnContender, figure: Callable[[Int8Row], float | None]) -> float | None:
        found = [row for row in rows if (row.name, row.seen) == (item.name, item.seen)]
        return figure(found[0]) if found else None

    def worst(row: Int8Row) -> float:
        return max(ratio for ratio in row.ratios() if ratio is not None)

    def row_of(recipe: str, seen: str, keep: str | None = None) -> OwnContender:
        return OwnContender(recipe, seen, keep)

    static = {seen: row_of(STATIC, seen) for seen in (HOME, AWAY, CODE)}
    wide, token = row_of(ROOMY, HOME, WIDE), row_of(BY_TOKEN, HOME)
    asked: Sequence[tuple[str, float, float | None]] = (
        ("static, calibrated on English, read English", 1.03, of(static[HOME], lambda row: row.en)),
        ("recalibrated on Japanese, read Japanese", 1.03, of(static[AWAY], lambda row: row.ja)),
        ("recalibrated on code, read code", 1.03, of(static[CODE], lambda row: row.code)),
        (
            "a tenth of the weights higher, where calibrated",
            1.02,
            of(row_of(STATIC, HOME, TENTH), lambda row: row.en),
        ),
        ("down_proj higher, with headroom, the worst group", 1.012, of(wide, worst)),
        ("per token, all", 1.012, of(token, lambda row: row.every)),
        ("the same with floors", 1.012, of(row_of(BY_TOKEN, FLOORS), lambda row: row.every)),
        (
            "the same with floors, by GPTQ",
            1.012,
            of(row_of(BY_TOKEN_COMPENSATED, FLOORS), lambda row: row.every),
        ),
    )
    agreed = {
        f"static, calibrated on {seen}": of(item, _agreement) for seen, item in static.items()
    }
    agreed["static, down_proj higher"] = of(row_of(STATIC, HOME, WIDE), _agreement)
    return (
        *(Goal(f"{what}:", most, figure, "at most") for what, most, figure in asked),
        *(Goal(f"agreement, {what}:", 0.95, found) for what, found in agreed.items()),
    )


def _agreement(row: Int8Row) -> float | None:
    return row.agreement
