"""What each kind of model is like, in one table: all that code outside its own package asks."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Task(StrEnum):
    """What the model does; decides how inputs are prepared and outputs judged."""

    TEXT_EMBEDDING = "text-embedding"
    IMAGE_CLASSIFICATION = "image-classification"
    IMAGE_EMBEDDING = "image-embedding"
    SPEECH_RECOGNITION = "speech-recognition"
    CAUSAL_LM = "causal-lm"
    CUSTOM = "custom"


OF_ITSELF: Mapping[str, float] = {
    "cosine": 1.0,
    "agreement": 1.0,
    "perplexity-ratio": 1.0,
    "cache-agreement": 1.0,
    "cache-perplexity-ratio": 1.0,
}
"""What full precision scores beside itself; of every other golden metric, 0."""

OF_GENERATION = ("ttft_ratio", "prefill_throughput_ratio", "decode_throughput_ratio")
"""Budgets of language models alone."""


@dataclass(frozen=True, slots=True)
class Traits:
    """One kind of model as the stages see it."""

    reads: Literal["text", "image", "waveform", "record"]  # one payload
    feeds: tuple[str, ...]  # inputs of its graph; empty where they depend on the model's size
    output: str  # of its graph
    # How live outputs are held against full precision's; outputs of one's own by the spec's metric.
    fidelity: Literal["cosine", "agreement", "own"]
    # a row of logits a token: two engines are compared side by side, and nothing is stored
    per_token: bool
    metrics: frozenset[str]  # golden metrics that budgets may bound
    tokenizer: bool = False  # whether its payloads or outputs are texts, so that it needs one


_OF_LANGUAGE = frozenset(
    {
        "perplexity-ratio",
        "agreement",
        "cache-perplexity-ratio",
        "cache-agreement",
        "rouge-drop",
        "exact-match-drop",
        "f1-drop",
        "code-drop",
        "dialogue-drop",
    }
)
TRAITS: Mapping[Task, Traits] = {
    Task.TEXT_EMBEDDING: Traits(
        "text",
        ("input_ids", "attention_mask"),
        "sentence_embedding",
        "cosine",
        False,
        frozenset({"cosine", "recall-drop", "flips"}),
        tokenizer=True,
    ),
    Task.IMAGE_CLASSIFICATION: Traits(
        "image", ("image",), "logits", "agreement", False, frozenset({"accuracy-drop", "flips"})
    ),
    Task.IMAGE_EMBEDDING: Traits(
        "image",
        ("image",),
        "image_embedding",
        "cosine",
        False,
        frozenset({"cosine", "accuracy-drop", "flips"}),
    ),
    Task.SPEECH_RECOGNITION: Traits(
        "waveform",
        ("input_features", "decoder_input_ids"),
        "logits",
        "agreement",
        True,
        frozenset({"wer-increase", "token-error-rate", "agreement"}),
        tokenizer=True,
    ),
    Task.CAUSAL_LM: Traits("text", (), "logits", "agreement", True, _OF_LANGUAGE, tokenizer=True),
    Task.CUSTOM: Traits("record", (), "", "own", False, frozenset()),
}
METRICS: Mapping[Task, frozenset[str]] = {task: traits.metrics for task, traits in TRAITS.items()}
"""Golden metrics that budgets may bound, by task; a spec's own metrics come beside them."""
