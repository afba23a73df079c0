"""A Hugging Face causal language model with its key and value cache outside the graph.

Inputs, with T new tokens after P cached ones: `input_ids`, `attention_mask`, `position_ids` [batch,
T], `past_mask` [batch, P], and a layer's `past.N.key` and `past.N.value` [batch, heads, P, width].

Outputs: `logits` [batch, T, vocabulary] and `present.N.key`, `present.N.value` [batch, heads, P +
T, width]. P is 0 in prefill; T is 1 in decode.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.export import Dim

from tasks.models.language.checkpoint import (
    is_tied,
    map_weights,
    require_finite,
    stored_type,
)
from tasks.models.language.gguf_file import is_gguf, quietly, where_from
from tasks.models.language.layout import CacheLayout, FoundPrefix
from tasks.models.language.prefix import Prefix, PrefixTexts, behind, cached, find_prefix
from tasks.models.text.adapter import laid_beside, merged

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

PROBE_PAST, PROBE_TOKENS = 5, 7
Probe = dict[str, torch.Tensor | list[torch.Tensor]]
Shapes = dict[str, dict[int, Dim] | list[dict[int, Dim]]]


BEYOND = 6
"""Tokens by which the original is asked for more than its window."""
_SLIDING, _FULL = "sliding_attention", "full_attention"
_KINDS = frozenset({_SLIDING, _FULL})


@dataclass(frozen=True, slots=True, eq=False)
class OriginalText:
    """What the untouched model answers, called as its users call it."""

    ids: torch.Tensor  # [cases, tokens], the last case padded on the right
    mask: torch.Tensor  # [cases, tokens]
    logits: torch.Tensor  # [cases, tokens, vocabulary]


class CachedDecoder(nn.Module):
    """The model behind a mask that is built in the open.

    So every exporter and target sees plain operators. The mask is the one that the family's own
    code would build: with `window`, sliding layers look back so many tokens, themselves included;
    with `mixed`, only the layers that the configuration names so. A prefix stands before every text
    and its cache, and is seen by every token.
    """

    def __init__(
        self,
        model: nn.Module,
        window: int | None = None,
        *,
        mixed: bool = False,
        prefix: Prefix | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.window, self.mixed = window, mixed
        self.prefix = prefix
        self.found: FoundPrefix | None = None
        self.original: OriginalText | None = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        past_mask: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        """Return logits of the new tokens, and the cache with them; the module tells the shapes."""
        before = 0 if self.prefix is None else self.prefix.tokens
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=self._mask(attention_mask, past_mask, position_ids, before),
            position_ids=position_ids + before if before else position_ids,
            past_key_values=behind(past, self.prefix),
            use_cache=True,
        )
        present = [
            tensor
            for layer in outputs.past_key_values.layers
            for tensor in (layer.keys, layer.values)
        ]
        return (outputs.logits, *present)

    def _mask(
        self, mask: torch.Tensor, past_mask: torch.Tensor, positions: torch.Tensor, before: int
    ) -> torch.Tensor | dict[str, torch.Tensor]:
        """Return what is added to the scores, by kind of layer where there are two kinds."""
        full = _bias(mask, past_mask)
        if before:
            full = torch.cat([full.new_zeros(1).expand(*full.shape[:3], before), full], dim=3)
        if self.window is None:
            return full
        sliding = torch.minimum(full, _window_bias(past_mask, positions, self.window))
        return {_FULL: full, _SLIDING: sliding} if self.mixed else sliding


class Product(nn.Module):
    """A linear layer as x W + b with W [inputs, outputs].

    The export keeps W's name, which a transpose would lose.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().contiguous(), requires_grad=False)
        self.bias = (
            None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the product: [..., inputs] -> [..., outputs]."""
        product = torch.matmul(values, self.weight)
        return product if self.bias is None else product + self.bias


def load_decoder(
    folder: Path,
    longest: int,
    *,
    beside: bool = False,
    adapter: Path | None = None,
    prefix_in: PrefixTexts | None = None,
) -> tuple[CachedDecoder, CacheLayout, Probe, Shapes]:
    """Load the model of a Hugging Face folder, or of a GGUF file, in FP32.

    With `beside`, its weights are mapped from files, and take no memory that is not given back. An
    `adapter` is asked beside the weights, as its users run it, and merged into what is returned. A
    prefix is found in texts, where they are given, and stands before every text.

    Returns:
        The model, its cache, a probe and the probe's dynamic dimensions.

    Raises:
        ValueError: when the model has fewer positions than `longest`, or layers that attend in a
            way that cannot be exported; whatever transformers raises passes.
    """
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    stored = torch.float32 if is_gguf(folder) else stored_type(folder)
    with quietly() if is_gguf(folder) else nullcontext():
        if beside and adapter is None:
            model = _with_mapped_weights(folder, stored)
        else:
            model = _pretrained(folder, torch.float32)
    require_finite(model)
    config = model.config
    positions = getattr(config, "max_position_embeddings", None)
    if positions and longest > positions:
        raise ValueError(
            f"input.max_length and input.new_tokens need {longest} positions; the model has "
            f"{positions}"
        )
    window, mixed = _window(config, longest)
    adapted = model if adapter is None else laid_beside(model, adapter)
    found = None if prefix_in is None else _prefix(adapted, prefix_in, longest, window)
    before = () if found is None else found.tokens
    with torch.no_grad():
        asked = _original(adapted, int(config.vocab_size), longest, window, before)
    constants = cached(adapted, before) if before else None
    if adapter is not None:
        model = merged(adapted)
        if beside:
            map_weights(model)
    # Eager attention exports to plain products and a softmax, which every target parses.
    model.set_attn_implementation("eager")
    decoder = CachedDecoder(model, window, mixed=mixed, prefix=constants).eval()
    decoder.original, decoder.found = asked, found
    with torch.no_grad():
        layout = _layout(decoder)
    spell_products(model)
    return decoder, layout, _probe(layout, int(config.vocab_size)), _shapes(layout, longest)


def _pretrained(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    """Load a folder's weights in a type.

    Raises:
        ValueError: for weights that the folder lacks, because transformers would make them up.
    """
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        **where_from(folder),
        local_files_only=True,
        trust_remote_code=False,
        dtype=dtype,
        output_loading_info=True,
    )
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(
            f"the weights lack {', '.join(missing[:3])}: they are of another model than "
            "config.json says"
        )
    loaded: PreTrainedModel = model.eval()
    return loaded


def _with_mapped_weights(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    """Load weights as they are stored, and map them in float32.

    What the model computes when it is made is in float32, or it is loaded so.
    """
    model = _pretrained(folder, dtype)
    made = [item.dtype for item in model.buffers() if item.is_floating_point()]
    if any(kind != torch.float32 for kind in made):
        model = _pretrained(folder, torch.float32)
    map_weights(model)
    return model


def flatten(probe: Probe) -> dict[str, torch.Tensor]:
    """Return a probe as the graph's inputs by name."""
    past = probe["past"]
    flat = {name: value for name, value in probe.items() if isinstance(value, torch.Tensor)}
    names = (f"past.{layer}.{part}" for layer in range(len(past) // 2) for part in ("key", "value"))
    return flat | dict(zip(names, past, strict=True))


def cut(probe: Probe, cases: int, past: int, tokens: int) -> Probe:
    """Return the first cases of a probe, with fewer cached and fewer new tokens."""
    lengths = {"past_mask": past}
    shorter: Probe = {
        name: value[:cases, : lengths.get(name, tokens)].contiguous()
        for name, value in probe.items()
        if isinstance(value, torch.Tensor)
    }
    shorter["past"] = [tensor[:cases, :, :past].contiguous() for tensor in probe["past"]]
    return shorter


def with_layers(probe: Probe, shapes: Shapes, layers: int) -> tuple[Probe, Shapes]:
    """Return a probe and its dynamic dimensions for the first layers alone."""
    ends = 2 * layers
    past, dimensions = probe["past"], shapes["past"]
    if not isinstance(past, list) or not isinstance(dimensions, list):
        raise TypeError(f"a cache is a list of tensors, not {type(past).__name__}")
    return {**probe, "past": past[:ends]}, {**shapes, "past": dimensions[:ends]}


def _bias(mask: torch.Tensor, past_mask: torch.Tensor) -> torch.Tensor:
    """Return 0 where a new token may look, else the lowest float.

    [batch, T], [batch, P] -> [batch, 1, T, P + T].
    """
    tokens, past = mask.shape[1], past_mask.shape[1]
    real = torch.cat([past_mask, mask], dim=1)[:, None, None, :] > 0
    columns = torch.arange(past + tokens, device=mask.device)[None, :]
    rows = past + torch.arange(tokens, device=mask.device)[:, None]
    allowed = (columns <= rows)[None, None] & real
    return torch.where(allowed, 0.0, torch.finfo(torch.float32).min)


def _window_bias(past_mask: torch.Tensor, positions: torch.Tensor, window: int) -> torch.Tensor:
    """Return 0 where a token is fewer than `window` positions back, else the lowest float.

    [batch, P], [batch, T] -> [batch, 1, T, P + T]. Padding takes no position.
    """
    before = past_mask.cumsum(1) - 1
    columns = torch.cat([before, positions], dim=1)[:, None, None, :]
    near = positions[:, None, :, None] - columns < window
    return torch.where(near, 0.0, torch.finfo(torch.float32).min)


def _window(config: "PretrainedConfig", longest: int) -> tuple[int | None, bool]:
    """Return the window that texts of `longest` tokens outgrow, and whether some layers have none.

    Raises:
        ValueError: when layers attend otherwise, or positions are told by ALiBi.
    """
    family = config.model_type
    if family == "bloom" or getattr(config, "alibi", False):
        raise ValueError(
            f"{family} tells positions by ALiBi, which is built from a mask that the graph lacks: "
            "bring a model.onnx with its cache instead"
        )
    kinds = set(getattr(config, "layer_types", None) or ())
    if kinds - _KINDS:
        raise ValueError(
            f"{family} has layers of {', '.join(sorted(kinds - _KINDS))}, which cannot be "
            "exported: bring a model.onnx with its cache instead"
        )
    window = getattr(config, "sliding_window", None)
    if window is None or window >= longest or kinds == {_FULL}:
        return None, False
    return int(window), kinds == _KINDS


def _prefix(
    model: "PreTrainedModel", texts: PrefixTexts, longest: int, window: int | None
) -> FoundPrefix | None:
    """Return the prefix of a model, measured; None where no token is massive.

    Raises:
        ValueError: for a model that forgets a prefix, or has no positions left for one.
    """
    if window is not None:
        raise ValueError(
            f"input.prefix: a window of {window} tokens forgets what stands before it, and texts "
            f"of {longest} tokens outgrow it: leave input.prefix out"
        )
    found = find_prefix(model, texts)
    positions = getattr(model.config, "max_position_embeddings", None)
    needed = longest + (0 if found is None else len(found.tokens))
    if positions and needed > positions:
        raise ValueError(
            f"input.max_length, input.new_tokens and a prefix of {needed - longest} need {needed} "
            f"positions; the model has {positions}"
        )
    return found


def _original(
    model: nn.Module,
    vocabulary: int,
    longest: int,
    window: int | None,
    prefix: Sequence[int],
) -> OriginalText:
    """Ask the model itself, past its window and with padding; a prefix as the tokens it is."""
    tokens = min(longest, max(2 * BEYOND, (window or 0) + BEYOND))
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (2, tokens), generator=random)
    mask = torch.ones_like(ids)
    mask[1, tokens - min(2, tokens - 1) :] = 0
    before = torch.tensor([list(prefix)], dtype=torch.int64).expand(len(ids), -1)
    whole = model(
        input_ids=torch.cat([before, ids], 1),
        attention_mask=torch.cat([torch.ones_like(before), mask], 1),
    )
    return OriginalText(ids, mask, whole.logits[:, len(prefix) :])


def _layout(decoder: CachedDecoder) -> CacheLayout:
    """Ask the model itself: configurations of families name heads and widths differently."""
    cache = decoder.model(
        input_ids=torch.zeros((1, 2), dtype=torch.int64), use_cache=True
    ).past_key_values
    layers = tuple((int(layer.keys.shape[1]), int(layer.keys.shape[3])) for layer in cache.layers)
    stop = getattr(decoder.model, "generation_config", None) or decoder.model.config
    stops = getattr(stop, "eos_token_id", None)
    return CacheLayout(
        layers,
        () if stops is None else tuple(stops) if isinstance(stops, Sequence) else (int(stops),),
    )


def spell_products(model: nn.Module) -> None:
    """Replace linear layers, and GPT-2's transposed ones, by products of the same arithmetic.

    An embedding that is tied to one stays so: its table is the product's matrix, turned.
    """
    from transformers.pytorch_utils import Conv1D

    tables = [layer for layer in model.modules() if isinstance(layer, nn.Embedding)]
    for name, layer in list(model.named_modules()):
        if not isinstance(layer, nn.Linear | Conv1D):
            continue
        parent, _, leaf = name.rpartition(".")
        weight = layer.weight.T if isinstance(layer, nn.Linear) else layer.weight
        product = Product(weight, layer.bias)
        for table in tables:
            if is_tied(table, layer):
                table.weight = nn.Parameter(product.weight.T, requires_grad=False)
        setattr(model.get_submodule(parent), leaf, product)


def _probe(layout: CacheLayout, vocabulary: int) -> Probe:
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([PROBE_TOKENS, 6, 4])
    lost = torch.tensor([0, 2, PROBE_PAST])
    mask = torch.arange(PROBE_TOKENS)[None, :] < lengths[:, None]
    past_mask = torch.arange(PROBE_PAST)[None, :] >= lost[:, None]
    before = past_mask.sum(1, keepdim=True)
    return {
        "input_ids": torch.randint(0, vocabulary, (3, PROBE_TOKENS), generator=random),
        "attention_mask": mask.to(torch.int64),
        "position_ids": (before + torch.arange(PROBE_TOKENS)[None, :]).to(torch.int64),
        "past_mask": past_mask.to(torch.int64),
        "past": [
            torch.randn(3, heads, PROBE_PAST, width, generator=random)
            for heads, width in layout.layers
            for _ in ("key", "value")
        ],
    }


def _shapes(layout: CacheLayout, longest: int) -> Shapes:
    batch, tokens, past = (
        Dim("batch", min=1, max=1024),
        Dim("tokens", min=1, max=longest),
        Dim("past", max=longest),
    )
    new, old = {0: batch, 1: tokens}, {0: batch, 1: past}
    cache: list[dict[int, Dim]] = [{0: batch, 2: past} for _ in layout.names]
    return {
        "input_ids": new,
        "attention_mask": new,
        "position_ids": new,
        "past_mask": old,
        "past": cache,
    }
