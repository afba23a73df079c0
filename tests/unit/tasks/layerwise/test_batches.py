"""Texts of several lengths that are read together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.layerwise.batches import begin
from tasks.layerwise.quantized import QuantizedLayer
from tasks.layerwise.request_amax import _figures
from tasks.layerwise.stored_layer import StoredLayer
from tasks.layerwise.watching import RangeWatch
from tasks.models.checkpoints.decoder import StreamedDecoder
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.models.language.inputs import EncodedText
from tests.random_families import SHAPE, WORDS, write_family

LENGTHS = (9, 10, 10, 11, 3, 30)
LONG = {
    "rope_type": "longrope",
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
    "rope_theta": 1e4,
    "original_max_position_embeddings": 8,
}


def texts() -> list[EncodedText]:
    rng = np.random.default_rng(0)
    return [EncodedText(rng.integers(1, WORDS, length).tolist()) for length in LENGTHS]


@pytest.mark.parametrize(
    ("family", "more", "lengths"),
    [
        ("Llama", {}, [[3], [9, 10, 10, 11], [30]]),
        (
            "Phi3",
            {"original_max_position_embeddings": 8, "rope_parameters": LONG},
            [[3], [9], [10, 10], [11], [30]],
        ),
    ],
)
def test_lengths_are_mixed_where_padding_reaches_no_text(
    tmp_path: Path, family: str, more: dict[str, object], lengths: list[list[int]]
) -> None:
    """Phi 3's positions depend on the longest text, so that each length is read by itself."""
    decoder = StreamedDecoder(StoredCheckpoint(write_family(tmp_path, family, {**SHAPE, **more})))
    batches = begin(decoder, texts())
    assert [batch.lengths for batch in batches] == lengths
    assert sorted(case for batch in batches for case in batch.cases) == [0, 1, 2, 3, 4, 5]


def test_what_stands_behind_a_text_counts_nowhere() -> None:
    values = torch.full((2, 3, 4), 100.0)
    values[0, :1], values[1, :] = 1.0, 2.0
    amax, rms = _figures(values, [1, 3])
    assert amax.tolist() == rms.tolist() == [1.0, 2.0]
    layer = torch.nn.Linear(4, 4)
    stored = StoredLayer(torch.zeros(4, 4, dtype=torch.int8), torch.ones(4, 1), 8, None, 1.5 / 127)
    watched = RangeWatch(2)
    watched.reading([1, 0], 3, [1, 3])
    with watched.watching(
        torch.nn.ModuleDict({"a": layer}), "m.", QuantizedLayer({}, {"a": stored})
    ):
        layer(values)
    assert watched.clipping.fraction.tolist() == [[1.0], [0.0]]
    assert watched.clipping.amax.tolist() == [[2.0], [1.0]]
    assert sum(watched.histograms["m.a"].counts) == 4 + 12
