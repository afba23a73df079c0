"""From texts to the feeds of a cached decoder, and back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from tokenizers import Encoding

from infra.engines.port import Arrays, Profile, Shapes
from infra.errors import BadInput
from tasks.models.batches import BATCH, Batch
from tasks.models.language.chat_template import ChatTemplate, RenderedChat
from tasks.models.language.layout import LOGITS, CacheLayout
from tasks.models.language.tokens import encodings, open_tokenizer
from tasks.records import Payload
from tasks.transcripts import Turn, read_transcript, write_transcript

Ids = NDArray[np.int64]
LARGEST_BATCH, COMMON_BATCH = 64, 8
LOGITS_AT_ONCE = 1 << 27
"""Bytes of the logits of one batch of whole texts, where one text has not more."""


@dataclass(frozen=True, slots=True)
class EncodedText:
    """One text as the model reads it."""

    ids: list[int]
    counted: list[bool] | None = None  # where a prediction counts; None: everywhere


class LanguageInputs:
    """Texts read at once, with nothing cached; the logits of every token come back.

    Conversations (`tasks.transcripts`) are written by the model's chat template, where it has one.
    """

    output = LOGITS

    def __init__(
        self,
        tokenizer: bytes,
        layout: CacheLayout,
        *,
        max_length: int,
        new_tokens: int,
        template: ChatTemplate | None = None,
    ) -> None:
        self._tokenizer = open_tokenizer(tokenizer)
        self.layout, self.max_length, self.new_tokens = layout, max_length, new_tokens
        self.template = template

    @property
    def vocabulary(self) -> int:
        """Return how many tokens an ordinary text can become.

        Added ones, such as a padding token, may lie beyond what a model embeds: no text has them.
        """
        return int(self._tokenizer.get_vocab_size(with_added_tokens=False))

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
        """Yield texts of like length in one batch; longer ones are cut as `read` says."""
        if not all(isinstance(payload, str) for payload in payloads):
            raise BadInput(
                "a language model was given a tensor; look at the traffic's `text` column"
            )
        readings = self.read([str(item) for item in payloads])
        for cases in _alike(readings, self.vocabulary):
            yield self._batch(readings, cases)

    def together(self, texts: Sequence[str]) -> Arrays:
        """Return the feeds of some texts in their order, however large their logits are."""
        return self._batch(self.read(texts), range(len(texts))).feeds

    def _batch(self, readings: Sequence[EncodedText], cases: Sequence[int]) -> Batch:
        chosen = [readings[case] for case in cases]
        ids, mask = padded([reading.ids for reading in chosen])
        counted = counted_tokens(chosen, len(ids[0]))
        feeds = prefill_feeds(self.layout, ids, mask)
        return Batch(feeds, np.asarray(cases), mask.astype(bool), counted=counted)

    def read(self, texts: Sequence[str]) -> list[EncodedText]:
        """Return what the model reads of each text, at most `max_length` tokens.

        Of a longer text the first are read, of a longer conversation the last. Of a conversation
        the reply's tokens count; where that is to come, what was said, and the reply's first token.

        Raises:
            BadInput: for a text that has no token, and for a conversation that the chat template
                refuses.
        """
        chats = [self._chat(text) for text in texts]
        plain = [text for text, chat in zip(texts, chats, strict=True) if chat is None]
        encoded = iter(self.encode(plain) if plain else [])
        return [
            EncodedText(next(encoded)[: self.max_length])
            if chat is None
            else self._conversation(chat)
            for chat in chats
        ]

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids after which the model writes, at most the last `max_length`."""
        return [ids[-self.max_length :] for ids in self.whole_prompts(texts)]

    def whole_prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids after which the model would write, however many they are."""
        chats = [self._chat(text) for text in texts]
        plain = [text for text, chat in zip(texts, chats, strict=True) if chat is None]
        encoded = iter(self.encode(plain) if plain else [])
        return [
            next(encoded)
            if chat is None
            else list(self._encodings([chat.text], special=False)[0].ids)
            for chat in chats
        ]

    def answered(self, text: str, answer: str) -> str:
        """Return a conversation with its reply; any other text as it is."""
        turns = read_transcript(text) if self.template is not None else None
        if turns is None or turns[-1].text or not answer:
            return text
        return write_transcript([*turns[:-1], Turn("assistant", answer)])

    def _chat(self, text: str) -> RenderedChat | None:
        turns = read_transcript(text) if self.template is not None else None
        return None if turns is None or self.template is None else self.template.render(turns)

    def _conversation(self, chat: RenderedChat) -> EncodedText:
        """Read a conversation; the template has written the special tokens already."""
        [encoding] = self._encodings([chat.text], special=False)
        said = [
            any(start < last and end > first for first, last in chat.said)
            for start, end in encoding.offsets
        ]
        # A token is predicted after the one before it.
        counted = [*said[1:], chat.reply_to_come]
        return EncodedText(encoding.ids[-self.max_length :], counted[-self.max_length :])

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
        return [encoding.ids for encoding in self._encodings(texts, special=special)]

    def _encodings(self, texts: Sequence[str], *, special: bool) -> list[Encoding]:
        return encodings(self._tokenizer, texts, special=special)

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


def _alike(readings: Sequence[EncodedText], vocabulary: int) -> Iterator[list[int]]:
    """Yield the places of texts of like length, the shortest first, in batches."""
    cases: list[int] = []
    for place in by_length(readings):
        logits = 4 * vocabulary * len(readings[place].ids) * (len(cases) + 1)
        if cases and (len(cases) == BATCH or logits > LOGITS_AT_ONCE):
            yield cases
            cases = []
        cases.append(place)
    if cases:
        yield cases


def by_length(readings: Sequence[EncodedText]) -> list[int]:
    """Return the readings' places, the shortest first."""
    return sorted(range(len(readings)), key=lambda case: (len(readings[case].ids), case))


def counted_tokens(
    readings: Sequence[EncodedText], longest: int, *, left: bool = False
) -> NDArray[np.bool_] | None:
    """Return where predictions count, [readings, longest], padded as `padded` does.

    None where they count everywhere.
    """
    if all(reading.counted is None for reading in readings):
        return None
    counted = np.zeros((len(readings), longest), bool)
    for number, reading in enumerate(readings):
        count = len(reading.ids)
        place = slice(longest - count, longest) if left else slice(0, count)
        counted[number, place] = True if reading.counted is None else reading.counted
    return counted


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


def require_vocabulary(inputs: LanguageInputs, graph: onnx.ModelProto) -> None:
    """Raise `BadInput` where a tokenizer has tokens that a graph has no logits of."""
    output = next(item for item in graph.graph.output if item.name == LOGITS)
    known = output.type.tensor_type.shape.dim[-1].dim_value
    tokens = inputs.vocabulary
    if known and tokens > known:
        raise BadInput(
            f"input.tokenizer has {tokens} tokens, and the model's vocabulary {known}: they are of "
            "different models"
        )
