"""The polyglot example's data: disjoint splits, right labels, weights of the stated size."""

import json
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from examples.lm import suites
from examples.rows import fingerprint
from infra.processes.sandbox import run_checks
from tasks.models.golden import read_golden
from tasks.records import CaseKind
from tasks.specs.spec import Task, load_spec

LM = Path(__file__).resolve().parents[3] / "examples" / "lm"
SPLITS = ("train", "traffic", "calibration", "golden")


def texts(split: str) -> set[str]:
    return {fingerprint(row["text"]) for row in pq.read_table(LM / f"{split}.parquet").to_pylist()}


def test_no_two_splits_share_a_text() -> None:
    found = {split: texts(split) for split in SPLITS}
    assert sum(map(len, found.values())) == len(set().union(*found.values()))


def test_every_text_lies_in_the_split_of_its_hash() -> None:
    for split in SPLITS:
        rows = pq.read_table(LM / f"{split}.parquet").to_pylist()
        assert {suites.split_of(row["text"]) for row in rows if row["domain"] != "summary"} == {
            split
        }


def test_no_golden_summary_is_of_a_text_that_was_trained_on() -> None:
    trained = {
        row["text"].split(". ")[0] for row in pq.read_table(LM / "train.parquet").to_pylist()
    }
    golden = read_golden((LM / "golden.parquet").read_bytes(), None, where="golden")
    asked = [str(case.payload) for case in golden.cases if case.kind is CaseKind.SUMMARY]
    shared = sum(text.removeprefix("Text: ").split(". ")[0] in trained for text in asked)
    assert shared <= 0.1 * len(asked), "formulaic docstrings begin alike, and no more than that"


def test_the_same_seed_gives_the_same_examples_of_the_wanted_split() -> None:
    first, again = (list(islice(suites.examples("golden", 3), 40)) for _ in range(2))
    assert first == again
    assert {example.split for example in first} == {"golden"}


def test_the_right_answer_to_a_code_example_passes_its_checks() -> None:
    for example in islice(suites.examples("train", 5, (suites.functions,)), 12):
        assert run_checks(example.prompt + example.answer, example.checks).passes, example.prompt


def test_a_question_is_answered_by_its_context() -> None:
    for example in islice(suites.examples("train", 5, (suites.questions,)), 50):
        assert example.answer.strip() in example.prompt.splitlines()[0]


@pytest.mark.parametrize(
    ("text", "expected"), [("Short. x", None), ("No end of a sentence at all", None)]
)
def test_a_text_without_a_first_sentence_has_no_summary(text: str, expected: None) -> None:
    assert suites.summary(text) is expected


def test_the_golden_set_asks_every_suite_and_the_spec_reads_it() -> None:
    spec = load_spec(LM / "model.yaml")
    assert spec.task is Task.CAUSAL_LM
    golden = read_golden((LM / spec.golden.cases).read_bytes(), None, where="golden")
    kinds = {case.kind for case in golden.cases}
    assert kinds >= {
        CaseKind.ANSWER,
        CaseKind.SUMMARY,
        CaseKind.CODE,
        CaseKind.DIALOGUE,
        CaseKind.SAFETY,
    }
    assert len({case.language for case in golden.cases}) == 9


def test_what_is_shipped_keeps_its_size() -> None:
    config = json.loads((LM / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"], config["vocab_size"]) == (
        6,
        2,
        4096,
    )
    assert (LM / "model.safetensors").stat().st_size < 12_000_000
    assert sum(path.stat().st_size for path in LM.glob("*.parquet")) < 3_000_000
