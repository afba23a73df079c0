"""SmolLM2 in INT8 from its checkpoint, by what it is calibrated on and by what it then reads.

By the functions that `requant quantize` calls, beside other toolkits on the same windows. torchao
and llm-compressor run by the interpreters that `TORCHAO_PYTHON` and `LLM_COMPRESSOR_PYTHON` name.
"""

from __future__ import annotations

import json
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
from tasks.quantization.streamed.losses import named_or_lossy

if TYPE_CHECKING:
    import torch

NAME, TITLE = "llm-int8", "SmolLM2-135M-Instruct in INT8: perplexity over full precision's"
GROUPS = (HOME, CODE, AWAY, "de", "fr", "ru")
TOKENS, WINDOWS, JUDGED, QUICK_WINDOWS, QUICK_JUDGED = 256, 64, 6, 8, 2
TORCHAO_PYTHON = "TORCHAO_PYTHON"
TENTH, WIDE = "10%", "down_proj"
STATIC, COMPENSATED, BY_TOKEN = "int8-smooth", "int8-gptq", "int8-per-token"


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
    seen: str  # groups, joined by +
    keep: str | None = None

    @property
    def name(self) -> str:
        """Return what a table calls it."""
        return f"{self.recipe}, {self.keep} kept" if self.keep else self.recipe


OURS = (
    OwnContender(STATIC, HOME),
    OwnContender(STATIC, AWAY),
    OwnContender(STATIC, CODE),
    OwnContender(COMPENSATED, HOME),
    OwnContender(COMPENSATED, AWAY),
    OwnContender(STATIC, HOME, TENTH),
    OwnContender(STATIC, HOME, WIDE),
    OwnContender(BY_TOKEN, HOME),
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
        f"{len(material.judged[HOME])} of each group to judge, those that follow. "
        "torchao and modelopt have no file: they are judged in torch.",
    )
    return ResultTable(NAME, TITLE, rows, goals(rows), notes)


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """Token ids [windows, tokens]."""

    calibration: Mapping[str, torch.Tensor]  # the first windows of each text that may be seen
    judged: Mapping[str, torch.Tensor]  # those that follow

    def seen(self, groups: str) -> torch.Tensor:
        """Return what is calibrated on, of equal parts of each group."""
        import torch

        names = groups.split("+")
        count = len(self.calibration[HOME]) // len(names)
        return torch.cat([self.calibration[name][:count] for name in names])


def _material(folder: Path, quick: bool) -> Material:
    import torch
    from transformers import AutoTokenizer

    windows, judged = (QUICK_WINDOWS, QUICK_JUDGED) if quick else (WINDOWS, JUDGED)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    read = dict[str, torch.Tensor]()
    for group in GROUPS:
        ids = tokenizer(_text(group), add_special_tokens=False)["input_ids"]
        whole = len(ids) // TOKENS
        read[group] = torch.tensor(ids[: whole * TOKENS]).view(whole, TOKENS)
    return Material(
        {group: read[group][:windows] for group in (HOME, CODE, AWAY)},
        {group: ids[WINDOWS : WINDOWS + judged] for group, ids in read.items()},
    )


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
    observed = material.seen(item.seen)
    keep = named_or_lossy(item.keep, stored, recipe, observed)
    made = derive(stored, output, recipe, observed, material.judged, keep=keep)
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
    windows[CALIBRATION] = material.seen(seen or HOME).numpy()
    np.savez(path, allow_pickle=False, **windows)
    command = [python, str(Path(int8_decoders.__file__)), method, str(folder), str(path)]
    # A peer's interpreter has packages of its own.
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    if ran.returncode:  # whatever a peer raises is its result
        return _absent(name, seen, f"no: {(ran.stderr.strip() or '?').splitlines()[-1]}")
    return _row(name, seen, json.loads(ran.stdout.splitlines()[-1]), None, perf_counter() - begun)


def _absent(name: str, seen: str, why: str) -> Int8Row:
    return Int8Row(name, seen or "nothing", *(None,) * 6, None, None, None, why)


def _row(
    name: str,
    seen: str,
    judged: Mapping[str, Mapping[str, float]],
    size: float | None,
    seconds: float,
) -> Int8Row:
    ratios = {group: judged[group]["perplexity_ratio"] for group in GROUPS}
    known = min(judged[group]["agreement"] for group in (seen or HOME).split("+"))
    return Int8Row(
        name,
        seen or "nothing",
        **ratios,
        agreement=known,
        size=size,
        seconds=seconds,
        why="yes",
    )


def goals(rows: Sequence[Int8Row]) -> tuple[Goal, ...]:
    """Return the goals: where it is calibrated, and where it never was."""

    def of(item: OwnContender, figure: Callable[[Int8Row], float | None]) -> float | None:
        found = [row for row in rows if (row.name, row.seen) == (item.name, item.seen)]
        return figure(found[0]) if found else None

    def worst(row: Int8Row) -> float:
        return max(ratio for ratio in row.ratios() if ratio is not None)

    plain, again, code = (OwnContender(STATIC, group) for group in (HOME, AWAY, CODE))
    tenth, wide = (OwnContender(STATIC, HOME, keep) for keep in (TENTH, WIDE))
    token, rounded = OwnContender(BY_TOKEN, HOME), OwnContender(COMPENSATED, AWAY)
    asked: Sequence[tuple[str, float, float | None]] = (
        ("static, calibrated on English, read English", 1.03, of(plain, lambda row: row.en)),
        ("static, recalibrated on Japanese, read Japanese", 1.03, of(again, lambda row: row.ja)),
        ("the same by int8-gptq", 1.03, of(rounded, lambda row: row.ja)),
        ("static, recalibrated on code, read code", 1.03, of(code, lambda row: row.code)),
        ("a tenth of the weights higher, where calibrated", 1.02, of(tenth, lambda row: row.en)),
        ("down_proj higher, the worst group", 1.012, of(wide, worst)),
        ("per token, the worst group", 1.012, of(token, worst)),
    )
    least = min(
        (found for row in (plain, again, code) if (found := of(row, _agreement))), default=0
    )
    return (
        *(Goal(f"{what}:", most, figure, "at most") for what, most, figure in asked),
        Goal("agreement of static INT8 where it is calibrated, the least:", 0.95, least or None),
    )


def _agreement(row: Int8Row) -> float | None:
    return row.agreement
