#!/usr/bin/env bash
# MLflow 3.17.2 with transformers 5.17.0 and torch 2.13.0. Expected: a text-generation model is saved
# where torch is installed, as it has nothing to do with images. Seen: whatever runs in torch, the
# flavour's default requirements name torchvision too, and its version is asked of the installed
# package: save_model raises ModuleNotFoundError, and nothing is saved. With pip_requirements of the
# caller's own the same model is saved and loaded. Printed here: "default requirements:
# ModuleNotFoundError: No module named 'torchvision'; own requirements: saved, and it answers".
# Exits with 1 when that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'mlflow==3.17.2' 'transformers==5.17.0' 'torch==2.13.0'
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON' 2>/dev/null
import sys

import mlflow
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, pipeline

words = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=3,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
)
tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<unk>")
writer = pipeline("text-generation", model=model, tokenizer=tokenizer)

try:
    mlflow.transformers.save_model(writer, "default")
    default = "saved"
except ModuleNotFoundError as error:
    default = f"ModuleNotFoundError: {error}"
mlflow.transformers.save_model(writer, "own", pip_requirements=["torch", "transformers"])
answers = mlflow.pyfunc.load_model("own").predict(["one two"])
own = "saved, and it answers" if len(answers) == 1 else "saved"
print(f"default requirements: {default}; own requirements: {own}")
changed = (default, own) != (
    "ModuleNotFoundError: No module named 'torchvision'",
    "saved, and it answers",
)
sys.exit(int(changed))
PYTHON
