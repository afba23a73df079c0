"""Build the polyglot example's corpus and golden set out of MiniLM's texts and the suites.

`python -m examples.lm.build_corpus`. The same MiniLM files give the same bytes. No model takes
part.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from examples.lm import suites
from examples.lm.suites import Example
from examples.rows import CorpusRow, GoldenCase, Payload, fingerprint, write

HERE = Path(__file__).parent
MINILM = HERE.parent / "minilm"
PLAIN_CASES = 30
SUITE_ROWS = {"traffic": 700, "calibration": 250}
GOLDEN_SUITES = {"qa": 160, "dialogue": 80, "coding": 80, "safety": 80, "summary": 80}
KINDS = {
    "qa": "answer",
    "dialogue": "dialogue",
    "coding": "code",
    "safety": "safety",
    "summary": "summary",
}


@dataclass(frozen=True)
class Text:
    """One text of the corpus."""

    text: str
    domain: str
    language: str


def texts() -> list[Text]:
    """Return every text of the MiniLM example once; its own split does not matter here."""
    gathered = [
        Text(row["text"], row["domain"], row["language"])
        for name in ("traffic", "calibration", "golden")
        for row in pq.read_table(MINILM / f"{name}.parquet").to_pylist()
        if row.get("kind", "plain") == "plain"
    ]
    unique: dict[str, Text] = {}
    for text in gathered:
        unique.setdefault(fingerprint(text.text), text)
    return list(unique.values())


def summaries(gathered: Iterable[Text], split: str) -> list[Example]:
    """Return summaries of the prose of one split, so that no golden text was trained on."""
    prose = (
        text
        for text in gathered
        if text.domain in ("docs", "docstrings") and suites.split_of(text.text) == split
    )
    return [example for text in prose if (example := suites.summary(text.text)) is not None]


def distinct(split: str, seed: int, suite: str, count: int) -> list[Example]:
    """Return the first distinct examples of one suite."""
    template = {
        "qa": suites.questions,
        "dialogue": suites.dialogues,
        "coding": suites.functions,
    }.get(suite)
    examples: dict[str, Example] = {}
    for example in islice(
        suites.examples(split, seed, (template or suites.guardrails,)), 50 * count
    ):
        examples.setdefault(example.prompt, example)
        if len(examples) == count:
            break
    return list(examples.values())


def corpus_rows(gathered: list[Text], split: str) -> list[CorpusRow]:
    """Return texts of one split.

    Traffic and calibration also get prompts of every suite, as users would send them.
    """
    rows = [
        CorpusRow(fingerprint(text.text)[:16], Payload(text=text.text), text.domain, text.language)
        for text in gathered
        if suites.split_of(text.text) == split
    ]
    wanted = SUITE_ROWS.get(split, 0) // 5
    prompts = summaries(gathered, split)[:wanted] if wanted else []
    for suite in ("qa", "dialogue", "coding", "safety"):
        prompts += distinct(split, 1, suite, wanted) if wanted else []
    rows += [
        CorpusRow(
            fingerprint(prompt.prompt)[:16],
            Payload(text=prompt.prompt),
            prompt.suite,
            prompt.language,
            prompt.answer.strip(),
        )
        for prompt in prompts
    ]
    return list({row.id: row for row in rows}.values())


def golden_cases(gathered: list[Text]) -> list[GoldenCase]:
    """Return plain texts of every (domain, language), then the suites."""
    groups: dict[tuple[str, str], list[Text]] = defaultdict(list)
    for text in gathered:
        if suites.split_of(text.text) == "golden":
            groups[text.domain, text.language].append(text)
    cases = [
        GoldenCase(
            f"plain-{fingerprint(item.text)[:16]}",
            Payload(text=item.text),
            item.domain,
            item.language,
        )
        for key in sorted(groups)
        for item in sorted(groups[key], key=lambda item: fingerprint(item.text))[:PLAIN_CASES]
    ]
    for suite, count in GOLDEN_SUITES.items():
        suite_examples = (
            summaries(gathered, "golden")[:count]
            if suite == "summary"
            else distinct("golden", 2, suite, count)
        )
        cases += [_suite_case(item) for item in suite_examples]
    return cases


def _suite_case(example: Example) -> GoldenCase:
    label = "\n".join(example.checks) or example.answer.strip()
    return GoldenCase(
        f"{example.suite}-{fingerprint(example.prompt)[:16]}",
        Payload(text=example.prompt),
        example.suite,
        example.language,
        KINDS[example.suite],
        label,
    )


LICENCES = """Sources of train.parquet, traffic.parquet, calibration.parquet and golden.parquet
===============================================================================

code, docs, docstrings,   texts of ../minilm/*.parquet. ../minilm/LICENSES names their sources and holds the licences:
interface                 the Python Software Foundation License Version 2, and the BSD licences of Django, Wagtail
                          and Sphinx.
summary                   texts of docs and docstrings above, cut, with their first sentences: same licence.
qa, dialogue, coding,     written for Requant (suites.py; guardrail requests by ../minilm/safety_texts.py): Apache
safety                    License 2.0, as the project.

config.json, tokenizer.json and model.safetensors were made by train.py out of train.parquet and the training split of
the suites: Apache License 2.0.
"""


def main() -> None:
    """Write the four parquet files and LICENSES, and print the counts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=HERE, help="where to write (default: beside this script)"
    )
    output: Path = parser.parse_args().output
    gathered = texts()
    for split in ("train", "traffic", "calibration"):
        rows = corpus_rows(gathered, split)
        write(output / f"{split}.parquet", rows)
        print(split, len(rows), dict(Counter(f"{row.domain}/{row.language}" for row in rows)))
    cases = golden_cases(gathered)
    write(output / "golden.parquet", cases)
    print(
        "golden",
        len(cases),
        dict(Counter(f"{case.kind}/{case.domain}/{case.language}" for case in cases)),
    )
    (output / "LICENSES").write_text(LICENCES, encoding="utf-8")


if __name__ == "__main__":
    main()
