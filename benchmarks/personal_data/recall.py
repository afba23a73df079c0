"""Personal data in 300 synthetic sentences of 12 countries, and in 100 ordinary texts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.personal_data.build_samples import SAMPLES
from tasks.models.corpus import read_corpus
from tasks.personal_data.identifiers import scrub
from tasks.personal_data.redaction import redact

ORDINARY = SAMPLES.with_name("ordinary.txt")
CORPUS = Path(__file__).resolve().parents[2] / "examples" / "minilm" / "traffic.parquet"
TEXTS = 100
"""Ordinary texts: those of the file, and texts with numbers of a shipped corpus."""
RECALL, FALSE = 0.9, 1
Clean = Callable[[str], str]
_PLACEHOLDER = re.compile("<[A-Z_]+>")


@dataclass(frozen=True, slots=True)
class RecallRow:
    """Figures of one way to clean texts."""

    how: str = column("how")
    found: str = column("replaced, of 300")  # whole: no rest of it is left
    false: str = column("changed, of 100 ordinary")
    rate: float = column("texts/s, one core", ",.0f")


def by_patterns(text: str) -> str:
    """Clean a text as every import does."""
    return redact(text).text


def by_library(text: str) -> str:
    """Clean a text as a sample is cleaned with `calibration.privacy: library`."""
    return scrub(redact(text).text).text


def measure(quick: bool) -> ResultTable:
    """Measure recall, false alarms and speed of the patterns alone, and with the libraries."""
    by_library("warm 12345")
    ways: Mapping[str, Clean] = {"patterns (every import)": by_patterns, "libraries": by_library}
    rows, goals = [], []
    for how, clean in ways.items():
        missed, changed, rate = misses(clean), false_alarms(clean), _rate(clean, quick)
        count = len(read_samples())
        rows.append(RecallRow(how, f"{count - len(missed)}", f"{len(changed)}", rate))
        if clean is by_library:
            goals = [
                Goal("recall:", RECALL, 1 - len(missed) / count, "at least"),
                Goal("ordinary texts changed:", FALSE, len(changed), "at most"),
            ]
    title = "Personal data and keys, in synthetic sentences of 12 countries"
    return ResultTable("personal-data", title, rows, goals)


def read_samples() -> Sequence[Mapping[str, str]]:
    """Return the samples: country, kind, secret, text."""
    return [json.loads(line) for line in SAMPLES.read_text(encoding="utf-8").splitlines()]


def misses(clean: Clean) -> list[Mapping[str, str]]:
    """Return the samples whose secret, or three letters of it in a row, survive."""
    return [row for row in read_samples() if _survives(row, clean(row["text"]))]


def _survives(row: Mapping[str, str], cleaned: str) -> bool:
    before, _, after = row["text"].partition(row["secret"])
    rest = _PLACEHOLDER.sub(" ", cleaned)
    parts = {row["secret"][place : place + 3] for place in range(len(row["secret"]) - 2)}
    return any(part in rest and part not in before + after for part in parts)


def false_alarms(clean: Clean) -> list[str]:
    """Return the ordinary texts that are changed."""
    return [text for text in ordinary() if clean(text) != text]


def ordinary() -> list[str]:
    """Return the ordinary texts."""
    own = ORDINARY.read_text(encoding="utf-8").splitlines()
    corpus = read_corpus(CORPUS.read_bytes(), where="the corpus")
    numbered = [
        text
        for text in (str(row.payload) for row in corpus)
        if sum(letter.isdecimal() for letter in text) >= 8
    ]
    return own + numbered[:: max(1, len(numbered) // (TEXTS - len(own)))][: TEXTS - len(own)]


def _rate(clean: Clean, quick: bool) -> float:
    texts = [row["text"] for row in read_samples()] + ordinary()
    began = time.process_time()
    for _ in range(1 if quick else 5):
        for text in texts:
            clean(f"{text} ")
    return len(texts) * (1 if quick else 5) / (time.process_time() - began)
