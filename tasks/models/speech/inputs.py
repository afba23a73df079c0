"""From waveforms to the feeds of a speech recognizer, and from token ids to text."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from infra.engines.port import Arrays, Engine, Profile, Shapes
from infra.errors import BadInput
from tasks.models.batches import BATCH, Batch
from tasks.models.speech.hearing import Hearing
from tasks.models.speech.transcription import forced, transcribe
from tasks.payloads import describe, fingerprint
from tasks.records import Payload
from tasks.specs.traits import TRAITS, Task

LARGEST_BATCH, COMMON_BATCH = 64, 8
KEPT = 4096
"""Transcripts of full precision that are remembered."""
Transcript = tuple[int, ...]


class SpeechInputs:
    """Log-mel features by transformers' extractor, and tokens that full precision writes of them.

    A recognizer's next token depends on those before it. Nobody knows the right ones of live
    traffic. So full precision's own transcript stands before every position, in calibration as in
    comparison: both engines, and every window, are asked the same questions.
    """

    output = TRAITS[Task.SPEECH_RECOGNITION].output

    def __init__(
        self,
        tokenizer: bytes,
        hearing: Hearing,
        reference: Callable[[], Engine],
        *,
        new_tokens: int,
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as exc:  # the library raises bare Exception
            raise BadInput(f"input.tokenizer is not a tokenizers JSON file: {exc}") from exc
        self.hearing, self.new_tokens, self._reference = hearing, new_tokens, reference
        self._known: dict[str, Transcript] = {}

    @property
    def profile(self) -> Profile:
        """Return the shapes of up to 64 recordings with prompt and `new_tokens` tokens each."""
        mels, frames = self._extractor.feature_size, self._extractor.nb_max_frames
        longest = len(self.hearing.prompt) + self.new_tokens
        sizes = (1, COMMON_BATCH, LARGEST_BATCH)
        heard = Shapes(*((batch, mels, frames) for batch in sizes))
        read = Shapes((1, 1), (COMMON_BATCH, min(16, longest)), (LARGEST_BATCH, longest))
        return {"input_features": heard, "decoder_input_ids": read}

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield recordings in order; the mask is of the tokens."""
        for start in range(0, len(payloads), BATCH):
            chosen = payloads[start : start + BATCH]
            features = self.features(chosen)
            ids, real = forced(self.hearing, self._expected(chosen, features))
            feeds: Arrays = {"input_features": features, "decoder_input_ids": ids}
            yield Batch(feeds, np.arange(start, start + len(chosen)), real)

    def features(self, payloads: Sequence[Payload]) -> NDArray[np.float32]:
        """Return features, [cases, mels, frames].

        What is longer than the model hears is cut, what is shorter is followed by silence. Each is
        computed alone, because the last bit of a product may depend on what else is multiplied.
        """
        waves = [_wave(payload) for payload in payloads]
        rate = self._extractor.sampling_rate
        computed = [
            self._extractor(wave, sampling_rate=rate, return_tensors="np")["input_features"]
            for wave in waves
        ]
        return np.concatenate(computed).astype(np.float32)

    def expected(self, payloads: Sequence[Payload]) -> list[Transcript]:
        """Return token ids that full precision writes of each recording."""
        groups = [payloads[start : start + BATCH] for start in range(0, len(payloads), BATCH)]
        return [transcript for group in groups for transcript in self._expected(group, None)]

    def written(self, engine: Engine, payloads: Sequence[Payload]) -> list[Transcript]:
        """Return token ids that an engine writes of each recording."""
        return [
            tuple(ids)
            for start in range(0, len(payloads), BATCH)
            for ids in transcribe(
                engine,
                self.features(payloads[start : start + BATCH]),
                self.hearing,
                self.new_tokens,
            )
        ]

    @property
    def rate(self) -> int:
        """Return the samples a second that the model hears."""
        return int(self._extractor.sampling_rate)

    @property
    def longest(self) -> int:
        """Return the samples of the longest recording that the model hears."""
        return int(self._extractor.n_samples)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _expected(
        self, payloads: Sequence[Payload], features: NDArray[np.float32] | None
    ) -> list[Transcript]:
        names = [fingerprint(payload) for payload in payloads]
        if not all(name in self._known for name in names):
            heard = self.features(payloads) if features is None else features
            transcripts = transcribe(self._reference(), heard, self.hearing, self.new_tokens)
            if len(self._known) > KEPT:
                self._known.clear()
            self._known |= {name: tuple(ids) for name, ids in zip(names, transcripts, strict=True)}
        return [self._known[name] for name in names]

    @cached_property
    def _extractor(self) -> Any:
        from transformers import WhisperFeatureExtractor

        return WhisperFeatureExtractor(**self.hearing.features)


def _wave(payload: Payload) -> NDArray[np.float32]:
    if not isinstance(payload, np.ndarray) or payload.ndim != 1 or not payload.size:
        kind = describe(payload)
        raise BadInput(f"a speech model wants one waveform of some samples, but was given {kind}")
    return payload
