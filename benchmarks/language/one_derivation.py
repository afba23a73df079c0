"""One derivation in a process that imports nothing else, so that its peak is the product's.

Run as `python -m benchmarks.language.one_derivation FOLDER IDS.npy OUTPUT RECIPE`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import derive
from tasks.quantization.streamed.losses import place


def main(folder: str, ids: str, output: str, recipe: str) -> None:
    """Derive by the product's own function, and print its estimate."""
    windows = torch.from_numpy(np.load(ids))
    stored, chosen = StoredCheckpoint(Path(folder)), find_recipe(recipe)
    raised = place(None, stored, chosen, windows).raised
    made = derive(stored, Path(output), chosen, windows, raised=raised)
    told = {"estimated": made.estimated, "size": made.size_ratio, "bits": made.bits}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:5])
