"""The static range of what linear layers read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.numerics.formats import LARGEST, SMALLEST
from tasks.numerics.histogram import ExponentHistogram
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.schemes import PerToken, RangeRule, Static
from tasks.quantization.streamed.observing import SiteView
from tasks.quantization.streamed.rounding import stored_scales

if TYPE_CHECKING:
    import torch


def input_scale_of(
    activation: Static | PerToken | None,
    view: SiteView | None,
    by: torch.Tensor | None,
    kind: torch.dtype | None = None,
) -> float | None:
    """Return the step of a site's static range; None where it has none.

    Args:
        activation: How the site is quantized.
        view: What it saw.
        by: Its smoothing scales, [inputs]; None: it has none.
        kind: As of `stored_scales`: transformers computes with the step in the checkpoint's type.
    """
    import torch

    if not isinstance(activation, Static) or view is None:
        return None
    largest, rule = activation.format.largest, activation.rule
    if by is None:
        reach = amax(view.histogram, rule, largest)
    elif rule is RangeRule.MAX:
        reach = float((view.channel_amax / by.cpu().numpy()).max())
    else:
        kept = (view.rows / by).cpu().numpy()
        reach = amax(ExponentHistogram.of(kept), rule, largest)
    step = min(max(reach * activation.headroom, SMALLEST), LARGEST) / largest
    return float(stored_scales(torch.tensor([step], dtype=torch.float32), kind))
