"""Transcripts by an engine: greedy, the whole graph once a token."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.speech.hearing import Hearing

Ids = NDArray[np.int64]


def transcribe(
    engine: Engine, features: NDArray[np.float32], hearing: Hearing, new_tokens: int
) -> list[list[int]]:
    """Return token ids written of features [cases, mels, frames], at most `new_tokens` each.

    Prompt and stop token are left out. The graph has no cache: it hears and reads everything again
    for every token, which a small model can afford.

    Raises:
        BadInput: for logits that are not finite.
    """
    written: list[list[int]] = [[] for _ in features]
    ids = np.tile(np.asarray(hearing.prompt, np.int64), (len(features), 1))
    open_rows = set(range(len(features)))
    for step in range(new_tokens):
        logits = engine.run({"input_features": features, "decoder_input_ids": ids})["logits"][:, -1]
        following = _likeliest(logits, hearing, first=step == 0)
        for row in sorted(open_rows):
            if int(following[row]) in hearing.stops:
                open_rows.discard(row)
            else:
                written[row].append(int(following[row]))
        if not open_rows:
            break
        ids = np.concatenate([ids, following[:, None]], axis=1)
    return written


def forced(hearing: Hearing, transcripts: Sequence[Sequence[int]]) -> tuple[Ids, NDArray[np.bool_]]:
    """Return the prompt and then each transcript, with stop tokens behind.

    Returns:
        Ids, and which of them are real, both [cases, longest].
    """
    rows = [(*hearing.prompt, *ids) for ids in transcripts]
    longest = max(map(len, rows))
    ids = np.full((len(rows), longest), hearing.stops[0] if hearing.stops else 0, np.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row)] = row
    return ids, np.arange(longest)[None, :] < np.array([len(row) for row in rows])[:, None]


def _likeliest(logits: NDArray[np.float32], hearing: Hearing, *, first: bool) -> Ids:
    if not np.isfinite(logits).all():
        raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
    allowed = logits.copy()
    allowed[:, list(hearing.suppressed)] = -np.inf
    if first:
        allowed[:, list(hearing.suppressed_first)] = -np.inf
    return np.asarray(allowed.argmax(axis=1), np.int64)
