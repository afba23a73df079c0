"""Continuous batching: texts join and leave between two steps of one decode over a shared cache.

After Yu et al., "Orca: a distributed serving system for transformer-based generative models" (OSDI
2022): scheduling by the step, not by the request. A text's cache is padded before its first token,
which its mask hides, so that every text's newest token stands at the end.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.errors import BadInput
from tasks.models.decoding.generation import Sampling, choose
from tasks.models.language.inputs import Ids, padded, prefill_feeds
from tasks.models.language.layout import LOGITS, CacheLayout


@dataclass(slots=True, eq=False)
class DecodedText:
    """One text that is being written."""

    sampling: Sampling
    die: np.random.Generator
    length: int  # tokens that the model has read
    last: int  # the newest token, which it reads next


class DecodeGroup:
    """Texts that an engine writes together, a token each at every step."""

    def __init__(self, engine: Engine, layout: CacheLayout) -> None:
        self._engine, self._layout = engine, layout
        self._texts: list[DecodedText] = []
        self._cache: dict[str, NDArray[np.float32]] = {}  # name -> [texts, heads, past, width]
        self._mask: Ids = np.zeros((0, 0), np.int64)  # [texts, past]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self._texts)

    def join(self, prompt: Sequence[int], sampling: Sampling) -> DecodedText:
        """Read a prompt, and write its first token, which is the text's `last`.

        Raises:
            BadInput: for an empty prompt, and for logits that are not finite.
        """
        if not prompt:
            raise BadInput("a prompt has no tokens: there is nothing to continue")
        ids, mask = padded([prompt])
        outputs = self._engine.run(prefill_feeds(self._layout, ids, mask))
        die = np.random.default_rng((sampling.seed, 0))
        first = int(choose(outputs[LOGITS][:, -1], sampling, [die])[0])
        text = DecodedText(sampling, die, len(prompt), first)
        self._add({name: outputs[f"present.{name}"] for name in self._layout.names}, mask)
        self._texts.append(text)
        return text

    def step(self) -> Sequence[DecodedText]:
        """Write one more token of every text; each is its text's `last`.

        Raises:
            BadInput: for logits that are not finite.
        """
        if not self._texts:
            return ()
        ones = np.ones((len(self._texts), 1), np.int64)
        outputs = self._engine.run(
            {
                "input_ids": np.array([[text.last] for text in self._texts], np.int64),
                "attention_mask": ones,
                "position_ids": np.array([[text.length] for text in self._texts], np.int64),
                "past_mask": self._mask,
                **{f"past.{name}": values for name, values in self._cache.items()},
            }
        )
        logits = outputs[LOGITS][:, -1]
        chosen = [
            int(choose(row[None], text.sampling, [text.die])[0])
            for row, text in zip(logits, self._texts, strict=True)
        ]
        for text, token in zip(self._texts, chosen, strict=True):
            text.last, text.length = token, text.length + 1
        self._cache = {name: outputs[f"present.{name}"] for name in self._layout.names}
        self._mask = np.concatenate([self._mask, ones], axis=1)
        return tuple(self._texts)

    def leave(self, ended: Collection[DecodedText]) -> None:
        """Forget texts that are written, and the padding that they alone needed."""
        rows = [row for row, text in enumerate(self._texts) if text not in ended]
        if len(rows) == len(self._texts):
            return
        self._texts = [self._texts[row] for row in rows]
        self._mask = self._mask[rows]
        needed = np.flatnonzero(self._mask.any(axis=0))
        start = int(needed[0]) if len(needed) else self._mask.shape[1]
        self._mask = self._mask[:, start:]
        self._cache = {name: values[rows, :, start:] for name, values in self._cache.items()}

    def _add(self, cache: dict[str, NDArray[np.float32]], mask: Ids) -> None:
        if not self._texts:
            self._cache, self._mask = cache, mask
            return
        past = max(mask.shape[1], self._mask.shape[1])
        self._mask = np.concatenate([_longer(self._mask, past), _longer(mask, past)])
        self._cache = {
            name: np.concatenate([_longer(values, past), _longer(cache[name], past)])
            for name, values in self._cache.items()
        }


def _longer(values: NDArray[np.generic], past: int) -> NDArray[np.generic]:
    """Pad the cached tokens at the front: [texts, past] or [texts, heads, past, width]."""
    axis = 1 if values.ndim == 2 else 2
    missing = past - values.shape[axis]
    if not missing:
        return values
    widths = [(missing, 0) if place == axis else (0, 0) for place in range(values.ndim)]
    return np.pad(values, widths)
