"""How a Hugging Face folder is read without a network or a guess, for the exporter."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import Dim

Probe = dict[str, torch.Tensor]
Shapes = dict[str, dict[int, Dim]]


@dataclass(frozen=True, slots=True, eq=False)
class OriginalRun:
    """What the untouched model answers, called as its users call it."""

    feeds: Probe  # as the exported graph reads them
    answer: NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A module in full precision, inputs that it runs on, and their dynamic dimensions."""

    module: nn.Module
    probe: Probe
    shapes: Shapes
    originals: tuple[OriginalRun, ...]  # what the exported graph is held against
    properties: Mapping[str, str] = field(
        default_factory=dict
    )  # written into the graph, beside what it computes


def pretrained(
    kind: Any, folder: Path, *, spare: Sequence[str] = (), attention: str | None = "eager"
) -> Any:
    """Load a transformers model of a folder in FP32.

    Its attention is plain products, which every target parses; None: the one that users get.

    Raises:
        ValueError: for weights that the folder lacks, because transformers would make them up;
            those that begin with a name in `spare` are not used.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # it lists the weights of parts that are not asked for
    try:
        model, info = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,
            attn_implementation=attention,
            dtype=torch.float32,
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(before)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith(tuple(spare)))
    if missing:
        raise ValueError(
            f"the weights lack {', '.join(missing[:3])}: they are of another model than "
            "config.json says"
        )
    return model.eval()
