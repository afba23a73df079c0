"""Digits spoken by a source and formants: a pitch under moving resonances, and bands of noise.

The model of speech is Fant's ("Acoustic Theory of Speech Production", 1960), reduced to what tells
ten words apart. A voiced sound is a pitch under two or three formants that glide into the next
sound's, a fricative is a band of noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE = 16_000
"""Samples a second."""
LEVELS = 128
"""Of one sign: telephony's eight bits, which also lets the shipped files pack well."""
Wave = npt.NDArray[np.float32]
_TOP = 4_500.0  # Hz: no harmonic above


@dataclass(frozen=True, slots=True)
class Sound:
    """One sound of a word.

    Formants and noise bands are in Hz, a part is 0 where there is none of it.
    """

    formants: tuple[float, float, float]
    voice: float = 1.0
    noise: float = 0.0
    band: tuple[float, float] = (3_000.0, 6_000.0)
    length: float = 1.0  # beside the word's other sounds


_S = Sound((300, 1700, 2600), voice=0.0, noise=0.5, band=(4_000, 7_000))
_F = Sound((300, 1000, 2400), voice=0.0, noise=0.35, band=(1_500, 4_000), length=0.8)
_T = Sound((300, 1800, 2600), voice=0.0, noise=0.4, band=(2_500, 6_500), length=0.5)
_N = Sound((280, 1500, 2500), voice=0.5)
_V = Sound((250, 1100, 2300), voice=0.5, noise=0.1, band=(2_000, 5_000), length=0.6)
_R = Sound((420, 1200, 1600), voice=0.8, length=0.7)
_W = Sound((320, 700, 2300), voice=0.8, length=0.7)
_I, _E, _A = Sound((300, 2250, 2950)), Sound((550, 1850, 2550)), Sound((760, 1250, 2500))
_O, _U = Sound((500, 900, 2450)), Sound((320, 850, 2300))
WORDS: dict[str, tuple[Sound, ...]] = {
    "zero": (Sound((280, 1700, 2600), 0.5, 0.3, (4_000, 7_000)), _I, _R, _O),
    "one": (_W, _A, _N),
    "two": (_T, _U),
    "three": (_F, _R, _I),
    "four": (_F, _O, _R),
    "five": (_F, _A, _I, _V),
    "six": (_S, _I, _T, _S),
    "seven": (_S, _E, _V, _E, _N),
    "eight": (_E, _I, _T),
    "nine": (_N, _A, _I, _N),
}


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose voice it is."""

    pitch: float  # Hz
    tract: float  # formants times this: shorter tracts resonate higher
    rate: float  # words are shorter by this


SPEAKERS: dict[str, Speaker] = {
    "bass": Speaker(95, 0.92, 0.95),
    "tenor": Speaker(130, 1.0, 1.05),
    "alto": Speaker(185, 1.08, 1.0),
    "child": Speaker(250, 1.18, 1.1),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is recorded: how loud, and over what noise."""

    gain: float
    snr: float  # dB


PLACES: dict[str, Place] = {
    "studio": Place(1.0, 40.0),
    "noisy": Place(1.0, 14.0),
    "far": Place(1 / 16, 26.0),
}


def say(words: Sequence[str], speaker: Speaker, rng: np.random.Generator) -> Wave:
    """Return the words one after another, with breaths between: [samples], at most 1 in size."""
    parts = [_silence(rng, 0.02)]
    for word in words:
        parts += [_word(WORDS[word], speaker, rng), _silence(rng, 0.03)]
    wave = np.concatenate(parts)
    return np.asarray(0.7 * wave / np.abs(wave).max(), np.float32)


def record(wave: Wave, place: Place, rng: np.random.Generator) -> Wave:
    """Return the wave as a microphone at that place gives it: [samples].

    It has eight bits of its own range.
    """
    noise = rng.standard_normal(len(wave)) * np.sqrt(np.mean(wave**2) / 10 ** (place.snr / 10))
    heard = np.clip(wave + noise, -1, 1)
    return np.asarray(np.round(heard * LEVELS) / LEVELS * place.gain, np.float32)


def _word(
    sounds: Sequence[Sound], speaker: Speaker, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    total = rng.uniform(0.14, 0.2) * RATE / speaker.rate
    shares = np.array([sound.length for sound in sounds]) * rng.uniform(0.85, 1.15, len(sounds))
    ends = np.cumsum(shares / shares.sum()) * total
    time = np.arange(int(total))
    centres = ends - np.diff(ends, prepend=0.0) / 2
    tract = speaker.tract * rng.uniform(0.96, 1.04)
    formants = [
        np.interp(time, centres, [sound.formants[i] * tract for sound in sounds]) for i in range(3)
    ]
    voice = np.interp(time, centres, [sound.voice for sound in sounds])
    pitch = speaker.pitch * rng.uniform(0.93, 1.07) * np.linspace(1.06, 0.94, len(time))
    wave = voice * _voiced(pitch, formants)
    for sound, end, start in zip(sounds, ends, np.append(0.0, ends[:-1]), strict=True):
        if sound.noise:
            inside = np.clip(np.minimum(time - start, end - time) / (0.008 * RATE), 0, 1)
            wave = wave + sound.noise * inside * _noise(sound.band, len(time), rng)
    edges = np.clip(np.minimum(time, len(time) - time) / (0.01 * RATE), 0, 1)
    return np.asarray(wave * edges)


def _voiced(
    pitch: npt.NDArray[np.float64], formants: Sequence[npt.NDArray[np.float64]]
) -> npt.NDArray[np.float64]:
    """Return harmonics of a pitch [samples], as loud as the formants make their frequency."""
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    harmonics = np.arange(1, int(_TOP / pitch.max()) + 1)[:, None]
    frequencies = harmonics * pitch
    loudness = np.zeros_like(frequencies)
    for formant, width, strength in zip(
        formants, (90.0, 120.0, 180.0), (1.0, 0.6, 0.3), strict=True
    ):
        loudness += strength / (1 + ((frequencies - formant) / width) ** 2)
    return np.asarray((loudness * np.sin(harmonics * phase)).sum(axis=0))


def _noise(
    band: tuple[float, float], length: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequencies = np.fft.rfftfreq(length, 1 / RATE)
    spectrum[(frequencies < band[0]) | (frequencies > band[1])] = 0
    wave = np.fft.irfft(spectrum, length)
    return np.asarray(wave / max(float(np.std(wave)), 1e-9))


def _silence(rng: np.random.Generator, seconds: float) -> npt.NDArray[np.float64]:
    return np.zeros(int(rng.uniform(0.7, 1.3) * seconds * RATE))
