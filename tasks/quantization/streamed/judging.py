"""What a derivation costs: both models read the same windows, a layer at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.models.checkpoints.decoder import StreamedDecoder

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """One group of windows."""

    group: str
    windows: int
    perplexity: float  # of full precision
    perplexity_ratio: float  # of the quantized model, over that
    agreement: float  # fraction of tokens after which both find the same next one likeliest


def judge(
    decoder: StreamedDecoder,
    windows: Mapping[str, torch.Tensor],
    exact: Mapping[str, torch.Tensor],
    quantized: Mapping[str, torch.Tensor],
) -> tuple[JudgedGroup, ...]:
    """Compare what both models' last layers left.

    Args:
        decoder: With its last norm and head.
        windows: Token ids by group, [windows, tokens].
        exact: Hidden states of full precision, [windows, tokens, width].
        quantized: Those of the quantized model.
    """
    return tuple(
        _judged(decoder, group, ids, exact[group], quantized[group])
        for group, ids in windows.items()
    )


def _judged(
    decoder: StreamedDecoder,
    group: str,
    ids: torch.Tensor,
    exact: torch.Tensor,
    quantized: torch.Tensor,
) -> JudgedGroup:
    import torch

    lost, same = [0.0, 0.0], 0
    count = ids[:, 1:].numel()
    for window in range(len(ids)):
        answer = ids[window, 1:].to(decoder.device)
        found = []
        for place, hidden in enumerate((exact, quantized)):
            logits = decoder.logits(hidden[window, :-1].to(decoder.device))
            likelihoods = torch.nn.functional.cross_entropy(logits, answer, reduction="sum")
            lost[place] += float(likelihoods)
            found.append(logits.argmax(-1))
        same += int((found[0] == found[1]).sum())
    means = [value / count for value in lost]
    return JudgedGroup(
        group, len(ids), math.exp(means[0]), math.exp(means[1] - means[0]), same / count
    )
