"""What shifts do to one text or tensor."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.records import Payload, Request, Tensor
from tasks.traffic.simulation.scenario import (
    Exposure,
    Gain,
    Jargon,
    LengthGrowth,
    Noise,
    OfTensors,
    OfText,
    Scenario,
    SensorOffset,
)

RARE = "\u0d9e\u1c42\ua9c1"
"""Letters that few tokenizers have seen: what a poisoned text is made of."""
_SPACES = re.compile(r"(\s+)")
_SYLLABLES = ("zor", "qua", "vex", "nim", "tral", "osk", "phi", "drun", "ey", "mox", "kth", "ulo")


@dataclass(frozen=True, slots=True)
class Change:
    """One shift of payloads, with what it needs to be applied."""

    shift: OfText | OfTensors
    words: tuple[str, ...]  # of jargon
    others: Mapping[tuple[str, str], Sequence[str]]  # texts by domain and language, to grow by

    def apply(self, payload: Payload, drawn: Request, strength: float, seed: int) -> Payload:
        """Return the payload as this shift leaves it.

        `strength` is in (0, 1], `seed` the request's own.
        """
        if isinstance(payload, str):
            if isinstance(self.shift, Jargon):
                return _jargon(
                    payload, self.words, self.shift.share * strength, np.random.default_rng(seed)
                )
            if isinstance(self.shift, LengthGrowth):
                texts = self.others[drawn.domain, drawn.language]
                return _grown(payload, texts, 1 + (self.shift.factor - 1) * strength, seed)
            return payload
        if isinstance(self.shift, (Jargon, LengthGrowth)):
            return payload
        if isinstance(payload, Mapping):
            return {
                name: _shifted(tensor, self.shift, strength, seed)
                for name, tensor in payload.items()
            }
        return _tensor(payload, self.shift, strength, seed)


def changes_of(scenario: Scenario, corpus: Sequence[Request], seed: int) -> list[Change]:
    """Return the scenario's shifts of payloads in its order.

    Raises:
        BadInput: A shift fits no row of the corpus.
    """
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for request in corpus:
        if isinstance(request.payload, str):
            others[request.domain, request.language].append(request.payload)
    changes = []
    for shift in scenario.shifts:
        if isinstance(shift, (Jargon, LengthGrowth, Exposure, Gain, Noise, SensorOffset)):
            of_text = isinstance(shift, (Jargon, LengthGrowth))
            if of_text is not bool(others):
                kind = "texts" if others else "tensors"
                raise BadInput(
                    f"the scenario {scenario.name} has the shift {shift.kind}, "
                    f"but the corpus holds {kind}: "
                    "choose a scenario that fits the model"
                )
            words = (
                (shift.words or _invented(shift.vocabulary, seed))
                if isinstance(shift, Jargon)
                else ()
            )
            changes.append(Change(shift, words, others))
    return changes


def poisoned(payload: Payload, magnitude: float) -> Payload:
    """Return an extreme input in the place of a normal one."""
    if isinstance(payload, str):
        return " ".join([RARE] * int(magnitude))
    if isinstance(payload, Mapping):
        return {
            name: (tensor.astype(np.float32) * np.float32(magnitude)).astype(tensor.dtype)
            if tensor.dtype.kind == "f"
            else tensor
            for name, tensor in payload.items()
        }
    return (payload * np.float32(magnitude)).astype(np.float32)


def _invented(count: int, seed: int) -> tuple[str, ...]:
    """Invent so many different words that no corpus holds."""
    rng = np.random.default_rng((seed, 0x6A61))
    words: dict[str, None] = {}
    while len(words) < count:
        words["".join(rng.choice(_SYLLABLES, size=int(rng.integers(3, 6))))] = None
    return tuple(words)


def _jargon(text: str, words: tuple[str, ...], share: float, rng: np.random.Generator) -> str:
    """Replace words; a text without spaces, as in Japanese, gets them in front instead."""
    parts = _SPACES.split(text)  # every other one is the space between
    if len(parts) < 3:
        extra = max(1, round(share * len(text) / 4))
        return " ".join([*(words[place] for place in rng.integers(len(words), size=extra)), text])
    count = (len(parts) + 1) // 2
    hit, chosen = rng.random(count) < share, rng.integers(len(words), size=count)
    for place in np.flatnonzero(hit):
        parts[2 * place] = words[chosen[place]]
    return "".join(parts)


def _grown(text: str, texts: Sequence[str], factor: float, seed: int) -> str:
    wanted = round(len(text) * factor)
    parts, length, place = [text], len(text), seed % len(texts)
    while length < wanted:
        part = texts[place][: wanted - length]
        parts.append(part)
        length += max(1, len(part) + 1)
        place = (place + 1) % len(texts)
    return "\n".join(parts)


def _shifted(
    tensor: NDArray[np.generic], shift: OfTensors, strength: float, seed: int
) -> NDArray[np.generic]:
    """Shift floats, and pixels of 8 bits within 0..255; other integers are ids and stay."""
    if tensor.dtype.kind == "f":
        return _tensor(tensor.astype(np.float32), shift, strength, seed).astype(tensor.dtype)
    if tensor.dtype != np.uint8:
        return tensor
    if tensor.ndim > 1:
        scaled = (tensor.astype(np.float32) / 255).astype(np.float32)
        pixels = _tensor(scaled, shift, strength, seed)
        return np.clip(np.rint(pixels * 255), 0, 255).astype(np.uint8)
    return _shifted_file(tensor, shift, strength, seed)


def _shifted_file(
    file: NDArray[np.generic], shift: OfTensors, strength: float, seed: int
) -> NDArray[np.generic]:
    """Shift an image file's pixels and write it as PNG; what is no image stays."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(file.tobytes())) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError):
        return file
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(_shifted(pixels, shift, strength, seed))).save(buffer, "PNG")
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _tensor(tensor: Tensor, shift: OfTensors, strength: float, seed: int) -> Tensor:
    if isinstance(shift, Exposure):
        return (tensor * np.float32(shift.factor**strength)).astype(np.float32)
    if isinstance(shift, Gain):
        mean = np.float32(tensor.mean())
        return (mean + (tensor - mean) * np.float32(shift.factor**strength)).astype(np.float32)
    if isinstance(shift, Noise):
        rng = np.random.default_rng(seed)
        noise = rng.standard_normal(tensor.shape, dtype=np.float32)
        return (tensor + noise * np.float32(shift.deviation * strength)).astype(np.float32)
    moved: Tensor = (tensor + np.float32(shift.offset * strength)).astype(np.float32)
    return moved
