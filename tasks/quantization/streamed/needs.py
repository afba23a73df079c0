"""What a derivation will need, before it begins."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import Unavailable
from infra.processes.memory import require_memory
from tasks.layerwise.linear_sites import linear_sites
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.quantization.streamed.observing import ROWS
from tasks.quantization.streamed.scheme import LayerScheme

if TYPE_CHECKING:
    import torch
    from torch import nn

WIDE = 4
"""Bytes of a number while it is rounded."""
_ROUNDED = 5
"""Arrays of a site's weight, of four bytes a number, that are held while it is rounded."""
_FACTORED, _COMPENSATED = 5, 3
"""Arrays of a site's Gram matrix and of its weight that are held while GPTQ rounds it."""


def needed_memory(
    decoder: StreamedDecoder,
    scheme: LayerScheme,
    calibration: torch.Tensor | None,
    judged: Mapping[str, torch.Tensor],
    at_once: int,
) -> int:
    """Estimate how much more a process will hold at its peak that derives on the CPU, in bytes.

    Pages of the checkpoint's files that it reads are among them.

    Args:
        decoder: With what is outside of layers.
        scheme: How layers are quantized.
        calibration: Token ids, [windows, tokens].
        judged: Token ids by group.
        at_once: Tokens that a layer reads in one call.
    """
    item, config = decoder.dtype.itemsize, decoder.model.config
    module = max(map(decoder.module, range(decoder.layers)), key=_numbers)
    layer = _numbers(module)
    sites = linear_sites(module)
    shapes = {name: value.shape for name, value in module.named_parameters()}
    sizes = [sum(shapes[f"{name}.weight"].numel() for name in site.readers) for site in sites]
    inputs = [shapes[f"{site.readers[0]}.weight"][1] for site in sites]
    width, widest = int(config.hidden_size), max(inputs)
    seen = 0 if calibration is None else calibration.numel()
    read = sum(ids.numel() for ids in judged.values())
    hidden = (seen + 2 * read) * width * item
    tokens = min(at_once, max(seen, read)) or 0
    call = tokens * (4 * width + 4 * widest) * item + tokens * widest * WIDE
    grams = sum(WIDE * count**2 for count in inputs) if scheme.compensates else 0
    kept = [count for site, count in zip(sites, inputs, strict=True) if not site.routed]
    rows = sum(kept) * ROWS * WIDE if scheme.folds else 0
    reading = layer * (decoder.stored_item + (item if item != decoder.stored_item else 0)) + call
    of_site = [_ROUNDED * size for size in sizes]
    if scheme.compensates:
        of_site += [
            _FACTORED * count**2 + _COMPENSATED * size
            for count, size in zip(inputs, sizes, strict=True)
        ]
    rounding = layer * (decoder.stored_item + WIDE) + max(of_site) * WIDE
    using = layer * (1 + WIDE + (item if item != WIDE else 0)) + call
    longest = max((ids.shape[1] for ids in judged.values()), default=0)
    judging = longest * int(config.vocab_size) * (2 * item + 3 * WIDE)
    embedding = decoder.words * width * item if seen or read else 0
    working = embedding + hidden + max(grams + rows + max(reading, rounding), using)
    ending = decoder.outside_size + hidden + judging  # the head is read, and both are written
    return max(working, ending)


def _numbers(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def require_room(
    decoder: StreamedDecoder, scheme: LayerScheme, output: Path, checkpoint: int, needed: int | None
) -> None:
    """Refuse a derivation that memory or disk are too short for.

    Args:
        decoder: With what is outside of layers.
        scheme: How layers are quantized.
        output: The folder that is written.
        checkpoint: Bytes of what is read.
        needed: Further bytes of memory; None where a device holds the layers.

    Raises:
        Unavailable: It gives both figures and what to do.
    """
    if needed is not None:
        require_memory(needed, "quantizing it", "free some, or ask for fewer windows")
    linear = max(checkpoint - decoder.outside_size, 0) / decoder.stored_item
    size = linear * scheme.bits / 8 * 1.2 + decoder.outside_size
    written = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    free = shutil.disk_usage(output).free
    if math.ceil(size) - written > free:
        raise Unavailable(
            f"{output} needs about {(size - written) / 1e9:.1f} GB more, and its disk has "
            f"{free / 1e9:.1f} GB: free some, or name a folder on another disk"
        )
