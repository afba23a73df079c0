"""What stands between a model's users and its graph, by what the model reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.gateway.generation import TextGenerator
from flows.gateway.guards import Guards
from infra.engines.port import Engine
from infra.errors import BadInput
from infra.gateway.release import Front
from infra.gateway.wire.datatypes import BYTES, datatype_of
from tasks.models.batches import BATCH
from tasks.models.inputs import Inputs
from tasks.models.language.inputs import LanguageInputs
from tasks.models.speech.chunks import chunks_of
from tasks.models.speech.inputs import SpeechInputs
from tasks.preprocess.decoding import resampled
from tasks.records import Payload
from tasks.specs.spec import ModelSpec
from tasks.specs.tensors import RecordLayout
from tasks.specs.traits import TRAITS

MOST_RATE = 768_000
"""Samples a second of a recording."""
LEAST_CHUNK_S = 0.1
"""Of a recording that is written down in chunks."""
MOST_TEXTS = 64
"""Of one request: what goes through the engine at once."""
MOST_CHARACTERS, A_TOKEN = 200_000, 8
"""Of one request, and of each token that a longer prompt may have: others wait while it is read."""
Tensors = Mapping[str, NDArray[Any]]


class TextFront:
    """Texts or tokens: a single input of BYTES is tokenized as the model's golden cases are."""

    def __init__(self, inputs: Inputs, guards: Guards | None = None) -> None:
        self._inputs, self.guards = inputs, guards or Guards()

    @property
    def takes_long(self) -> bool:
        """Return whether guards judge the texts before they are read."""
        return bool(self.guards.of("input"))

    def feeds(self, tensors: Tensors) -> Tensors:
        """Return tokens of texts, in their order; tokens pass as they are."""
        texts = texts_of(tensors)
        return tensors if texts is None else self.tokens(texts)

    def tokens(self, texts: Sequence[str]) -> Tensors:
        """Return the feeds of some texts, in their order.

        Raises:
            BadInput: There are none, more than go through the engine at once, or too long ones.
        """
        _require_few(texts, MOST_TEXTS)
        batches = list(self._inputs.batches(texts))
        if len(batches) != 1:
            raise BadInput(f"{len(texts)} texts do not go through the engine at once: send fewer")
        order = np.argsort(batches[0].cases)
        return {name: values[order] for name, values in batches[0].feeds.items()}

    def admit(self, tensors: Tensors, tell: Callable[[str], object]) -> None:
        """Raise `BlockedText` where a guard of this release blocks one of the texts."""
        self.guards.require(texts_of(tensors) or (), tell)

    def count(self, texts: Sequence[str]) -> int:
        """Count the tokens of some texts."""
        masks = (batch.mask for batch in self._inputs.batches(texts))
        return sum(int(mask.sum()) for mask in masks if mask is not None)

    def payloads(self, tensors: Tensors) -> Sequence[Payload] | None:
        """Return the texts; tokens alone tell no text."""
        return texts_of(tensors)


class LanguageFront(TextFront):
    """Texts that are read, as a text model's, and texts that are written."""

    def __init__(
        self, model: str, engine: Engine, inputs: LanguageInputs, guards: Guards | None = None
    ) -> None:
        super().__init__(inputs, guards)
        self.inputs, self.new_tokens = inputs, inputs.new_tokens
        self.generator = TextGenerator(model, engine, inputs)

    def feeds(self, tensors: Tensors) -> Tensors:
        """Return tokens of texts, or tokens as they are.

        Raises:
            BadInput: As `tokens`; or there are more tokens than the model reads and writes.
        """
        given = (tensors.get(name) for name in ("input_ids", "past_mask"))
        count = sum(values.shape[1] for values in given if values is not None and values.ndim == 2)
        if count > self.inputs.max_length + self.new_tokens:
            raise BadInput(
                f"the tensors hold {count} tokens: this model reads {self.inputs.max_length} and "
                f"writes {self.new_tokens}"
            )
        return super().feeds(tensors)

    def tokens(self, texts: Sequence[str]) -> Tensors:
        """Return the feeds of some texts, in their order; raises as a text model's."""
        _require_few(texts, BATCH)
        return self.inputs.together(texts)

    def prompt(self, text: str) -> list[int]:
        """Return the tokens of a prompt, or of a conversation whose reply is to come.

        Raises:
            BadInput: It is longer than the model reads, empty, or the chat template refuses it.
        """
        _require_short([text], max(MOST_CHARACTERS, A_TOKEN * self.inputs.max_length))
        (tokens,) = self.inputs.whole_prompts([text])
        if len(tokens) > self.inputs.max_length:
            raise BadInput(
                f"the prompt has {len(tokens)} tokens: this model reads {self.inputs.max_length}"
            )
        return tokens

    def room(self, prompt: int) -> int:
        """Return how many tokens may follow a prompt of so many."""
        return self.inputs.max_length + self.new_tokens - prompt


class TensorFront:
    """One float32 tensor a request, such as an image: the rows of the only input."""

    takes_long = False

    def feeds(self, tensors: Tensors) -> Tensors:
        """Return the tensors as they are."""
        return tensors

    def admit(self, tensors: Tensors, tell: Callable[[str], object]) -> None:
        """Let all pass: guards judge texts alone."""

    def payloads(self, tensors: Tensors) -> Sequence[Payload] | None:
        """Return each row; None where there is not one input of floats."""
        values = next(iter(tensors.values()))
        if len(tensors) != 1 or values.dtype.kind != "f" or values.ndim < 2:
            return None
        return [np.asarray(row, np.float32) for row in values]


class SpeechFront(TensorFront):
    """Recordings, which are written down."""

    def __init__(self, engine: Engine, inputs: SpeechInputs) -> None:
        self._engine, self._inputs = engine, inputs

    def heard(
        self, wave: NDArray[np.float32], rate: int, *, whole: bool = True
    ) -> NDArray[np.float32]:
        """Return a recording at the rate that the model hears, [samples].

        Raises:
            BadInput: It is empty, not of numbers, or, where it is heard as a whole, longer than the
                model hears.
        """
        wanted, longest = self._inputs.rate, self._inputs.longest
        if not wave.size or not np.isfinite(wave).all():
            raise BadInput("the recording is empty, or holds what is no number")
        if not 1 <= rate <= MOST_RATE:
            raise BadInput(f"the recording has {rate} samples a second: 1 to {MOST_RATE} are read")
        if whole and len(wave) / rate > longest / wanted:
            raise BadInput(
                f"the recording is {len(wave) / rate:.1f} s long: this model hears "
                f"{longest / wanted:.1f} s; with stream, longer ones are written down in chunks"
            )
        return wave if rate == wanted else resampled(wave, rate, wanted)

    def chunks(self, wave: NDArray[np.float32], seconds: float | None) -> list[NDArray[np.float32]]:
        """Return a recording in chunks of at most so many seconds; None: as long as are heard.

        Raises:
            BadInput: The model does not hear so long, or nothing can be heard in so short a chunk.
        """
        rate, longest = self._inputs.rate, self._inputs.longest
        if seconds is None:
            return list(chunks_of(wave, rate, longest))
        if not LEAST_CHUNK_S <= seconds <= longest / rate:
            raise BadInput(
                f"chunk_s is {seconds:g}: {LEAST_CHUNK_S:g} to {longest / rate:g} seconds go"
            )
        return list(chunks_of(wave, rate, int(seconds * rate)))

    def transcript(self, wave: NDArray[np.float32]) -> str:
        """Return what is said in a recording, [samples], at the rate that the model hears."""
        (ids,) = self._inputs.written(self._engine, [wave])
        return self._inputs.decode(ids)


class RecordFront:
    """Named tensors, as a graph with inputs of its own reads them."""

    takes_long = False

    def __init__(self, layout: RecordLayout) -> None:
        self._layout = layout

    def feeds(self, tensors: Tensors) -> Tensors:
        """Return the tensors as they are."""
        return tensors

    def admit(self, tensors: Tensors, tell: Callable[[str], object]) -> None:
        """Let all pass: guards judge texts alone."""

    def payloads(self, tensors: Tensors) -> Sequence[Payload] | None:
        """Return one record for each of the batch; None where the tensors are not the layout's."""
        wanted = self._layout.tensors
        if self._layout.states or set(tensors) != set(wanted):
            return None
        sizes = {len(tensors[name]) for name, item in wanted.items() if item.batched}
        if len(sizes) > 1:
            return None
        return [
            {
                name: tensors[name][place] if item.batched else tensors[name]
                for name, item in wanted.items()
            }
            for place in range(*sizes or (1,))
        ]


def open_front(
    spec: ModelSpec,
    inputs: Inputs,
    layout: RecordLayout | None,
    engine: Engine,
    guards: Guards | None = None,
) -> Front:
    """Return the front of a registered model whose engine this is, behind its guards."""
    if layout is not None:
        return RecordFront(layout)
    if isinstance(inputs, LanguageInputs):
        return LanguageFront(spec.name, engine, inputs, guards)
    if isinstance(inputs, SpeechInputs):
        return SpeechFront(engine, inputs)
    return TextFront(inputs, guards) if TRAITS[spec.task].reads == "text" else TensorFront()


def texts_of(tensors: Tensors) -> list[str] | None:
    """Return the texts of a request whose only input is of BYTES; None of any other."""
    if len(tensors) != 1:
        return None
    values = next(iter(tensors.values()))
    return [str(text) for text in values.ravel()] if datatype_of(values.dtype) == BYTES else None


def _require_few(texts: Sequence[str], most: int) -> None:
    if not 0 < len(texts) <= most:
        raise BadInput(f"{len(texts)} texts were sent: send 1 to {most} at a time")
    _require_short(texts, MOST_CHARACTERS)


def _require_short(texts: Sequence[str], most: int) -> None:
    characters = sum(map(len, texts))
    if characters > most:
        raise BadInput(f"{characters} characters were sent: send {most} at most")
