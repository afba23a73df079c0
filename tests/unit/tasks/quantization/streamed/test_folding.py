"""Smoothing scales of a static range: what they cost where calibrated, and what room they leave."""

import torch

from tasks.quantization.activation import awq_scales
from tasks.quantization.activation.smoothquant import ABOUT_BY_TOKEN, ALPHAS, BY_TOKEN
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.folding import protecting_scales, smoothing_scales
from tasks.quantization.streamed.observing import SiteView, Wanted
from tasks.quantization.streamed.rounding import nearest
from tasks.quantization.streamed.scheme import scheme_of

CHANNELS, ROWS = 192, 256
SCHEME = scheme_of(find_recipe("int8-smooth"))


def drawn(*, outliers: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows of channels that differ in size, with rows that do or without; and a weight."""
    random = torch.Generator().manual_seed(0)
    size = torch.randn(CHANNELS, generator=random).exp()
    rows = torch.randn(ROWS, CHANNELS, generator=random) * size
    if outliers:
        rows *= torch.randn(ROWS, CHANNELS, generator=random).exp()
    return rows, torch.randn(64, CHANNELS, generator=random)


def error(rows: torch.Tensor, weight: torch.Tensor, by: torch.Tensor, amax: torch.Tensor) -> float:
    """Return squared output error over squared output, under ranges of `amax`."""
    step = float((amax / by).max()) / 127
    read = (rows / by / step).round().clamp(-128, 127) * step
    rounded = nearest(weight * by, SCHEME.weights)
    made = read @ (rounded.values.float() * rounded.scales).T
    exact = rows @ weight.T
    return float((made - exact).square().sum() / exact.square().sum())


def test_channels_that_were_quiet_may_speak_at_hardly_any_cost() -> None:
    rows, weight = drawn()
    view = SiteView(Wanted(ranges=True, rows=True, gram=False), ROWS)
    view.add(rows)
    found = smoothing_scales(view, weight, SCHEME, 1, 1)
    assert found is not None
    amax = torch.from_numpy(view.channel_amax)
    searched = (amax**alpha / weight.abs().amax(0) ** (1 - alpha) for alpha in ALPHAS)
    plain = min(searched, key=lambda by: error(rows, weight, by, amax))
    assert error(rows, weight, found, amax) < 1.2 * error(rows, weight, plain, amax)
    louder = rows * torch.where(amax < amax.median(), 8.0, 1.0)
    assert error(louder, weight, found, amax) < error(louder, weight, plain, amax) / 10


def error_by_token(rows: torch.Tensor, weight: torch.Tensor, by: torch.Tensor) -> float:
    """Return the mean over tokens of squared output error over squared output."""
    smoothed = rows / by
    step = smoothed.abs().amax(1, keepdim=True) / 127
    read = (smoothed / step).round().clamp(-128, 127) * step
    rounded = nearest(weight * by, SCHEME.weights)
    made = read @ (rounded.values.float() * rounded.scales).T
    exact = rows @ weight.T
    return float(((made - exact).square().sum(1) / exact.square().sum(1)).mean())


def chosen_by_token(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the smoothing scales for a range of each token; 1 where none are chosen."""
    view = SiteView(Wanted(ranges=True, rows=True, gram=False), ROWS)
    view.add(rows)
    found = smoothing_scales(view, weight, scheme_of(find_recipe("int8-per-token")), 1, 1)
    return torch.ones(CHANNELS) if found is None else found


def best_by_amax(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the smoothing scales of least error that follow from largest magnitudes."""
    amax, largest = rows.abs().amax(0), weight.abs().amax(0)
    tried = (amax**alpha / largest ** (1 - alpha) for alpha in BY_TOKEN)
    return min(tried, key=lambda by: error_by_token(rows, weight, by))


def test_by_token_channels_are_divided_no_further_apart_than_it_pays() -> None:
    rows, weight = drawn(outliers=False)
    found, plain = chosen_by_token(rows, weight), best_by_amax(rows, weight)
    assert found.log2().std() < plain.log2().std() / 2
    most = 1.05 * ABOUT_BY_TOKEN
    assert error_by_token(rows, weight, found) < most * error_by_token(rows, weight, plain)
    amax = rows.abs().amax(0)
    louder = rows * torch.where(amax < amax.median(), 8.0, 1.0)
    assert error_by_token(louder, weight, found) < 0.7 * error_by_token(louder, weight, plain)


def test_by_token_a_few_massive_tokens_do_not_choose_for_all_others() -> None:
    rows, weight = drawn(outliers=False)
    rows[:4, :96] *= 300  # of other channels than are loud elsewhere
    most = 0.9 * error_by_token(rows, weight, best_by_amax(rows, weight))
    assert error_by_token(rows, weight, chosen_by_token(rows, weight)) < most


def test_awqs_scales_are_numpys() -> None:
    rows, weight = drawn()
    view = SiteView(Wanted(ranges=False, rows=True, gram=False), ROWS)
    view.add(rows)
    scheme = scheme_of(find_recipe("int4-awq"))
    found = protecting_scales(view, weight, scheme, 1, 1)
    expected = awq_scales.search(rows.numpy(), [weight.numpy()], scheme.weights).smoothing_scales
    assert found is not None
    assert expected is not None
    torch.testing.assert_close(found, torch.from_numpy(expected))
    by_heads = protecting_scales(view, weight, scheme, 2, 8)  # two heads read what one wrote
    assert by_heads is not None
    pairs = by_heads.view(-1, 2, 8)
    assert torch.equal(pairs[:, 0], pairs[:, 1])
