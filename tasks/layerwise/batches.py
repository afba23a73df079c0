"""Texts that are read together, with what the layers so far made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.language.inputs import EncodedText, by_length

if TYPE_CHECKING:
    import torch

AT_ONCE = 2048
"""Tokens of the texts of one batch."""


WASTED = 0.15
"""Of a batch's tokens, what padding may be."""
SAME = {4: 1e-5, 2: 1e-2}
"""What padding behind a text may change of its hidden states, by the bytes of a number: in which
order products are added up hangs on the length."""


@dataclass(slots=True, eq=False)
class TextBatch:
    """Texts that are read together; behind a shorter one stand tokens that count for nothing."""

    cases: list[int]
    lengths: list[int]  # tokens of each text
    ids: torch.Tensor  # [texts, tokens]
    calls: list[LayerCall]
    hidden: torch.Tensor  # [texts, tokens, width]

    def read(self, decoder: StreamedDecoder, layer: int) -> None:
        """Send the hidden states through a loaded layer."""
        self.hidden.copy_(decoder.run(layer, self.hidden, self.calls[layer]))

    def again(self) -> TextBatch:
        """Return the same texts with hidden states of their own, for another model's layers."""
        return TextBatch(self.cases, self.lengths, self.ids, self.calls, self.hidden.clone())


def begin(decoder: StreamedDecoder, readings: Sequence[EncodedText]) -> list[TextBatch]:
    """Return texts in batches, before the first layer.

    Raises:
        BadInput: A token has no embedding, or a text more tokens than the model positions.
    """
    _require_known(readings, decoder)
    made: list[TextBatch] = []
    calls: dict[tuple[int, ...], list[LayerCall]] = {}
    for cases in batches_of(readings, padded=_reads_padded(decoder, readings)):
        lengths = [len(readings[case].ids) for case in cases]
        ids = _padded([readings[case] for case in cases], max(lengths))
        hidden, found = decoder.begin(ids)
        same = calls.setdefault(tuple(ids.shape), found)
        made.append(TextBatch(cases, lengths, ids, same, hidden))
    return made


def batches_of(readings: Sequence[EncodedText], *, padded: bool) -> list[list[int]]:
    """Return the places of texts in batches, the shortest first.

    Args:
        readings: The texts.
        padded: Whether texts of several lengths may be together.
    """
    batches: list[list[int]] = []
    tokens = 0  # of the last batch, without padding
    for case in by_length(readings):
        length = len(readings[case].ids)
        filled = (len(batches[-1]) + 1) * length if batches else 0
        most = (tokens + length) * (1 + WASTED if padded else 1)
        if not batches or filled > most or filled > AT_ONCE:
            batches.append([])
            tokens = 0
        batches[-1].append(case)
        tokens += length
    return batches


def _padded(readings: Sequence[EncodedText], tokens: int) -> torch.Tensor:
    """Return token ids [texts, tokens], zeros behind what is shorter."""
    import torch

    return torch.tensor([[*item.ids, *[0] * (tokens - len(item.ids))] for item in readings])


def _reads_padded(decoder: StreamedDecoder, readings: Sequence[EncodedText]) -> bool:
    """Return whether what stands behind a text changes nothing of it, as one layer a kind shows.

    Not so where positions depend on how long the longest text is. The shortest text is read by
    itself, and padded to the longest.
    """
    ordered = by_length(readings)
    if not ordered:
        return False
    short, length = readings[ordered[0]], len(readings[ordered[0]].ids)
    longest = len(readings[ordered[-1]].ids)
    if longest == length:
        return False
    alone, calls = decoder.begin(_padded([short], length))
    padded, others = decoder.begin(_padded([short], longest))
    for layer in decoder.kinds():
        with decoder.loaded(layer, decoder.original(layer)):
            exact = decoder.run(layer, alone, calls[layer])
            found = decoder.run(layer, padded, others[layer])[:, :length]
        lost = (found - exact).float().norm() / exact.float().norm().clamp(min=1e-30)
        if not float(lost) < SAME[decoder.dtype.itemsize]:
            return False
    return True


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


def counted_tokens(lengths: Sequence[int], values: torch.Tensor) -> torch.Tensor:
    """Return which tokens of values [texts, tokens, width] are no padding, [texts, tokens, 1]."""
    import torch

    tokens = torch.arange(values.shape[1], device=values.device)
    return (tokens < torch.tensor(lengths, device=values.device)[:, None])[:, :, None]


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
