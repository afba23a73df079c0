"""Texts generated on an engine: the prompt in one prefill, then one token a step over the cache."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.batches import BATCH
from tasks.models.decoding.likelihood import read_keeping
from tasks.models.language.inputs import Ids, LanguageInputs, padded, prefill_feeds
from tasks.models.language.layout import LOGITS, CacheLayout


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen; a temperature of 0 takes the likeliest."""

    temperature: float = 0.0
    # the likeliest tokens that together have this share (nucleus sampling, arXiv 1904.09751)
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise `BadInput` for a negative temperature or a fraction outside 0..1."""
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise BadInput(
                f"temperature must be 0 or more and top_p above 0 and at most 1, not {self}"
            )


GREEDY = Sampling()


def answer(
    engine: Engine, inputs: LanguageInputs, prompts: Sequence[str], sampling: Sampling = GREEDY
) -> list[str]:
    """Return what the model says after each prompt, without special tokens.

    Of a longer prompt the last `max_length` tokens are read.
    """
    encoded = inputs.prompts(prompts) if prompts else []
    written = generate(
        engine, inputs.layout, encoded, new_tokens=inputs.new_tokens, sampling=sampling
    )
    return [inputs.decode(ids) for ids in written]


def generate(
    engine: Engine,
    layout: CacheLayout,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    sampling: Sampling = GREEDY,
) -> list[list[int]]:
    """Return new token ids after each prompt, at most `new_tokens`, up to and without a stop token.

    A prompt's tokens depend on it, the sampling and its place, not on what shares its batch.

    Raises:
        BadInput: for an empty prompt and for logits that are not finite.
    """
    if not all(prompts):
        raise BadInput("a prompt has no tokens: there is nothing to continue")
    order = sorted(range(len(prompts)), key=lambda case: (len(prompts[case]), case))
    written: dict[int, list[int]] = {}
    for start in range(0, len(order), BATCH):
        cases = order[start : start + BATCH]
        texts = _batch(
            engine, layout, [prompts[case] for case in cases], cases, new_tokens, sampling
        )
        written.update(zip(cases, texts, strict=True))
    return [written[case] for case in range(len(prompts))]


def _batch(
    engine: Engine,
    layout: CacheLayout,
    prompts: Sequence[Sequence[int]],
    cases: Sequence[int],
    new_tokens: int,
    sampling: Sampling,
) -> list[list[int]]:
    ids, mask = padded(prompts, left=True)
    feeds: Mapping[str, Any] = prefill_feeds(layout, ids, mask)
    lengths = mask.sum(axis=1, keepdims=True)
    dice = [np.random.default_rng((sampling.seed, case)) for case in cases]
    written: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    for step in range(new_tokens):
        outputs = read_keeping(engine, feeds)
        chosen = choose(outputs[LOGITS][:, -1], sampling, dice)
        for row in sorted(open_rows):
            if int(chosen[row]) in layout.stops:
                open_rows.discard(row)
            else:
                written[row].append(int(chosen[row]))
        if not open_rows:
            break
        mask = np.concatenate([mask, np.ones_like(lengths)], axis=1)
        feeds = _next(outputs, layout, chosen[:, None], lengths + step, mask)
    return written


def _next(
    outputs: Mapping[str, Any],
    layout: CacheLayout,
    ids: Ids,
    positions: Ids,
    mask: Ids,
) -> Mapping[str, Any]:
    """Return feeds of one more token [batch, 1] over what the last step cached.

    The mask is [batch, past + 1].
    """
    cache = {f"past.{name}": outputs[f"present.{name}"] for name in layout.names}
    tokens = {
        "input_ids": ids,
        "attention_mask": mask[:, -1:],
        "position_ids": positions,
        "past_mask": mask[:, :-1],
    }
    return {**tokens, **cache}


def choose(
    logits: NDArray[np.float32], sampling: Sampling, dice: Sequence[np.random.Generator]
) -> Ids:
    """Return each row's next token, [rows, vocabulary] -> [rows]; one source of chance a row."""
    if not np.isfinite(logits).all():
        raise BadInput("the logits hold NaN or infinity: the engine is broken, rebuild it")
    if sampling.temperature == 0:
        return np.asarray(logits.argmax(axis=1), np.int64)
    return np.array(
        [_sampled(row, sampling, die) for row, die in zip(logits, dice, strict=True)], np.int64
    )


def _sampled(logits: NDArray[np.float32], sampling: Sampling, die: np.random.Generator) -> int:
    wide = logits.astype(np.float64)
    with np.errstate(over="ignore"):  # next to no temperature leaves the likeliest alone
        scaled = (wide - wide.max()) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    likely = np.exp(scaled[order])
    likely /= likely.sum()
    count = int(np.searchsorted(np.cumsum(likely), sampling.top_p)) + 1
    fractions = likely[:count] / likely[:count].sum()
    return int(
        order[:count][np.searchsorted(np.cumsum(fractions)[:-1], die.random(), side="right")]
    )
