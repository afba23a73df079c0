"""Scores of one text's logits, where they were computed.

They are those of `tasks.metrics.next_token`, which a test holds them against: of a vocabulary of
128,000, logits of a text are half a gigabyte that need not leave a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.metrics.next_token import TOKENS_AT_ONCE, means_of_tokens

if TYPE_CHECKING:
    import torch


def scores_of_text(
    ids: torch.Tensor, expected: torch.Tensor, served: torch.Tensor, counted: list[bool] | None
) -> NDArray[np.float64]:
    """Return what `next_token_scores` finds of one text without padding, [5, 1].

    Args:
        ids: The text's tokens, [1, tokens].
        expected: Full precision's logits, [1, tokens, vocabulary], on any device.
        served: The candidate's; `expected` itself where both are one.
        counted: After which tokens the prediction counts; None: after all.

    Raises:
        BadInput: Logits are not finite.
    """
    import torch

    tokens = ids.shape[1]
    following = torch.zeros(tokens, dtype=torch.long)
    following[:-1] = ids[0, 1:]
    following = following.to(expected.device)
    parts = [
        _by_token(expected[0, part], served[0, part], following[part])
        for part in (
            slice(first, first + TOKENS_AT_ONCE) for first in range(0, tokens, TOKENS_AT_ONCE)
        )
    ]
    by_token = torch.cat(parts, 1).cpu().numpy()[:, None]
    chosen = None if counted is None else np.asarray([counted], bool)
    return means_of_tokens(by_token, np.ones((1, tokens), bool), chosen)


def _by_token(
    expected: torch.Tensor, served: torch.Tensor, following: torch.Tensor
) -> torch.Tensor:
    """Return both losses, whether both find the same token likeliest, and the divergence.

    Of logits [tokens, vocabulary]: [4, tokens].
    """
    import torch

    before = _log_probabilities(expected, "full precision")
    after = before if served is expected else _log_probabilities(served, "the candidate")
    losses = [-side.gather(1, following[:, None])[:, 0] for side in (before, after)]
    same = (before.argmax(1) == after.argmax(1)).float()
    divergence = (before.exp() * (before - after)).sum(1)
    return torch.stack([*losses, same, divergence])


def _log_probabilities(logits: torch.Tensor, name: str) -> torch.Tensor:
    import torch

    if not bool(torch.isfinite(logits).all()):
        raise BadInput(
            f"the logits of {name} hold NaN or infinity: the engine is broken, rebuild it"
        )
    return torch.log_softmax(logits.float(), -1)
