"""What a library generates from prompts, in a process of its own.

`python -m benchmarks.serving.generation.library_chat transformers|genai FOLDER` reads
`{"streams": [...], "tokens": N, "prompts": [...]}` and writes `{streams: [tokens, seconds]}`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Generate = Callable[[Sequence[str], int], int]
"""Prompts and tokens -> tokens written."""


def main(library: str, folder: str) -> None:
    """Answer what standard input asks."""
    asked = json.load(sys.stdin)
    generate = {"transformers": open_transformers, "genai": open_genai}[library](folder)
    generate(asked["prompts"][:1], 2)
    said = {}
    for streams in asked["streams"]:
        began = time.perf_counter()
        tokens = generate(asked["prompts"][:streams], asked["tokens"])
        said[streams] = [tokens, time.perf_counter() - began]
    sys.stdout.write("\n" + json.dumps(said) + "\n")


def open_transformers(folder: str) -> Generate:
    """Open a folder with transformers, in float32."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left")
    fitting = tokenizer.pad_token or tokenizer.eos_token or tokenizer.convert_ids_to_tokens(0)
    tokenizer.pad_token = fitting

    def generate(prompts: Sequence[str], tokens: int) -> int:
        read = tokenizer(list(prompts), return_tensors="pt", padding=True)
        read.pop("token_type_ids", None)
        with torch.no_grad():
            written = model.generate(
                **read, do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens
            )
        return int((written.shape[1] - read["input_ids"].shape[1]) * len(prompts))

    return generate


def open_genai(folder: str) -> Generate:
    """Open what its builder wrote with onnxruntime-genai."""
    import onnxruntime_genai as genai  # type: ignore[import-not-found]

    model = genai.Model(folder)
    tokenizer = genai.Tokenizer(model)

    def generate(prompts: Sequence[str], tokens: int) -> int:
        rows = [tokenizer.encode(prompt) for prompt in prompts]
        longest = min(len(row) for row in rows)
        options = genai.GeneratorParams(model)
        options.set_search_options(
            do_sample=False,
            min_length=longest + tokens,
            max_length=longest + tokens,
            batch_size=len(prompts),
        )
        generator = genai.Generator(model, options)
        generator.append_tokens([list(row[-longest:]) for row in rows])
        written = 0
        while not generator.is_done() and written < tokens:
            generator.generate_next_token()
            written += 1
        return written * len(prompts)

    return generate


if __name__ == "__main__":
    main(*sys.argv[1:])
