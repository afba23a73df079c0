"""`requant quantize`, from texts in a file to what both models make of others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from infra.errors import BadInput, Refused
from tasks.models.corpus import EPOCH, write_corpus
from tasks.quantization.streamed.texts import windows_by_group
from tasks.records import Request
from tests.language_folders import TEXTS, write_folder

CONVERSATION = "User: Where is the cat?\nAssistant: On the roof."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("llama"), "llama")


def table(path: Path, times: int) -> Path:
    rows = [
        {"language": language, "text": text}
        for language, text in zip(("en", "de", "code", "ja"), TEXTS, strict=True)
        for _ in range(times if language != "ja" else 8)
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["quantize", *map(str, arguments)])


def test_from_texts_to_what_both_models_make_of_others(folder: Path, tmp_path: Path) -> None:
    texts, out = table(tmp_path / "texts.jsonl", 40), tmp_path / "out"
    asked = (folder, "--output", out, "--recipe", "int8-smooth", "--tokens", 16, "--windows", 32)
    done = run(*asked, "--texts", texts, "--judge", texts, "--json")
    assert done.exit_code == 0, done.output
    made = json.loads(done.output)
    assert (made["layers"], made["quantized"], made["resumed_at"]) == (2, 14, 0)
    assert {item["group"] for item in made["judged"]} == {"en", "de", "code", "ja"}
    assert all(0.8 < item["perplexity_ratio"] < 1.2 for item in made["judged"])
    again = run(*asked, "--texts", texts)
    assert "from layer 3 on" in again.output
    assert "not judged" in again.output


def test_what_was_made_is_judged_by_later_texts_and_held_to_a_limit(
    folder: Path, tmp_path: Path
) -> None:
    texts, out = table(tmp_path / "texts.jsonl", 40), tmp_path / "out"
    asked = (folder, "--output", out, "--recipe", "int8-max", "--tokens", 16, "--texts", texts)
    assert isinstance(run(*asked, "--at-most", 1.2).exception, BadInput)  # judged by which texts?
    assert run(*asked, "--judge", texts, "--at-most", 1.2).exit_code == 0
    made = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    later = run(*asked, "--judge", table(tmp_path / "later.jsonl", 9), "--at-most", 0.5)
    assert isinstance(later.exception, Refused)
    assert re.search(r"on \w+ perplexity is \d\.\d+ times full precision's", str(later.exception))
    assert "(4 of 4 groups are above)" in str(later.exception)
    assert {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")} == made


def test_every_language_keeps_a_floor(folder: Path, tmp_path: Path) -> None:
    rows = [("en", TEXTS[0])] * 400 + [("ja", TEXTS[3])] * 8
    found = windows_by_group(folder, rows, 16, 32)
    assert found["ja"].shape == (2, 16)
    assert found["en"].shape[0] in (30, 31)


def test_a_pool_is_read_too_and_a_conversation_as_its_template_says(
    folder: Path, tmp_path: Path
) -> None:
    rows = [
        Request(f"r{number}", EPOCH, "corpus", CONVERSATION, "support", "en", None)
        for number in range(8)
    ]
    pool = tmp_path / "pool.parquet"
    pool.write_bytes(write_corpus(rows))
    done = run(
        folder,
        "--output",
        tmp_path / "out",
        "--recipe",
        "int8-max",
        "--tokens",
        16,
        "--texts",
        pool,
    )
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--recipe", "int8-smoth"), "no recipe is called 'int8-smoth'"),
        (("--recipe", "int8-max"), "needs a calibration set"),
        (("--recipe", "int8-weights", "--device", "cuda:9"), "torch sees no device 'cuda:9'"),
        (("--recipe", "int8-weights", "--windows", "0"), "windows must be 1 or more"),
        (("--recipe", "int8-max", "--texts", "none.parquet"), "none.parquet cannot be read"),
        (("--recipe", "int8-max", "--texts", "none.jsonl"), "none.jsonl cannot be read"),
        (("--recipe", "int8-weights", "--keep", "("), "is no regular expression"),
        (("--recipe", "int8-weights", "--keep", "10%"), "name texts to observe"),
    ],
)
def test_a_bad_argument_is_one_sentence(
    folder: Path, tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    done = run(folder, "--output", tmp_path / "out", *options)
    assert isinstance(done.exception, BadInput)
    assert sentence in str(done.exception)


def test_texts_too_short_for_a_window_are_told(folder: Path) -> None:
    with pytest.raises(BadInput, match="no group fills a window of 512"):
        windows_by_group(folder, [("en", "Short.")], 512, 8)
