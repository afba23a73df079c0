"""Texts of the same length, read together, with what the layers so far made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.language.inputs import EncodedText, by_length

if TYPE_CHECKING:
    import torch

AT_ONCE = 2048
"""Tokens of the texts of one batch."""


@dataclass(slots=True, eq=False)
class TextBatch:
    """Texts that are read together, all of the same length.

    None is padded: positions of some families depend on how long the longest text is.
    """

    cases: list[int]
    ids: torch.Tensor  # [texts, tokens]
    calls: list[LayerCall]
    hidden: torch.Tensor  # [texts, tokens, width]

    @property
    def tokens(self) -> int:
        """How many tokens each text has."""
        return int(self.ids.shape[1])

    def read(self, decoder: StreamedDecoder, layer: int) -> None:
        """Send the hidden states through a loaded layer."""
        self.hidden.copy_(decoder.run(layer, self.hidden, self.calls[layer]))

    def again(self) -> TextBatch:
        """Return the same texts with hidden states of their own, for another model's layers."""
        return TextBatch(self.cases, self.ids, self.calls, self.hidden.clone())


def begin(decoder: StreamedDecoder, readings: Sequence[EncodedText]) -> list[TextBatch]:
    """Return texts in batches, before the first layer.

    Raises:
        BadInput: A token has no embedding, or a text more tokens than the model positions.
    """
    import torch

    _require_known(readings, decoder)
    made: list[TextBatch] = []
    calls: dict[tuple[int, ...], list[LayerCall]] = {}
    for cases in batches_of(readings):
        ids = torch.tensor([readings[case].ids for case in cases])
        hidden, found = decoder.begin(ids)
        same = calls.setdefault(tuple(ids.shape), found)
        made.append(TextBatch(cases, ids, same, hidden))
    return made


def batches_of(readings: Sequence[EncodedText]) -> list[list[int]]:
    """Return the places of texts of one length, the shortest first, in batches."""
    batches: list[list[int]] = []
    for tokens, same in groupby(by_length(readings), lambda case: len(readings[case].ids)):
        cases, most = list(same), max(AT_ONCE // tokens, 1)
        batches += [cases[first : first + most] for first in range(0, len(cases), most)]
    return batches


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


def by_text(values: torch.Tensor, texts: int, tokens: int) -> torch.Tensor | None:
    """Return what a linear layer reads of a batch as [texts, tokens, width].

    Args:
        values: [texts, tokens, width], or the tokens of all texts below each other.
        texts: In the batch.
        tokens: Of each.

    Returns:
        None where nobody knows which tokens they are: an expert reads some, of several texts.
    """
    width = values.shape[-1]
    if values.numel() == texts * tokens * width:
        return values.reshape(texts, tokens, width)
    return values.reshape(1, -1, width) if texts == 1 else None
