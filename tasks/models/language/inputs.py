"""From texts to the feeds of a cached decoder, and back."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from infra.engines.port import Arrays, Profile, Shapes
from infra.errors import BadInput
from tasks.models.batches import BATCH, Batch
from tasks.models.language.layout import LOGITS, CacheLayout
from tasks.records import Payload

Ids = NDArray[np.int64]
LARGEST_BATCH, COMMON_BATCH = 64, 8


class LanguageInputs:
    """Texts read at once, with nothing cached; the logits of every token come back."""

    output = LOGITS

    def __init__(
        self, tokenizer: bytes, layout: CacheLayout, *, max_length: int, new_tokens: int
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as exc:  # the library raises bare Exception
            raise BadInput(f"input.tokenizer is not a tokenizers JSON file: {exc}") from exc
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.layout, self.max_length, self.new_tokens = layout, max_length, new_tokens

    @property
    def profile(self) -> tuple[Profile, Profile]:
        """Return the shapes of prefill and decode.

        Prefill is of up to `max_length` tokens after none, decode of one token after up to all the
        others.
        """
        longest, common = self.max_length, min(64, self.max_length)
        total = longest + self.new_tokens
        prefill = self._profile((1, common, longest), (0, 0, 0))
        return prefill, self._profile((1, 1, 1), (1, min(common, total - 1), total - 1))

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield texts of like length in one batch; longer ones are cut at `max_length` tokens."""
        if not all(isinstance(payload, str) for payload in payloads):
            raise BadInput(
                "a language model was given a tensor; look at the traffic's `text` column"
            )
        encoded = [ids[: self.max_length] for ids in self.encode([str(item) for item in payloads])]
        order = sorted(range(len(encoded)), key=lambda case: (len(encoded[case]), case))
        for start in range(0, len(order), BATCH):
            cases = order[start : start + BATCH]
            ids, mask = padded([encoded[case] for case in cases])
            yield Batch(prefill_feeds(self.layout, ids, mask), np.asarray(cases), mask.astype(bool))

    @property
    def first(self) -> int | None:
        """Return the token before every text.

        It is the tokenizer's own, else the model's stop token, else None.
        """
        before = self._tokenizer.encode("").ids
        return before[0] if before else next(iter(self.layout.stops), None)

    def encode(self, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
        """Return token ids of each text, with the tokenizer's own around them or without.

        Raises:
            BadInput: for a text that has no token.
        """
        try:
            encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=special)
            encodings = [encoding.ids for encoding in encoded]
        # the library raises bare Exception; a lone surrogate, UnicodeEncodeError or TypeError
        except Exception as exc:
            raise BadInput(
                f"the tokenizer could not read a text ({exc}); look at the traffic's `text` column"
            ) from exc
        if not all(encodings):
            raise BadInput(
                "the tokenizer makes nothing of a text: a language model needs at least one token"
            )
        return encodings

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, with special tokens or without."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=not special))

    def _profile(self, tokens: tuple[int, int, int], past: tuple[int, int, int]) -> Profile:
        sizes = (1, COMMON_BATCH, LARGEST_BATCH)
        new = Shapes(*((batch, length) for batch, length in zip(sizes, tokens, strict=True)))
        old = Shapes(*((batch, length) for batch, length in zip(sizes, past, strict=True)))
        shapes = {"input_ids": new, "attention_mask": new, "position_ids": new, "past_mask": old}
        for layer, (heads, width) in enumerate(self.layout.layers):
            cache = Shapes(
                *((batch, heads, length, width) for batch, length in zip(sizes, past, strict=True))
            )
            shapes |= {f"past.{layer}.key": cache, f"past.{layer}.value": cache}
        return shapes


def padded(rows: Sequence[Sequence[int]], *, left: bool = False) -> tuple[Ids, Ids]:
    """Return ids and mask [rows, longest], with zeros after each row, or before it."""
    longest = max(len(row) for row in rows)
    ids, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for number, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


def prefill_feeds(layout: CacheLayout, ids: Ids, mask: Ids) -> Arrays:
    """Return feeds of whole texts: ids and mask [batch, tokens], nothing cached."""
    cache = {
        f"past.{layer}.{part}": np.zeros((len(ids), heads, 0, width), np.float32)
        for layer, (heads, width) in enumerate(layout.layers)
        for part in ("key", "value")
    }
    positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
    past_mask = np.zeros((len(ids), 0), np.int64)
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_mask": past_mask,
        **cache,
    }
