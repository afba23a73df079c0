"""vLLM itself, in an environment of its own, loads what `requant quantize` writes.

docs/serving.md says how to make the environment that `VLLM_PYTHON` names.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from flows.cli import app
from tests.language_folders import TEXTS, write_folder

PYTHON = os.environ.get("VLLM_PYTHON", "")
PROMPTS = [[0, 5, 9, 44, 120], [0, 200, 31, 77, 12, 90, 3]]
NEW_TOKENS = 16
WRITE = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    folder, dtype, prompts, new_tokens = json.loads(sys.argv[1])
    model = LLM(folder, skip_tokenizer_init=True, dtype=dtype, enforce_eager=True, max_model_len=64)
    rules = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, detokenize=False)
    written = model.generate([{"prompt_token_ids": ids} for ids in prompts], rules)
    print("WRITTEN" + json.dumps([list(each.outputs[0].token_ids) for each in written]))
"""
ONE_CORE = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}
pytestmark = [
    pytest.mark.skipif(not PYTHON, reason="VLLM_PYTHON names no Python with vllm-cpu"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a small Llama; the CPU kernels want heads of 64 or more."""
    made = write_folder(tmp_path_factory.mktemp("llama"), "llama", hidden=256, positions=128)
    rows = [json.dumps({"text": text}) for text in TEXTS for _ in range(40)]
    (made / "texts.jsonl").write_text("\n".join(rows))
    return made


def quantized(folder: Path, recipe: str) -> Path:
    """Write the folder's checkpoint by a recipe."""
    out = folder / recipe
    asked = [folder, "--output", out, "--recipe", recipe, "--tokens", 16, "--windows", 32]
    done = CliRunner().invoke(
        app, ["quantize", *map(str, asked), "--texts", str(folder / "texts.jsonl")]
    )
    assert done.exit_code == 0, done.output
    return out


def by_vllm(checkpoint: Path, dtype: str) -> list[list[int]]:
    """Return the likeliest tokens after each prompt, as vLLM writes them."""
    asked = json.dumps([str(checkpoint), dtype, PROMPTS, NEW_TOKENS])
    script = checkpoint / "write.py"
    script.write_text(WRITE)
    environment = {**os.environ, **ONE_CORE}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [PYTHON, script, asked], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("WRITTEN")]
    assert lines, (done.stdout + done.stderr)[-3000:]
    written: list[list[int]] = json.loads(lines[0].removeprefix("WRITTEN"))
    return written


def by_transformers(checkpoint: Path) -> list[list[int]]:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    length = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS}
    written = (model.generate(torch.tensor([ids]), do_sample=False, **length) for ids in PROMPTS)
    return [tokens[0, len(ids) :].tolist() for tokens, ids in zip(written, PROMPTS, strict=True)]


@pytest.mark.parametrize("recipe", ["int8-max", "int8-smooth"])
def test_vllm_writes_the_tokens_of_transformers_in_int8(folder: Path, recipe: str) -> None:
    checkpoint = quantized(folder, recipe)
    assert by_vllm(checkpoint, "float32") == by_transformers(checkpoint)


def test_vllm_writes_in_int4(folder: Path) -> None:
    """Its CPU kernel of INT4 knows bfloat16 alone, whose rounding turns some tokens."""
    written = by_vllm(quantized(folder, "int4-gptq"), "bfloat16")
    assert [len(tokens) for tokens in written] == [NEW_TOKENS, NEW_TOKENS]
