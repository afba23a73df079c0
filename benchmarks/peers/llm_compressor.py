"""llm-compressor's GPTQ with its documented settings, by an interpreter that has it.

`PYTHON benchmarks/peers/llm_compressor.py FOLDER IDS.npy OUTPUT BLOCK`, without Requant.
"""

from __future__ import annotations

import sys
from typing import Any


def main(folder: str, ids_path: str, output: str, block: int) -> None:
    """Quantize a checkpoint to 4 bits, and write it compressed."""
    import numpy as np
    from compressed_tensors.quantization import (  # type: ignore[attr-defined]
        QuantizationArgs,
        QuantizationScheme,
    )
    from datasets import Dataset  # type: ignore[import-not-found]
    from llmcompressor import oneshot  # type: ignore[import-not-found]
    from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
        GPTQModifier,
    )
    from transformers import AutoModelForCausalLM

    ids = np.load(ids_path)
    rows: list[dict[str, Any]] = [
        {"input_ids": row.tolist(), "attention_mask": [1] * len(row)} for row in ids
    ]
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=block
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    oneshot(
        model=model,
        dataset=Dataset.from_list(rows),
        recipe=GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"]),
        num_calibration_samples=len(rows),
        max_seq_length=ids.shape[1],
        pipeline="sequential",
    )
    model.save_pretrained(output, save_compressed=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
