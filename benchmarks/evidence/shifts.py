"""Ways in which traffic leaves what a champion was calibrated on.

They are pure functions of payloads and a seed.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.random import Generator
from PIL import Image

from tasks.records import Payload, Tensor

Mutate = Callable[[Payload, Generator], Payload]


class Grouped(Protocol):
    """A request or a golden case."""

    @property
    def payload(self) -> Payload:
        """The input: a text or a tensor."""

    @property
    def domain(self) -> str:
        """What the input is about."""

    @property
    def language(self) -> str:
        """Code of its language."""


Case = TypeVar("Case", bound=Grouped)
Select = Callable[[Grouped], bool]


def same(payload: Payload, rng: Generator) -> Payload:
    """Return the payload as it is."""
    return payload


@dataclass(frozen=True, slots=True)
class TrafficPart:
    """Some of the traffic: who it comes from, and what happens to it on the way."""

    select: Select
    mutate: Mutate = same
    fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Shift:
    """One kind of change to the traffic or to the weights."""

    name: str
    what: str  # one sentence for the reader
    parts: tuple[TrafficPart, ...]
    # Relative norm of a low-rank update of every weight matrix; the traffic stays.
    weights: float = 0.0
    # More than one: of so many mutations of a case, the one that the champion gets most wrong.
    variants: int = 1


def draw(
    cases: Sequence[Case], shift: Shift, count: int, rng: Generator
) -> list[tuple[Case, list[Payload]]]:
    """Draw `count` cases by the fractions of the shift's parts.

    Each comes with its `variants` mutated payloads. Cases repeat where few fit.

    Raises:
        ValueError: When no case fits a part of the shift.
    """
    drawn = []
    for part in shift.parts:
        fitting = [case for case in cases if part.select(case)]
        wanted = round(part.fraction * count)
        if not fitting:
            raise ValueError(f"no case fits a part of the shift {shift.name}")
        order = np.concatenate(
            [rng.permutation(len(fitting)) for _ in range(-(-wanted // len(fitting)))]
        )
        drawn += [
            (
                fitting[place],
                [part.mutate(fitting[place].payload, rng) for _ in range(shift.variants)],
            )
            for place in order[:wanted].tolist()
        ]
    return drawn


# --- texts --------------------------------------------------------------------------------

_SYLLABLES = ("tro", "vex", "qua", "ldb", "zyn", "pho", "krel", "mox", "ux", "thi", "gno", "bri")


def jargon(payload: Payload, rng: Generator) -> Payload:
    """Replace three words in ten by terms that nobody has seen."""
    words = str(payload).split(" ")
    return " ".join(_term(rng) if rng.random() < 0.3 else word for word in words)


def _term(rng: Generator) -> str:
    return "".join(rng.choice(_SYLLABLES, rng.integers(3, 6)).tolist()).upper()[
        : int(rng.integers(5, 14))
    ]


def misspelt(payload: Payload, rng: Generator) -> Payload:
    """Replace one letter in ten by another, as scans and thumbs do: a text's noise."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return "".join(
        letters[int(rng.integers(26))] if letter.isalpha() and rng.random() < 0.1 else letter
        for letter in str(payload)
    )


def lengthened(payload: Payload, rng: Generator) -> Payload:
    """Repeat the text four times over, with its words in another order each time."""
    words = str(payload).split(" ")
    return " ".join([str(payload), *(" ".join(rng.permutation(words).tolist()) for _ in range(3))])


def hostile_text(payload: Payload, rng: Generator) -> Payload:
    """Insert a flood of one rare symbol into the text.

    Probes and broken clients send such.
    """
    symbol = str(rng.choice(list("§¶†‡※▒▓█◊₿∮∯ⅷ⁂")))
    words = str(payload).split(" ")
    place = int(rng.integers(len(words) + 1))
    return " ".join([*words[:place], symbol * int(rng.integers(20, 80)), *words[place:]])


# --- tensors ------------------------------------------------------------------------------


def scaled(*factors: float) -> Mutate:
    """Return a change of exposure or gain: the signal times one of the factors."""

    def mutate(payload: Payload, rng: Generator) -> Payload:
        return _tensor(payload) * np.float32(rng.choice(factors))

    return mutate


def noisy(deviation: float) -> Mutate:
    """Return white noise on top, in units of the signal's own largest magnitude."""

    def mutate(payload: Payload, rng: Generator) -> Payload:
        signal = _tensor(payload)
        level = np.float32(deviation * float(np.abs(signal).max(initial=0.0)))
        return np.asarray(
            signal + level * rng.standard_normal(signal.shape, np.float32), np.float32
        )

    return mutate


def offset(amount: float) -> Mutate:
    """Return a sensor's added constant.

    Its unit is the signal's own largest magnitude.
    """

    def mutate(payload: Payload, rng: Generator) -> Payload:
        signal = _tensor(payload)
        return np.asarray(
            signal + np.float32(amount * float(np.abs(signal).max(initial=0.0))), np.float32
        )

    return mutate


def chained(first: Mutate, second: Mutate) -> Mutate:
    """Return both changes, one after the other."""
    return lambda payload, rng: second(first(payload, rng), rng)


def pictured(mutate: Mutate) -> Mutate:
    """Return a change of an image file's pixels in 0..1, written as PNG."""

    def changed(payload: Payload, rng: Generator) -> Payload:
        if isinstance(payload, str) or not isinstance(payload, Mapping):
            raise TypeError("a shift of image files was given something else")
        with Image.open(io.BytesIO(payload["image"].tobytes())) as image:
            pixels = np.asarray(image.convert("RGB"), np.float32) / np.float32(255)
        shifted = np.clip(_tensor(mutate(pixels, rng)) * 255, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(shifted).save(buffer, "PNG", compress_level=1)
        return {"image": np.frombuffer(buffer.getvalue(), np.uint8)}

    return changed


def late(payload: Payload, rng: Generator) -> Payload:
    """Begin the recording with 4,000 to 8,000 samples of a quiet room."""
    room = 0.001 * rng.standard_normal(int(rng.integers(4000, 8000)), np.float32)
    return np.concatenate([room, _tensor(payload)]).astype(np.float32)


def hostile_tensor(payload: Payload, rng: Generator) -> Payload:
    """Turn one value in fifty into a spike of up to twelve times the largest."""
    signal = _tensor(payload).copy()
    spikes = rng.random(signal.shape) < 0.02
    signal[spikes] += np.float32(rng.uniform(4, 12) * float(np.abs(signal).max(initial=1.0)))
    return signal


def _tensor(payload: Payload) -> Tensor:
    if isinstance(payload, str):
        raise TypeError("a shift of signals was given a text")
    return np.asarray(payload, np.float32)
