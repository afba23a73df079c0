"""What a recognizer's graph says about itself: features, first tokens, stop and suppressed ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

KEY = "requant.speech"
"""In the graph's metadata: a `Hearing` as JSON."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """What turns waveforms into features, and logits into a transcript."""

    features: Mapping[str, Any]  # arguments of transformers' WhisperFeatureExtractor
    prompt: tuple[int, ...]  # token ids that a transcript begins with
    stops: tuple[int, ...]  # token ids that end it
    suppressed: tuple[int, ...] = ()  # token ids that are never written
    suppressed_first: tuple[int, ...] = ()  # nor as the first after the prompt
    version: int = 1


def read_hearing(graph: onnx.ModelProto) -> Hearing:
    """Read what `load_recognizer` wrote into a graph; raise `ValueError` when it is not there."""
    text = next((item.value for item in graph.metadata_props if item.key == KEY), None)
    if text is None:
        raise ValueError(f"its metadata lacks {KEY}")
    try:
        document = json.loads(text)
        lists = ("prompt", "stops", "suppressed", "suppressed_first")
        prompt, stops, suppressed, first = (
            tuple(int(token) for token in document[name]) for name in lists
        )
        version, features = int(document["version"]), dict(document["features"])
    except (ValueError, TypeError, KeyError) as exc:
        raise ValueError(f"its metadata's {KEY} is damaged ({exc!r})") from exc
    if version != 1:
        raise ValueError(f"its metadata's {KEY} has version {version}, and 1 is read")
    return Hearing(features, prompt, stops, suppressed, first)
