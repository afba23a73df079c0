"""Word error rate of transcripts, and the same of token ids."""

from collections.abc import Callable, Sequence
from functools import cache


def word_error_rate(right: str, transcript: str) -> float:
    """Return the words to insert, delete and replace, over the right text's words; 0 is right.

    It may exceed 1. Case and punctuation do not count: both texts are normalised as Whisper's
    authors do (arXiv 2212.04356, appendix C).
    """
    return error_rate(*(_normaliser()(text).split() for text in (right, transcript)))


def error_rate(right: Sequence[str], written: Sequence[str]) -> float:
    """Return the edit distance over the right sequence's length (torchmetrics).

    Where that length is 0, it is the number of items that were written.
    """
    from torchmetrics.functional.text import word_error_rate

    if not right:
        return float(len(written))
    return float(word_error_rate([" ".join(written)], [" ".join(right)]))


@cache
def _normaliser() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    normaliser: Callable[[str], str] = BasicTextNormalizer()
    return normaliser
