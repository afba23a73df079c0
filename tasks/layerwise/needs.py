"""What reading texts layer by layer will need, before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from infra.processes.memory import require_memory
from tasks.layerwise.batches import WASTED, batches_of
from tasks.metrics.next_token import TOKENS_AT_ONCE
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.language.inputs import EncodedText

WIDE = 4
"""Bytes of a number while it is watched, dequantized or scored."""
_WATCHED, _SCORED = 7, 6
"""Arrays of what a site reads while it is watched and rounded, and of some tokens' logits."""


def needed_memory(
    decoder: StreamedDecoder, readings: Sequence[EncodedText], *, quantized: bool, judged: bool
) -> int:
    """Estimate how much more a process will hold at its peak that reads texts, in bytes.

    Pages of the weights' files that it reads are among them.

    Args:
        decoder: With what is outside of layers.
        readings: The texts.
        quantized: Whether a quantized checkpoint reads them, too.
        judged: Whether logits are compared.
    """
    from torch import nn

    item, stored, config = decoder.dtype.itemsize, decoder.stored_item, decoder.model.config
    width = int(config.hidden_size)
    modules = [decoder.module(layer) for layer in range(decoder.layers)]
    layer = max(sum(value.numel() for value in module.parameters()) for module in modules)
    parts = (part for module in modules for part in module.modules())
    widest = max([width, *(part.in_features for part in parts if isinstance(part, nn.Linear))])
    counts = [len(reading.ids) for reading in readings]
    at_once = max(len(cases) * counts[cases[-1]] for cases in batches_of(readings, padded=True))
    sides = 2 if quantized else 1
    hidden = int(sides * sum(counts) * (1 + WASTED) * width * item)
    call = at_once * ((4 * width + 4 * widest) * item + _WATCHED * widest * WIDE)
    exact = layer * (stored + (item if item != stored else 0))
    made = layer * (1 + WIDE + (item if item != WIDE else 0)) if quantized else 0
    mapped = item == stored  # else what is outside of layers was copied when the model was opened
    embedding = decoder.words * width * item if mapped else 0
    reading = hidden + max(exact, made) + call + embedding
    if not judged:
        return reading
    words = max(decoder.words, int(config.vocab_size))
    logits = max(counts) * words * (sides * WIDE + (item if item != WIDE else 0))
    scoring = TOKENS_AT_ONCE * words * WIDE * _SCORED
    return max(reading, hidden + (decoder.outside_size if mapped else 0) + logits + scoring)


def require_room(
    decoder: StreamedDecoder,
    readings: Sequence[EncodedText],
    *,
    quantized: bool = False,
    judged: bool = False,
) -> None:
    """Refuse texts that memory is too short to read; a device has its own.

    Raises:
        Unavailable: It gives both figures and what to do.
    """
    if decoder.device.type != "cpu" or not readings:
        return
    needed = needed_memory(decoder, readings, quantized=quantized, judged=judged)
    require_memory(
        needed,
        f"reading {len(readings)} texts layer by layer",
        "free some, or lower input.max_length or window.sample",
    )
