"""A Hugging Face Whisper as one graph: from what is heard and written so far to what follows.

Inputs: `input_features` [batch, mels, frames], of as many frames as the model has positions for,
and `decoder_input_ids` [batch, tokens]. Output: `logits` [batch, tokens, vocabulary].

What else a transcript needs to know (features, first tokens, stop and suppressed ones) is in the
graph's metadata.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.export import Dim

from tasks.models.language.decoder import spell_products
from tasks.models.loading import Loaded, OriginalRun, pretrained
from tasks.models.speech.hearing import KEY, Hearing
from tasks.specs.spec import ModelSpec

PROBE_TOKENS = 5


class Recognizer(nn.Module):
    """The model behind a causal mask built in the open, so that exporters see plain operators."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_features: torch.Tensor, decoder_input_ids: torch.Tensor
    ) -> torch.Tensor:
        """Return logits after every token; the module tells the shapes."""
        tokens = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device)
        allowed = (tokens[None, :] <= tokens[:, None])[None, None]
        bias = torch.where(allowed, 0.0, torch.finfo(torch.float32).min)
        outputs = self.model(
            input_features=input_features,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=bias.expand(decoder_input_ids.shape[0], 1, -1, -1),
            use_cache=False,
        )
        logits: torch.Tensor = outputs.logits
        return logits


def load_recognizer(spec: ModelSpec, folder: Path) -> Loaded:
    """Load the model of a Hugging Face Whisper folder; whatever transformers raises passes.

    Raises:
        ValueError: for a prompt that the tokenizer does not know, and for more tokens than there
            are positions.
        OSError: for missing files.
    """
    from transformers import WhisperForConditionalGeneration

    original = pretrained(WhisperForConditionalGeneration, folder, attention=None)
    model = pretrained(WhisperForConditionalGeneration, folder)
    hearing = _hearing(spec, folder, model)
    longest = len(hearing.prompt) + spec.input.new_tokens
    positions = min(
        int(model.config.max_target_positions), int(model.config.max_source_positions) - 1
    )
    if longest > positions:
        raise ValueError(
            f"the prompt and input.new_tokens need {longest} positions; the model has {positions}"
        )
    frames = _frames(model)
    if int(hearing.features["chunk_length"] * hearing.features["sampling_rate"]) != frames * _hop(
        hearing
    ):
        raise ValueError(
            f"preprocessor_config.json's chunk_length gives other than the {frames} frames that "
            "the encoder reads"
        )
    spell_products(model)
    runs = tuple(
        _original_run(original, frames, count, min(tokens, longest))
        for count, tokens in ((3, PROBE_TOKENS), (2, longest), (1, 1))
    )
    probe = runs[0].feeds
    batch, tokens = Dim("batch", min=1, max=1024), Dim("tokens", min=1, max=longest)
    shapes = {"input_features": {0: batch}, "decoder_input_ids": {0: batch, 1: tokens}}
    properties = {KEY: json.dumps(asdict(hearing), sort_keys=True)}
    return Loaded(Recognizer(model).eval(), probe, shapes, runs, properties)


def _original_run(model: Any, frames: int, count: int, tokens: int) -> OriginalRun:
    """Ask the model itself, as its users call it."""
    random = torch.Generator().manual_seed(tokens)
    config = model.config
    feeds = {
        "input_features": torch.rand(count, int(config.num_mel_bins), frames, generator=random),
        "decoder_input_ids": torch.randint(
            0, int(config.vocab_size), (count, tokens), generator=random
        ),
    }
    with torch.no_grad():
        return OriginalRun(feeds, model(**feeds).logits.numpy())


def _hearing(spec: ModelSpec, folder: Path, model: Any) -> Hearing:
    preprocessor = json.loads((folder / "preprocessor_config.json").read_text())
    names = (
        "feature_size",
        "sampling_rate",
        "hop_length",
        "chunk_length",
        "n_fft",
        "padding_value",
        "do_normalize",
    )
    defaults = {"sampling_rate": 16_000, "hop_length": 160, "chunk_length": 30, "n_fft": 400}
    rules, start = model.generation_config, model.config.decoder_start_token_id
    return Hearing(
        features=defaults | {name: preprocessor[name] for name in names if name in preprocessor},
        prompt=_prompt(spec, folder) or (int(start),),
        stops=_ids(
            rules.eos_token_id if rules.eos_token_id is not None else model.config.eos_token_id
        ),
        suppressed=_ids(getattr(rules, "suppress_tokens", None)),
        suppressed_first=_ids(getattr(rules, "begin_suppress_tokens", None)),
    )


def _prompt(spec: ModelSpec, folder: Path) -> tuple[int, ...]:
    from tokenizers import Tokenizer

    vocabulary = Tokenizer.from_file(
        str(folder / (spec.input.tokenizer or "tokenizer.json"))
    ).get_vocab()
    missing = [token for token in spec.input.prompt if token not in vocabulary]
    if missing:
        raise ValueError(
            f"input.prompt names {missing[0]!r}, which is no token of {spec.input.tokenizer}"
        )
    return tuple(vocabulary[token] for token in spec.input.prompt)


def _ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return (int(value),) if isinstance(value, int) else tuple(int(item) for item in value)


def _frames(model: Any) -> int:
    encoder = model.model.encoder
    return int(
        model.config.max_source_positions * encoder.conv1.stride[0] * encoder.conv2.stride[0]
    )


def _hop(hearing: Hearing) -> int:
    return int(hearing.features["hop_length"])
