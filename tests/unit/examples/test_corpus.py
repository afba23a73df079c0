"""The shipped MiniLM corpus, golden set and safety head keep the pipeline's promises."""

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import load_file

from examples.minilm.embedding import embed
from examples.minilm.safety_texts import TRAIN
from examples.rows import CORPUS_SCHEMA, GOLDEN_SCHEMA, normalised

FOLDER = Path(__file__).parents[3] / "examples" / "minilm"
SPLITS = ("traffic", "calibration", "golden")
MEGABYTE = 1_000_000

Row = dict[str, Any]  # a parquet row as pyarrow gives it


@dataclass(frozen=True)
class Corpus:
    """The rows of the three files."""

    traffic: list[Row]
    calibration: list[Row]
    golden: list[Row]

    def split(self, name: str) -> list[Row]:
        """Return one split by name."""
        rows: list[Row] = getattr(self, name)
        return rows

    def kind(self, kind: str) -> list[Row]:
        """Return the golden cases of one kind."""
        return [row for row in self.golden if row["kind"] == kind]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Read the shipped files once."""
    return Corpus(*(pq.read_table(FOLDER / f"{name}.parquet").to_pylist() for name in SPLITS))


@pytest.fixture(scope="module")
def retrieved(corpus: Corpus) -> npt.NDArray[np.float32]:
    """Embed queries, then passages: similarity of every query to every passage."""
    queries, passages = corpus.kind("query"), corpus.kind("passage")
    rows = embed([row["text"] for row in queries + passages])
    similarity: npt.NDArray[np.float32] = rows[: len(queries)] @ rows[len(queries) :].T
    return similarity


def test_files_have_the_agreed_columns_and_golden_states_its_version() -> None:
    for name in ("traffic", "calibration"):
        assert pq.read_schema(FOLDER / f"{name}.parquet").equals(CORPUS_SCHEMA)
    golden = pq.read_schema(FOLDER / "golden.parquet")
    assert golden.equals(GOLDEN_SCHEMA)
    assert golden.metadata[b"requant.golden.version"] == b"1"


def test_everything_shipped_stays_under_five_megabytes_and_names_its_licences() -> None:
    assert (
        sum(path.stat().st_size for path in FOLDER.rglob("*") if path.suffix != ".pyc")
        < 5 * MEGABYTE
    )
    licences = (FOLDER / "LICENSES").read_text(encoding="utf-8")
    for holder in (
        "Django Software Foundation",
        "Torchbox",
        "Sphinx team",
        "Python Software Foundation",
    ):
        assert holder in licences


@pytest.mark.parametrize("name", SPLITS)
def test_no_text_and_no_id_occurs_twice_in_a_split(corpus: Corpus, name: str) -> None:
    rows = corpus.split(name)
    assert max(Counter(normalised(row["text"]) for row in rows).values()) == 1
    assert max(Counter(row.get("id") or row["case_id"] for row in rows).values()) == 1


@pytest.mark.parametrize(("one", "other"), list(combinations(SPLITS, 2)))
def test_no_text_is_shared_between_two_splits(corpus: Corpus, one: str, other: str) -> None:
    texts = [{normalised(row["text"]) for row in corpus.split(name)} for name in (one, other)]
    assert not texts[0] & texts[1]


def test_retrieval_texts_occur_nowhere_inside_traffic_or_calibration(corpus: Corpus) -> None:
    outside = "\n".join(normalised(row["text"]) for row in corpus.traffic + corpus.calibration)
    assert not [
        row["case_id"]
        for row in corpus.kind("query") + corpus.kind("passage") + corpus.kind("safety")
        if normalised(row["text"]) in outside
    ]


def test_the_head_was_trained_on_no_golden_text(corpus: Corpus) -> None:
    assert not {normalised(row["text"]) for row in corpus.golden} & {
        normalised(entry.text) for entry in TRAIN
    }


def test_every_row_has_a_text_a_domain_and_a_language(corpus: Corpus) -> None:
    for row in corpus.traffic + corpus.calibration + corpus.golden:
        assert row["text"].strip()
        assert row["domain"]
        assert row["language"]
        assert row["tensor"] is row["shape"] is row["dtype"] is None


@pytest.mark.parametrize("name", ["traffic", "calibration"])
def test_traffic_and_calibration_span_four_domains_and_six_languages(
    corpus: Corpus, name: str
) -> None:
    rows = corpus.split(name)
    assert len({row["domain"] for row in rows}) >= 4
    assert len({row["language"] for row in rows}) >= 6
    assert {(row["domain"], row["language"]) for row in rows} == {
        (row["domain"], row["language"]) for row in corpus.kind("plain")
    }


def test_there_is_enough_of_what_the_demo_turns_to(corpus: Corpus) -> None:
    corpus_rows = corpus.traffic + corpus.calibration
    languages = Counter(row["language"] for row in corpus_rows)
    assert sum(row["domain"] in ("docs", "code", "docstrings") for row in corpus_rows) >= 1500
    assert min(languages["ja"], languages["ru"]) >= 300
    assert min(languages[language] for language in ("de", "fr", "es", "zh")) >= 150


def test_each_golden_group_has_sixty_fidelity_cases(corpus: Corpus) -> None:
    assert set(
        Counter((row["domain"], row["language"]) for row in corpus.kind("plain")).values()
    ) == {60}


def test_each_query_names_existing_passages(corpus: Corpus) -> None:
    passages = {row["case_id"] for row in corpus.kind("passage")}
    assert len(passages) >= 200
    assert len(corpus.kind("query")) >= 120
    for row in corpus.golden:
        assert (row["relevant"] is not None) == (row["kind"] == "query")
        assert passages.issuperset(row["relevant"] or ())


@pytest.mark.soak
def test_full_precision_finds_most_passages(
    corpus: Corpus, retrieved: npt.NDArray[np.float32]
) -> None:
    passages = [row["case_id"] for row in corpus.kind("passage")]
    found = [
        bool({passages[index] for index in np.argsort(-scores)[:5]} & set(row["relevant"]))
        for row, scores in zip(corpus.kind("query"), retrieved, strict=True)
    ]
    assert np.mean(found) > 0.8


def test_safety_cases_are_labelled_and_both_decisions_are_common(corpus: Corpus) -> None:
    labels = Counter(row["label"] for row in corpus.kind("safety"))
    assert set(labels) == {"allowed", "blocked"}
    assert min(labels.values()) >= 80
    assert all(row["label"] is None for row in corpus.golden if row["kind"] != "safety")


@pytest.mark.soak
def test_the_safety_head_repeats_the_labels_at_full_precision(corpus: Corpus) -> None:
    head = load_file(FOLDER / "safety.safetensors")
    assert {name: (array.shape, array.dtype) for name, array in head.items()} == {
        "weight": ((384,), np.float32),
        "bias": ((1,), np.float32),
    }
    cases = corpus.kind("safety")
    blocked = embed([row["text"] for row in cases]) @ head["weight"] + head["bias"] > 0
    assert np.mean(blocked == np.array([row["label"] == "blocked" for row in cases])) >= 0.95


def test_the_spec_names_files_that_exist() -> None:
    spec = yaml.safe_load((FOLDER / "model.yaml").read_text())
    for name in (*spec["data"].values(), *spec["golden"].values()):
        assert (FOLDER / name).is_file()
