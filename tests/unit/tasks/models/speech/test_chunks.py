"""A recording is heard whole, chunk by chunk, and words are cut as seldom as can be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tasks.models.speech.chunks import chunks_of

RATE = 1000


@given(st.integers(0, 5000), st.integers(1, 900), st.integers(0, 10))
def test_chunks_together_are_the_recording_and_none_is_too_long(
    samples: int, longest: int, seed: int
) -> None:
    wave = np.random.default_rng(seed).standard_normal(samples).astype(np.float32)
    chunks = list(chunks_of(wave, RATE, longest))
    assert all(0 < len(chunk) <= longest for chunk in chunks)
    assert np.array_equal(np.concatenate([np.zeros(0, np.float32), *chunks]), wave)


def test_a_chunk_ends_in_the_pause_between_two_words() -> None:
    wave = np.ones(2000, np.float32)
    wave[850:900] = 0.0
    first, *_ = chunks_of(wave, RATE, 1000)
    assert 850 <= len(first) <= 900
