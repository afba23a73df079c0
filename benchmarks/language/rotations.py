"""Rotations that are folded into a decoder's weights; exact in full precision.

The residual stream is turned by one orthogonal matrix (R1), the values of each head by another
(R2): QuaRot (arXiv 2404.00456), SpinQuant (arXiv 2405.16406). Hadamard matrices with random signs
where the width is a power of two, random orthogonal ones elsewhere. Gains of norms go into the
layers behind them, so tied tables are no longer tied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_READERS = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_WRITERS = ("o_proj", "down_proj")


def orthogonal(width: int, seed: int) -> torch.Tensor:
    """Return an orthogonal matrix [width, width] in float64."""
    random = torch.Generator().manual_seed(seed)
    if width & (width - 1):
        normal = torch.randn(width, width, generator=random, dtype=torch.float64)
        return torch.linalg.qr(normal).Q
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < width:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    signs = torch.randint(0, 2, (width,), generator=random, dtype=torch.float64) * 2 - 1
    return signs[:, None] * matrix / width**0.5


def rotate(model: Any, *, heads: bool = True, seed: int = 0) -> None:
    """Turn a model of transformers in place: Llama, Qwen, Gemma and what is built like them.

    Args:
        model: A causal language model in float32.
        heads: Whether the values of each head are turned too (R2).
        seed: Of the matrices.

    Raises:
        ValueError: The model's norms are no RMSNorms before attention and feed-forward alone, or
            its layers are named otherwise.
    """
    decoder = model.model
    _require_plain(decoder)
    turn = orthogonal(model.config.hidden_size, seed)
    table, head = model.get_input_embeddings(), model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    _set(table, table.weight.double() @ turn)
    for number, layer in enumerate(decoder.layers):
        for norm, block in (
            (layer.input_layernorm, layer.self_attn),
            (layer.post_attention_layernorm, layer.mlp),
        ):
            gain = _take_gain(norm)
            for name, linear in block.named_children():
                if name in _READERS:
                    _set(linear, (linear.weight.double() * gain) @ turn)
                elif name in _WRITERS:
                    _set(linear, turn.T @ linear.weight.double(), turn.T)
        if heads:
            _turn_values(layer.self_attn, orthogonal(_head_width(model), seed + 1 + number))
    _set(head, (head.weight.double() * _take_gain(decoder.norm)) @ turn)


def _require_plain(decoder: Any) -> None:
    expected = {"input_layernorm", "post_attention_layernorm"}
    for layer in decoder.layers:
        norms = {name for name, _ in layer.named_children() if "norm" in name}
        linears = {
            name for block in (layer.self_attn, layer.mlp) for name, _ in block.named_children()
        }
        kinds = [type(getattr(layer, name)).__name__ for name in norms & expected]
        if norms != expected or not all("RMSNorm" in kind for kind in kinds):
            message = f"its layers have the norms {', '.join(sorted(norms))}: it is not turned"
            raise ValueError(message)
        if not {*_READERS, *_WRITERS} <= linears:
            message = f"its layers lack {', '.join(sorted({*_READERS, *_WRITERS} - linears))}"
            raise ValueError(message)


def _take_gain(norm: nn.Module) -> torch.Tensor:
    """Return a norm's gain in float64, and leave a gain of one."""
    from_zero = "Gemma" in type(norm).__name__  # Gemma stores how much it is more than one
    weight = norm.weight.detach().double()  # type: ignore[union-attr,operator]
    gain = 1 + weight if from_zero else weight
    rest = torch.zeros_like(weight) if from_zero else torch.ones_like(weight)
    norm.weight = nn.Parameter(rest.float(), requires_grad=False)
    return gain


def _set(layer: nn.Module, weight: torch.Tensor, turned_bias: torch.Tensor | None = None) -> None:
    layer.weight = nn.Parameter(weight.detach().float(), requires_grad=False)
    bias = getattr(layer, "bias", None)
    if turned_bias is not None and bias is not None:
        turned = (turned_bias @ bias.detach().double()).float()
        layer.bias = nn.Parameter(turned, requires_grad=False)


def _head_width(model: Any) -> int:
    config = model.config
    return int(
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )


def _turn_values(attention: Any, turn: torch.Tensor) -> None:
    values, output, width = attention.v_proj, attention.o_proj, len(turn)
    rows = values.weight.double().unflatten(0, (-1, width))  # [heads, width, inputs]
    _set(values, torch.einsum("de,hdi->hei", turn, rows).flatten(0, 1))
    if values.bias is not None:
        bias = values.bias.detach().double().unflatten(0, (-1, width)) @ turn
        values.bias = nn.Parameter(bias.flatten().float(), requires_grad=False)
    columns = output.weight.double().unflatten(1, (-1, width))  # [outputs, heads, width]
    _set(output, (columns @ turn).flatten(1))
