"""A fixed prefix before every text, for the few tokens that carry massive activations.

A language model's first token, and some others, have activations hundreds of times those of all
other tokens: one static scale serves either them or the rest. Where they stand before every text,
no token of a text becomes massive. So their keys and values are constants of the graph, in full
precision, and what is quantized never sees them (PrefixQuant, arXiv 2410.05265; CushionCache,
arXiv 2406.12016).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, exp
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from infra.errors import BadInput
from tasks.models.language.layout import FoundPrefix

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

    from tasks.specs.spec import Budgets

MASSIVE = 20.0
"""Times the median of a text's tokens, from which the largest input of a token is massive."""
LONGEST = 4
"""Tokens of a prefix, at most."""
Rows = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class PrefixTexts:
    """What a prefix is found in."""

    rows: Rows  # token ids of texts, as the model reads them
    first: int | None  # the token that a text usually begins with; None: any


class PrefixOfLayer(nn.Module):
    """Keys and values of a layer, [1, heads, tokens, width]; constants of an export."""

    key: torch.Tensor
    value: torch.Tensor

    def __init__(self, key: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__()
        self.key = nn.Parameter(key.detach().contiguous(), requires_grad=False)
        self.value = nn.Parameter(value.detach().contiguous(), requires_grad=False)


class Prefix(nn.Module):
    """Keys and values that stand before every text, by layer; names of weights hold its number."""

    def __init__(self, layers: Sequence[PrefixOfLayer]) -> None:
        super().__init__()
        self.tokens = layers[0].key.shape[2]
        for place, layer in enumerate(layers):
            self.add_module(str(place), layer)

    def layer(self, number: int) -> PrefixOfLayer:
        """Return what stands before a layer's keys and values."""
        layer: PrefixOfLayer = self.get_submodule(str(number))  # type: ignore[assignment]
        return layer


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """What the model made of one text."""

    loss: float  # natural logarithms, summed over its tokens but the first
    greedy: torch.Tensor  # the likeliest token after each, [tokens]


def find_prefix(model: PreTrainedModel, texts: PrefixTexts) -> FoundPrefix | None:
    """Return the token that texts begin with, where the first one is massive, and others that are.

    As many others as a text has on average, rounded up, the most frequent ones first. A token is
    massive where the input of any linear layer but the head's says so. None where none is.
    """
    first, later, plain = Counter[int](), Counter[int](), []
    with torch.no_grad(), _largest_inputs(model) as largest:
        for row in texts.rows:
            largest.clear()
            plain.append(_read(model, (), row))
            massive = torch.stack([item > MASSIVE * item.median() for item in largest.values()])
            places = massive.any(0).nonzero().flatten().tolist()
            first.update(row[place] for place in places if place == 0)
            later.update(row[place] for place in places if place > 0)
    begins = [token for token, _ in first.most_common(1)]
    if begins and texts.first is not None:
        begins = [texts.first]
    others = [token for token, _ in later.most_common() if token not in begins]
    many = ceil(later.total() / len(texts.rows))
    tokens = (*begins, *others[:many])[:LONGEST]
    return _measured(model, tokens, texts.rows, plain) if tokens else None


def _read(model: PreTrainedModel, before: Sequence[int], row: Sequence[int]) -> _Read:
    ids = torch.tensor([*before, *row])
    logits = model(input_ids=ids[None]).logits[0, len(before) :]
    loss = nn.functional.cross_entropy(logits[:-1], ids[len(before) + 1 :], reduction="sum")
    return _Read(float(loss), logits.argmax(-1))


def _measured(
    model: PreTrainedModel, tokens: Sequence[int], rows: Rows, plain: Sequence[_Read]
) -> FoundPrefix:
    """Tell what full precision is behind a prefix, beside what it is without one."""
    with torch.no_grad():
        behind = [_read(model, tokens, row) for row in rows]
    more = sum(new.loss - old.loss for new, old in zip(behind, plain, strict=True))
    same = [(new.greedy == old.greedy) for new, old in zip(behind, plain, strict=True)]
    predicted = max(1, sum(len(row) - 1 for row in rows))
    return FoundPrefix(tuple(tokens), exp(more / predicted), float(torch.cat(same).double().mean()))


@contextmanager
def _largest_inputs(model: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Keep each token's largest input magnitude, [tokens], by linear layer."""
    from transformers.pytorch_utils import Conv1D

    largest: dict[str, torch.Tensor] = {}
    head = getattr(model, "get_output_embeddings", lambda: None)()

    def looking(name: str) -> Any:
        def look(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if inputs[0].dim() == 3:
                largest[name] = inputs[0][0].abs().amax(-1)

        return look

    handles = [
        part.register_forward_pre_hook(looking(name))
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and part is not head
    ]
    try:
        yield largest
    finally:
        for handle in handles:
            handle.remove()


def cached(model: PreTrainedModel, tokens: Sequence[int]) -> Prefix:
    """Return the keys and values of a prefix, in full precision."""
    ids = torch.tensor([list(tokens)])
    with torch.no_grad():
        layers = model(input_ids=ids, use_cache=True).past_key_values.layers
    return Prefix([PrefixOfLayer(layer.keys, layer.values) for layer in layers])


def require_harmless(found: FoundPrefix | None, budgets: Budgets) -> None:
    """Refuse a prefix that costs full precision more than the budgets allow a candidate.

    Candidates are compared with full precision behind it, so that no gate sees that part.

    Args:
        found: With what it does on the texts that it was found in; None: nothing is massive.
        budgets: The spec's; those of one group alone are left out.

    Raises:
        BadInput: It costs more.
    """
    if found is None:
        return
    costs = {"perplexity-ratio": found.perplexity, "agreement": found.agreement}
    for rule in budgets.quality:
        if rule.metric not in costs or rule.group not in (None, "all"):
            continue
        cost, most, least = costs[rule.metric], rule.at_most, rule.at_least
        if (most is not None and cost > most) or (least is not None and cost < least):
            bound = f"at_least {least:g}" if most is None else f"at_most {most:g}"
            raise BadInput(
                "input.prefix: on texts of the pool full precision behind a prefix has "
                f"{rule.metric} {cost:.3f}, beside full precision without one, and budgets.quality "
                f"says {bound}: leave input.prefix out, or allow more"
            )


def behind(past: Sequence[torch.Tensor], prefix: Prefix | None) -> DynamicCache:
    """Return a cache of keys and values, alternating, that a prefix stands before.

    What a layer attends to begins with the prefix; what the cache keeps does not hold it.
    """
    from transformers import DynamicCache

    pairs = list(zip(past[::2], past[1::2], strict=True))
    if prefix is None:
        return DynamicCache(ddp_cache_data=pairs)
    of_layer = prefix.layer

    class Prefixed(DynamicCache):  # type: ignore[misc]  # transformers is untyped
        def update(
            self,
            key_states: torch.Tensor,
            value_states: torch.Tensor,
            layer_idx: int,
            *args: Any,
            **kwargs: Any,
        ) -> tuple[torch.Tensor, torch.Tensor]:
            keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
            before = of_layer(layer_idx)
            return _joined(before.key, keys), _joined(before.value, values)

    return Prefixed(ddp_cache_data=pairs)


def _joined(before: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
    return torch.cat([before.expand(whole.shape[0], -1, -1, -1), whole], dim=2)
