"""AutoRound's light recipe and its default one, by an interpreter that has it.

`PYTHON benchmarks/peers/auto_round_recipes.py FOLDER IDS.npy OUTPUT BLOCK RECIPE`, without Requant.
Its packed format is read by its own kernels alone, so that OUTPUT holds what it rounds to, in
floating point, and OUTPUT/packed what it would ship.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "light": {"iters": 50, "lr": 5e-3, "batch_size": 8},
    "default": {"iters": 200, "batch_size": 8},
}
"""As `auto-round-light` and `auto-round` set them."""


def main(folder: str, ids_path: str, output: str, block: int, recipe: str) -> None:
    """Quantize a checkpoint to 4 bits with symmetric scales, and write it twice."""
    import numpy as np
    import torch
    from auto_round import AutoRound  # type: ignore[import-not-found]
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = torch.from_numpy(np.load(ids_path))
    made = AutoRound(
        AutoModelForCausalLM.from_pretrained(folder, dtype="auto"),
        AutoTokenizer.from_pretrained(folder),
        scheme={"bits": 4, "group_size": block, "sym": True, "data_type": "int"},
        dataset=[row[None] for row in ids],
        nsamples=len(ids),
        seqlen=ids.shape[1],
        device_map="cpu",
        **RECIPES[recipe],
    )
    rounded, _ = made.quantize()
    rounded.save_pretrained(output)
    made.save_quantized(str(Path(output) / "packed"), format="auto_round", inplace=False)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
