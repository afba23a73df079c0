"""Models that decide for guards whether a text is blocked, as their golden sets count it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

from flows.gateway.guards import Judge
from infra.engines.port import Engine
from infra.errors import BadInput
from infra.gateway.release import ServedRelease
from tasks.metrics.embeddings import safety_decisions
from tasks.metrics.generated_text import blocks
from tasks.models.catalog import RegisteredModel
from tasks.models.decoding.generation import generate
from tasks.models.inputs import Inputs, run_all
from tasks.models.language.inputs import LanguageInputs
from tasks.transcripts import read_transcript

VERDICT_TOKENS = 16
"""That a language model may write: its first word decides."""
MOST_PARTS = 256
"""Of a text that is longer than a model reads at once; a longer one does not pass."""
FOLLOW_S = 1.0
"""Seconds between two questions for another model's champion."""


def model_judge(registered: RegisteredModel, engine: Engine, prompt: str) -> Judge:
    """Return the safety decisions of one engine of a model; of a conversation, of what was said.

    A language model is asked in the prompt's words; of other models the safety head decides.
    """
    inputs, golden, longest = registered.inputs, registered.golden, registered.spec.input.max_length

    def asks(text: str) -> bool:
        return _written_verdict(engine, cast(LanguageInputs, inputs), prompt, _said(text))

    def embeds(text: str) -> bool:
        if golden.safety_weight is None:
            raise BadInput(f"{registered.name} has no safety head any more")
        rows = run_all(engine, inputs, _parts(inputs, longest, _said(text)))
        return bool(safety_decisions(rows, golden.safety_weight, golden.safety_bias).any())

    return asks if isinstance(inputs, LanguageInputs) else embeds


class FollowedJudge:
    """The safety decisions of another model's champion, whichever that is."""

    def __init__(
        self,
        opened: Callable[[ServedRelease | None], tuple[RegisteredModel, ServedRelease]],
        prompt: str,
    ) -> None:
        """Decide nothing yet.

        Args:
            opened: From what decided last to the model and the release that decides now.
            prompt: What a language model is asked.
        """
        self._opened, self._prompt = opened, prompt
        self._release: ServedRelease | None = None  # held, so that it stays open
        self._judge: Judge | None = None
        self._until = 0.0  # of the monotonic clock
        self._lock = threading.Lock()

    def __call__(self, text: str) -> bool:
        """Return whether a text is blocked; raises what keeps the model from being opened."""
        return self._current()(text)

    def _current(self) -> Judge:
        with self._lock:
            if self._judge is None or time.monotonic() > self._until:
                registered, release = self._opened(self._release)
                if self._judge is None or release is not self._release:
                    self._release = release
                    self._judge = model_judge(registered, release.engine, self._prompt)
                self._until = time.monotonic() + FOLLOW_S
            return self._judge


def _written_verdict(engine: Engine, inputs: LanguageInputs, prompt: str, text: str) -> bool:
    (ids,) = inputs.whole_prompts([prompt.replace("{text}", text)])
    if len(ids) > inputs.max_length:  # a verdict on its end alone is none
        raise BadInput(f"{len(ids)} tokens are to be judged: {inputs.max_length} can be")
    (written,) = generate(
        engine, inputs.layout, [ids], new_tokens=min(VERDICT_TOKENS, inputs.new_tokens)
    )
    return blocks(inputs.decode(written))


def _said(text: str) -> str:
    """Return what was said in a conversation, without who said it; any other text as it is."""
    turns = read_transcript(text)
    return text if turns is None else "\n".join(turn.text for turn in turns if turn.text)


def _parts(inputs: Inputs, longest: int, text: str) -> list[str]:
    """Return a text; of one that is cut at the longest, parts that overlap by half."""
    masks = [batch.mask for batch in inputs.batches([text])]
    if sum(int(mask.sum()) for mask in masks if mask is not None) < longest:
        return [text]
    step = max(1, longest // 2)  # characters: few parts have more tokens than are read
    starts = range(0, max(1, len(text) - step), step)
    if len(starts) > MOST_PARTS:
        raise BadInput(f"{len(text)} characters are to be judged: {MOST_PARTS * step} can be")
    return [text[start : start + 2 * step] for start in starts]
