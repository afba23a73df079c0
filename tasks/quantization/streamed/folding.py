"""Smoothing scales that the part before takes, so that the checkpoint needs no place for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from tasks.layerwise.linear_sites import LinearSite
from tasks.numerics.formats import SMALLEST
from tasks.numerics.output_error import INT8_LARGEST
from tasks.quantization.activation import awq_scales
from tasks.quantization.activation.smoothquant import ABOUT_BY_TOKEN, ALPHAS, BY_TOKEN
from tasks.quantization.recipe.schemes import PerToken, Static
from tasks.quantization.streamed.observing import SiteView
from tasks.quantization.streamed.rounding import nearest, rows_at_once
from tasks.quantization.streamed.scheme import LayerScheme

if TYPE_CHECKING:
    import torch

    Parameters = dict[str, torch.Tensor]

TOLERANCE = 1e-3
"""Of a layer's result in float32, what an exact fold may change."""
LEAST_TAKEN = 0.5
"""Of the channels: what a fold has to change before it can be said to change nothing else."""
QUIET = (0.0, 0.75, 0.95)
"""Of a site's channels, those that count as its loudest one, in turn."""
ABOUT = 1.15
"""Times the least output error, what counts as much."""
_LEAST, _MOST = 1e-5, 1e5


def smoothing_scales(
    view: SiteView, weight: torch.Tensor, scheme: LayerScheme, shared: int, width: int
) -> torch.Tensor | None:
    """Return what divides a site's channels, [inputs] in float32; None where nothing is better.

    Xiao et al., "SmoothQuant" (2023), equation 4, with alpha by the output error on the rows kept,
    as `tasks.quantization.activation.smoothquant.search`. Of a static range, channels that were
    quiet count as some that were not: divided by what little they held, they would be cut off as
    soon as another text speaks through them. Of what costs about as much as the best, the one is
    taken that leaves the channels most room. A range of each token's own cuts nothing off, so that
    max|X_j| is a root mean square there, which a single token does not decide; and the one is taken
    that divides channels least apart, as another text speaks through others. Errors are relative
    to each token's own output: the few of massive activations would choose for all others.

    Args:
        view: What the site saw.
        weight: Of its readers, one below the other: [outputs, inputs] in float32.
        scheme: How they are quantized.
        shared: Heads that read the same channels of what is before: these have one scale.
        width: Channels of a head.
    """
    import torch

    rows = view.rows.to(weight.device)
    seen = torch.from_numpy(view.channel_amax).to(weight.device)
    by_token = isinstance(scheme.activation, PerToken)
    heard = rows.square().mean(0).sqrt() if by_token else seen
    activation = _pooled(heard, shared, width)
    largest = _pooled(weight.abs().amax(0), shared, width)
    tried: list[torch.Tensor | None] = [None]
    for quiet in QUIET:
        spoken = activation.clamp(min=float(activation.quantile(quiet)))
        for alpha in BY_TOKEN if by_token else (*ALPHAS, 1.0):
            dead = (spoken <= 0) | (largest <= 0)
            scales = (spoken**alpha / largest ** (1 - alpha)).clamp(_LEAST, _MOST)
            tried.append(torch.where(dead, 1.0, scales))
    lost = _errors(rows, seen, tried, weight, scheme)
    about = lost.min() * (ABOUT_BY_TOKEN if by_token else ABOUT)
    near = [tried[place] for place in (lost <= about).nonzero().flatten().tolist()]
    chosen: torch.Tensor | None = tried[int(lost.argmin())]
    if by_token:
        chosen = min(near, key=_unevenness)
    elif chosen is not None:
        chosen = max(near, key=lambda by: _headroom(activation, by))
    return chosen


def protecting_scales(
    view: SiteView, weight: torch.Tensor, scheme: LayerScheme, shared: int, width: int
) -> torch.Tensor | None:
    """Return what divides a site's channels for AWQ, [inputs] in float32; None: nothing is better.

    Lin et al. (2024), as `tasks.quantization.activation.awq_scales.search`, on the rows kept.

    Args:
        view: As of `smoothing_scales`, and so all others.
        weight: It.
        scheme: It.
        shared: It.
        width: It.
    """
    import torch

    rows = view.rows.to(weight.device)
    heard = _pooled(rows.abs().mean(0), shared, width).cpu().numpy()
    tried = [
        torch.from_numpy(awq_scales.smoothing_scales(heard, alpha)).to(weight.device)
        for alpha in awq_scales.ALPHAS
    ]
    lost = torch.zeros(len(tried), device=weight.device)
    plain = replace(scheme.weights, clipped=False)
    for part in torch.split(weight, rows_at_once(weight)):
        for place, by in enumerate(tried):
            rounded = nearest(part * by, plain)
            error = part - _wide(rounded.values, rounded.scales) / by
            lost[place] += (rows @ error.T).square().sum()
    best = int(lost.argmin())
    return tried[best] if awq_scales.ALPHAS[best] else None


def _errors(
    rows: torch.Tensor,
    seen: torch.Tensor,
    tried: Sequence[torch.Tensor | None],
    weight: torch.Tensor,
    scheme: LayerScheme,
) -> torch.Tensor:
    """Return what each of the scales tried makes of the outputs of rows, [tried].

    Squared error over a token's squared output, its mean.
    """
    import torch

    read = [(by, _read_through(rows, seen, by, scheme)) for by in tried]
    # Of each token, as of few outputs at a time: a weight is large.
    errors = torch.zeros((len(tried), len(rows)), device=weight.device)
    energy = torch.zeros(len(rows), device=weight.device)
    for part in torch.split(weight, rows_at_once(weight)):
        exact = rows @ part.T
        energy += exact.square().sum(1)
        for place, (by, given) in enumerate(read):
            rounded = nearest(part if by is None else part * by, scheme.weights)
            made = given @ _wide(rounded.values, rounded.scales).T
            errors[place] += (made - exact).square().sum(1)
    return (errors / energy.clamp(min=SMALLEST)).mean(1)


def _headroom(activation: torch.Tensor, by: torch.Tensor | None) -> float:
    """Return how far channels may grow before they are cut off: bits, 3 at most, their mean."""
    smoothed = activation if by is None else activation / by
    return float((smoothed.max() / smoothed.clamp(min=SMALLEST)).log2().clamp(max=3).mean())


def _unevenness(by: torch.Tensor | None) -> float:
    """Return how far channels are divided apart, in bits: their standard deviation."""
    return 0.0 if by is None else float(by.log2().std())


def _read_through(
    rows: torch.Tensor, seen: torch.Tensor, by: torch.Tensor | None, scheme: LayerScheme
) -> torch.Tensor:
    """Return rows as the readers get them when they are divided by `by` and quantized."""
    smoothed = rows if by is None else rows / by
    if isinstance(scheme.activation, PerToken):
        reach = smoothed.abs().amax(1, keepdim=True)
    else:
        reach = (seen if by is None else seen / by).max()
        if isinstance(scheme.activation, Static):
            reach = reach * scheme.activation.headroom
    step = reach.clamp(min=SMALLEST) / INT8_LARGEST
    return (smoothed / step).round().clamp(-128, 127) * step


def fold(
    parameters: Parameters, site: LinearSite, scales: torch.Tensor, shared: int, width: int
) -> torch.Tensor:
    """Divide what is before a site by its scales, and multiply its readers' inputs by them.

    A norm keeps its type, and the scales that come back are those which it really took.

    Args:
        parameters: Of a layer, in float32 but for norms; changed in place.
        site: With something before it.
        scales: [inputs].
        shared: As `smoothing_scales`.
        width: As `smoothing_scales`.

    Returns:
        The scales, [inputs].
    """
    import torch

    name = f"{site.before}.weight"
    before = parameters[name]
    if before.dim() == 1:
        divided = (before.float() / scales).to(before.dtype)
        usable = (divided != 0) & (before != 0)
        parameters[name] = torch.where(usable, divided, before)
        scales = torch.where(usable, before.float() / divided.float(), 1.0)
    else:
        own = scales.view(-1, shared, width)[:, 0].reshape(-1) if shared > 1 else scales
        parameters[name] = before / own[:, None]
        bias = f"{site.before}.bias"
        if bias in parameters:
            parameters[bias] = parameters[bias] / own
    for reader in site.readers:
        key = f"{reader}.weight"
        parameters[key] = parameters[key] * scales
    return scales


def exact_folds(
    parameters: Mapping[str, torch.Tensor],
    sites: Sequence[LinearSite],
    run: Callable[[Mapping[str, torch.Tensor]], torch.Tensor],
    sharing: Callable[[LinearSite], tuple[int, int]],
) -> frozenset[str]:
    """Return the names of the sites whose folds leave the layer's result as it was.

    Args:
        parameters: Of a layer, in float32.
        sites: Those of it.
        run: Computes the layer with parameters, in float32.
        sharing: Returns `shared` and `width` of a site.
    """
    import torch

    exact = run(parameters)
    found = set()
    for site in sites:
        if site.before is None or f"{site.before}.weight" not in parameters:
            continue
        changed = dict(parameters)
        inputs = changed[f"{site.readers[0]}.weight"].shape[1]
        shared, width = sharing(site)
        steps = torch.linspace(-1, 1, inputs, device=exact.device).exp2()
        trial = _pooled(steps, shared, width)
        try:
            taken = fold(changed, site, trial, shared, width)
        except RuntimeError:  # the part before has other channels than the site
            continue
        if float((taken != 1).float().mean()) < LEAST_TAKEN:  # zeros: nothing was tried
            continue
        lost = (run(changed) - exact).norm() / exact.norm().clamp(min=1e-30)
        if float(lost) < TOLERANCE:
            found.add(site.name)
    return frozenset(found)


def _pooled(values: torch.Tensor, shared: int, width: int) -> torch.Tensor:
    """Return the largest of the channels that share one scale, at each of them."""
    if shared == 1:
        return values
    heads = values.view(-1, shared, width)
    return heads.amax(1, keepdim=True).expand_as(heads).reshape(-1)


def _wide(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    outputs, inputs = values.shape
    blocks = values.float().view(outputs, scales.shape[1], -1)
    return (blocks * scales[:, :, None]).view(outputs, inputs)
