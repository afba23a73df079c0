"""A decoder in INT8 by other toolkits, judged where it was made: each rounds as its own code does.

`PYTHON benchmarks/peers/int8_decoders.py METHOD FOLDER IDS.npz`, by an interpreter that has the
toolkit, without Requant. Prints perplexity over full precision's and agreement by group.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

BATCH = 4  # windows
CALIBRATION = "calibration"


def main(method: str, folder: str, ids_path: str) -> None:
    """Judge a checkpoint before and after it was quantized.

    Args:
        method: One of `METHODS`.
        folder: The checkpoint, computed in float32.
        ids_path: Token ids [windows, tokens] by group; `CALIBRATION` is what it is calibrated on.
    """
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    ids = {name: torch.from_numpy(value) for name, value in np.load(ids_path).items()}
    observed = ids.pop(CALIBRATION)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    exact = {group: read(model, windows) for group, windows in ids.items()}
    made = METHODS[method](model, observed)
    found = {}
    for group, windows in ids.items():
        loss, tokens = read(made, windows)
        found[group] = {
            "perplexity_ratio": math.exp(loss - exact[group][0]),
            "agreement": float((tokens == exact[group][1]).float().mean()),
        }
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def read(model: Any, windows: Any) -> tuple[float, Any]:
    """Return the mean loss of a token, and the likeliest next ones, [windows, tokens - 1]."""
    import torch

    losses, tokens = [], []
    with torch.no_grad():
        for part in torch.split(windows, BATCH):
            logits = model(part).logits[:, :-1].float()
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), part[:, 1:].flatten(), reduction="none"
                )
            )
            tokens.append(logits.argmax(-1))
    return float(torch.cat(losses).mean()), torch.cat(tokens)


def torchao(model: Any, observed: Any) -> Any:
    """Quantize to INT8 with a range a token, as documented; nothing is calibrated."""
    from torch import nn
    from torchao.quantization import (  # type: ignore[import-not-found]
        Int8DynamicActivationInt8WeightConfig,
        quantize_,
    )

    head = model.get_output_embeddings()
    quantize_(
        model,
        Int8DynamicActivationInt8WeightConfig(),
        filter_fn=lambda module, _: isinstance(module, nn.Linear) and module is not head,
    )
    return model


def modelopt(model: Any, observed: Any) -> Any:
    """Quantize to static INT8 with SmoothQuant, by its own configuration."""
    import modelopt.torch.quantization as mtq

    def show(chosen: Any) -> None:
        read(chosen, observed)

    return mtq.quantize(model, mtq.INT8_SMOOTHQUANT_CFG, show)


def llm_compressor(model: Any, observed: Any) -> Any:
    """Apply SmoothQuant and GPTQ, a range a token, as in its example of W8A8."""
    from datasets import Dataset  # type: ignore[import-not-found]
    from llmcompressor import oneshot  # type: ignore[import-not-found]
    from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
        GPTQModifier,
    )
    from llmcompressor.modifiers.transform.smoothquant import (  # type: ignore[import-not-found]
        SmoothQuantModifier,
    )

    rows = [{"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in observed]
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=[
            SmoothQuantModifier(smoothing_strength=0.8),
            GPTQModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]),
        ],
        num_calibration_samples=len(rows),
        max_seq_length=observed.shape[1],
        pipeline="sequential",
    )
    return model


METHODS: Mapping[str, Callable[[Any, Any], Any]] = {
    "torchao": torchao,
    "modelopt": modelopt,
    "llm-compressor": llm_compressor,
}

if __name__ == "__main__":
    main(*sys.argv[1:4])
