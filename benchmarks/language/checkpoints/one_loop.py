"""SmolLM2 kept right as a checkpoint: every command of the loop in a process of its own.

Calibrated on English, it meets a day of English and one of Japanese.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import yaml

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.harness.watched import WatchedCommand, watched
from benchmarks.language import smollm2
from benchmarks.language.drift import AWAY, HOME, _text
from infra.identifiers import RequestId
from tasks.models.corpus import EPOCH, write_corpus
from tasks.models.golden import write_golden
from tasks.records import GoldenCase, Request

TITLE = "SmolLM2-135M-Instruct as a checkpoint: English calibrated, then Japanese"
NAME = "smollm2"
TOKENS, WINDOW, CASES, LETTERS = 128, 64, 24, {HOME: 500, AWAY: 200}
RECIPE = "int8-smooth"


@dataclass(frozen=True, slots=True)
class StepRow:
    """One command."""

    step: str = column("step")
    outcome: str = column("outcome")
    home: float | None = column("champion's perplexity ratio, English", ".3f")
    away: float | None = column("Japanese", ".3f")
    size: float | None = column("its bytes over the checkpoint's", ".3f")
    seconds: float = column("s", ".0f")
    resident: float = column("peak over the checkpoint", ".2f")
    anonymous: float = column("of it not in files", ".2f")


def measure(quick: bool) -> ResultTable:
    """Register the model, and let maintenance meet three days."""
    rows, notes = walk(quick)
    after = rows[3]
    goals = [
        Goal("perplexity ratio where it is calibrated", 1.03, rows[1].home, "at most"),
        Goal("the same of Japanese, recalibrated", 1.04, after.away, "at most"),
        Goal("peak over the checkpoint", 2.5, max(row.resident for row in rows), "at most"),
        Goal("s of a recalibration", 240, after.seconds, "at most"),
    ]
    return ResultTable("llm-loop", TITLE, rows, goals, notes)


def walk(quick: bool, keep: str | None = None) -> tuple[Sequence[StepRow], Sequence[str]]:
    """Return a row a command, and what is to be said of them.

    Args:
        quick: With half of the texts.
        keep: `calibration.keep`; None: nothing.
    """
    window = WINDOW // 2 if quick else WINDOW
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = prepare(folder, window, keep)
        loop = CheckpointLoop(folder, size)
        rows = [loop.step("model add", "model", "add", str(folder / "model.yaml"))]
        for day, (said, language) in enumerate(
            (
                ("first champion", HOME),
                ("another day of English", HOME),
                ("a day of Japanese", AWAY),
            )
        ):
            loop.run("traffic", "import", str(folder / f"day-{day}.jsonl"), "--model", NAME)
            rows.append(loop.step(f"{said} ({language})", "maintain", NAME))
            sys.stderr.write(f"{rows[-1]}\n")
    where = f"but {keep} " if keep else ""
    notes = (
        f"{size / 1e9:.2f} GB in FP32, {RECIPE} at every linear layer {where}of every decoder "
        f"layer; {window} texts of {TOKENS} tokens at most in a window; {CASES} golden cases a "
        f"language. Stale on Japanese: {rows[2].away}.",
    )
    return rows, notes


def prepare(folder: Path, window: int, keep: str | None) -> int:
    """Write spec, checkpoint, texts and three days of traffic; return the checkpoint's bytes."""
    smollm2.unpack(folder)
    texts = {language: _pieces(language) for language in (HOME, AWAY)}
    cases = [
        GoldenCase(f"{language}-{number}", texts[language].pop(), "prose", language)
        for language in texts
        for number in range(CASES)
    ]
    (folder / "golden.parquet").write_bytes(write_golden(cases))
    pool = [
        Request(RequestId(f"r{number}"), EPOCH, "corpus", "prose", HOME, texts[HOME].pop())
        for number in range(window // 4)
    ]
    (folder / "pool.parquet").write_bytes(write_corpus(pool))
    for day, language in enumerate((HOME, HOME, AWAY)):
        rows = [
            {
                "request_id": f"{day}-{number}",
                "time": f"2026-01-{5 + 2 * day:02d}T08:{number % 60:02d}:{number // 60:02d}Z",
                "text": texts[language].pop(),
                "tenant": f"t{number % 5}",
                "domain": "prose",
                "language": language,
            }
            for number in range(window)
        ]
        (folder / f"day-{day}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "model.yaml").write_text(yaml.safe_dump(spec(window, keep)))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _pieces(language: str) -> list[str]:
    text, length = _text(language), LETTERS[language]
    return [text[at : at + length] for at in range(0, len(text) - length, length)]


def spec(window: int, keep: str | None = None) -> Mapping[str, object]:
    """Return what a user would write of it."""
    return {
        "version": 1,
        "name": NAME,
        "source": ".",
        "task": "causal-lm",
        "input": {"tokenizer": "tokenizer.json", "max_length": TOKENS},
        "data": {"calibration": "pool.parquet"},
        "golden": {"cases": "golden.parquet"},
        "budgets": {
            "latency_ratio": 1.0,
            "size_ratio": 0.6,
            "quality": [
                {"metric": "perplexity-ratio", "at_most": 1.1},
                {"metric": "agreement", "at_least": 0.85},
            ],
        },
        "targets": ["compressed-tensors"],
        "calibration": {"keep": keep},
        "schedule": {"slug": "nightly", "cron": "0 3 * * *"},
        "window": {"sample": window, "minimum_rows": min(32, window)},
    }


class CheckpointLoop:
    """Commands of the product in one workspace, each in a process that is watched."""

    def __init__(self, folder: Path, size: int) -> None:
        """Take the folder that holds the workspace, and the checkpoint's bytes."""
        self._workspace, self._size = str(folder / "workspace"), size

    def run(self, *arguments: str) -> WatchedCommand:
        """Run one command; raises `CalledProcessError`."""
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return watched(command, {"REQUANT_WORKSPACE": self._workspace})

    def step(self, said: str, *arguments: str) -> StepRow:
        """Run one command, and ask how its champion reads both languages afterwards."""
        ran = self.run(*arguments, "--json")
        outcome = json.loads(ran.output)
        ratios = self._found()
        return StepRow(
            said,
            str(outcome.get("status", "registered")),
            ratios.get(HOME),
            ratios.get(AWAY),
            ratios.get("size"),
            ran.seconds,
            ran.resident / self._size,
            ran.anonymous / self._size,
        )

    def _found(self) -> Mapping[str, float]:
        """Return the champion's perplexity ratio by language of golden cases, and its size's."""
        with patch.dict(os.environ, REQUANT_WORKSPACE=self._workspace):
            from tasks.promotion.history import champion_of

            champion = champion_of(NAME)
        return {} if champion is None else _judged(self._workspace, champion.digest)


def _judged(workspace: str, release: str) -> Mapping[str, float]:
    command = [sys.executable, "-m", "benchmarks.language.checkpoints.one_loop", release]
    ran = watched(command, {"REQUANT_WORKSPACE": workspace})
    found: Mapping[str, float] = json.loads(ran.output.splitlines()[-1])
    return found


def main(arguments: Sequence[str]) -> None:
    """Print how a release reads the golden cases, by language: the stored one, judged again."""
    from math import exp

    import onnx

    from infra.settings import settings
    from tasks.models.catalog import open_model
    from tasks.models.checkpoints.carried import CarriedCheckpoint
    from tasks.validation.forms.checkpoint import CheckpointJudge

    model = open_model(NAME)
    index = settings().release(NAME, arguments[0]).file("graph.onnx")
    lost = CheckpointJudge().scores(model, model.spec.targets[0], index)["perplexity-ratio"].values
    by_language = {
        language: exp(
            float(
                sum(
                    value
                    for value, case in zip(lost, model.golden.cases, strict=True)
                    if case.language == language
                )
            )
            / CASES
        )
        for language in (HOME, AWAY)
    }
    stored = CarriedCheckpoint(onnx.load_from_string(index))
    print(json.dumps(by_language | {"size": stored.size / model.checkpoint.size}))


if __name__ == "__main__":
    main(sys.argv[1:])
