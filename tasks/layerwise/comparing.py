"""A quantized checkpoint beside its original on the same texts, one decoder layer at a time.

Both sides' hidden states travel along, so that memory holds one layer, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import Tampered
from infra.processes.memory import return_freed
from infra.processes.telling import tell
from tasks.layerwise.batches import TextBatch, begin
from tasks.layerwise.needs import require_room
from tasks.layerwise.quantized import QuantizedCheckpoint
from tasks.layerwise.rounding import as_served
from tasks.layerwise.scoring import scores_of_text
from tasks.layerwise.watching import RangeWatch
from tasks.models.catalog import RegisteredModel
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import StreamedDecoder, device_here
from tasks.models.decoding.comparison import Comparison, comparison_of
from tasks.models.inputs import language_inputs
from tasks.models.language.inputs import EncodedText
from tasks.records import Payload


@dataclass(frozen=True, slots=True, eq=False)
class ComparedTexts:
    """What both checkpoints made of texts."""

    scores: Comparison
    watched: RangeWatch  # of the quantized one


def compare_payloads(
    model: RegisteredModel, served: CarriedCheckpoint, payloads: Sequence[Payload]
) -> ComparedTexts:
    """Read texts with full precision and what was made of it, each token given the true ones.

    Args:
        model: The registered model.
        served: Its quantized checkpoint; what is outside of its decoder layers is the original's.
        payloads: The texts.

    Raises:
        BadInput: Tokens that the model does not know, or logits that are not finite.
        Tampered: The embeddings, last norm or head are not the original's.
        Unavailable: Memory is too short.
    """
    decoder = StreamedDecoder(model.checkpoint, device_here())
    quantized = QuantizedCheckpoint(served, decoder)
    _require_same_outside(decoder, model.checkpoint, served)
    readings = language_inputs(model.inputs).read([str(payload) for payload in payloads])
    require_room(decoder, readings, quantized=quantized.is_quantized, judged=True)
    watched = RangeWatch(len(readings))
    exact = begin(decoder, readings)
    made = [batch.again() for batch in exact] if quantized.is_quantized else exact
    for layer in range(decoder.layers):
        tell(f"reading {len(readings)} texts: decoder layer {layer + 1} of {decoder.layers}")
        with decoder.loaded(layer, decoder.original(layer)):
            for batch in exact:
                batch.read(decoder, layer)
        if quantized.is_quantized:
            _read_quantized(decoder, layer, quantized, made, watched)
        return_freed()
    return ComparedTexts(_scored(decoder, exact, made, readings), watched)


def _read_quantized(
    decoder: StreamedDecoder,
    layer: int,
    quantized: QuantizedCheckpoint,
    batches: Sequence[TextBatch],
    watched: RangeWatch,
) -> None:
    prefix = decoder.prefix(layer)
    made = quantized.layer(layer)
    with (
        decoder.loaded(layer, made.parameters()) as module,
        watched.watching(module, prefix, made),
        as_served(module, made),
    ):
        for batch in batches:
            watched.reading(batch.cases, batch.hidden.shape[1], batch.lengths)
            batch.read(decoder, layer)


def _scored(
    decoder: StreamedDecoder,
    exact: Sequence[TextBatch],
    made: Sequence[TextBatch],
    readings: Sequence[EncodedText],
) -> Comparison:
    scores = np.zeros((5, len(readings)))
    for before, after in zip(exact, made, strict=True):
        for row, case in enumerate(before.cases):
            scores[:, [case]] = _scored_text(decoder, before, after, row, readings[case].counted)
    return comparison_of(scores)


def _scored_text(
    decoder: StreamedDecoder,
    before: TextBatch,
    after: TextBatch,
    row: int,
    counted: list[bool] | None,
) -> NDArray[np.float64]:
    """Return the scores of one text, [scores, 1]; its logits are let go before another's."""
    place = slice(row, row + 1), slice(0, before.lengths[row])
    expected = decoder.logits(before.hidden[place])
    served = expected if after is before else decoder.logits(after.hidden[place])
    return scores_of_text(before.ids[place], expected, served, counted)


def _require_same_outside(
    decoder: StreamedDecoder, original: CarriedCheckpoint, served: CarriedCheckpoint
) -> None:
    other = [name for name in decoder.outside if not original.shares(served, name)]
    if other:
        raise Tampered(
            f"{', '.join(other[:3])} of the quantized checkpoint are not the original's, so it was "
            "not judged: build the candidate again"
        )
