"""Texts of like length, read together, with what the layers so far made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.language.inputs import EncodedText, by_length, padded

if TYPE_CHECKING:
    import torch

AT_ONCE = 2048
"""Tokens of the texts of one batch."""


@dataclass(slots=True, eq=False)
class TextBatch:
    """Texts that are read together, padded behind their end.

    A causal model's tokens see nothing of what is behind them.
    """

    cases: list[int]
    ids: torch.Tensor  # [texts, tokens]
    mask: torch.Tensor  # likewise: which tokens are no padding
    calls: list[LayerCall]
    hidden: torch.Tensor  # [texts, tokens, width]

    def read(self, decoder: StreamedDecoder, layer: int) -> None:
        """Send the hidden states through a loaded layer."""
        self.hidden.copy_(decoder.run(layer, self.hidden, self.calls[layer]))

    def again(self) -> TextBatch:
        """Return the same texts with hidden states of their own, for another model's layers."""
        return TextBatch(self.cases, self.ids, self.mask, self.calls, self.hidden.clone())


def begin(decoder: StreamedDecoder, readings: Sequence[EncodedText]) -> list[TextBatch]:
    """Return texts in batches, before the first layer.

    Raises:
        BadInput: A token has no embedding, or a text more tokens than the model positions.
    """
    import torch

    _require_known(readings, decoder)
    made: list[TextBatch] = []
    calls: dict[tuple[int, ...], list[LayerCall]] = {}
    for cases in _alike(readings):
        rows, real = padded([readings[case].ids for case in cases])
        ids, mask = torch.from_numpy(rows), torch.from_numpy(real.astype(bool))
        hidden, found = decoder.begin(ids)
        same = calls.setdefault(tuple(ids.shape), found)
        made.append(TextBatch(cases, ids, mask.to(decoder.device), same, hidden))
    return made


def _alike(readings: Sequence[EncodedText]) -> list[list[int]]:
    """Return the places of texts of like length, the shortest first, in batches."""
    batches: list[list[int]] = [[]]
    for case in by_length(readings):
        if batches[-1] and len(readings[case].ids) * (len(batches[-1]) + 1) > AT_ONCE:
            batches.append([])
        batches[-1].append(case)
    return [cases for cases in batches if cases]


def _require_known(readings: Sequence[EncodedText], decoder: StreamedDecoder) -> None:
    largest = max((max(item.ids) for item in readings), default=0)
    if largest >= decoder.words:
        raise BadInput(
            f"a text holds the token {largest}, and the model has embeddings for {decoder.words}: "
            "the tokenizer is another model's"
        )
    longest = max((len(item.ids) for item in readings), default=0)
    if decoder.positions is not None and longest > decoder.positions:
        raise BadInput(
            f"a text has {longest} tokens, and the model {decoder.positions} positions: lower "
            "input.max_length"
        )
