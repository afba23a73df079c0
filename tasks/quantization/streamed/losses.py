"""What rounding each site costs by itself, and which to leave in floating point for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BadInput
from infra.processes.memory import return_freed
from tasks.layerwise.linear_sites import LinearSite
from tasks.layerwise.rounding import rounding_activations
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.checkpoints.stored import CheckpointTensors
from tasks.numerics.formats import SMALLEST
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.streamed.derive import TOKENS_AT_ONCE
from tasks.quantization.streamed.layer import LayerQuantizer
from tasks.quantization.streamed.observing import SiteView, watching
from tasks.quantization.streamed.scheme import LayerScheme, scheme_of
from tasks.specs.form import share_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SiteLoss:
    """One site, quantized where nothing else of its layer is."""

    readers: tuple[str, ...]  # its linear layers, by their full names
    weights: int  # of them
    lost: float  # of the layer's result: squared error / squared norm, mean of tokens


def named_or_lossy(
    keep: str | None,
    stored: CheckpointTensors,
    recipe: Recipe,
    calibration: torch.Tensor | None,
    *,
    device: str = "cpu",
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> str | None:
    """Return what finds the linear layers that stay in floating point, as `keep` of `derive`.

    Args:
        keep: That already, or how many of their weights, such as 10%: those that lose most.
        stored: As of `losses_alone`, and so all others.
        recipe: It.
        calibration: It; None is enough where `keep` is no percentage.
        device: It.
        told: It.

    Raises:
        BadInput: As `losses_alone`; or the percentage is none, or below any linear layer's.
    """
    try:
        share = share_of(keep or "")
    except ValueError as exc:
        raise BadInput(str(exc)) from exc
    if share is None:
        return keep
    if calibration is None:
        raise BadInput(f"keep {keep!r} asks which layers lose most: name texts to observe")
    return kept_pattern(losses_alone(stored, recipe, calibration, device=device, told=told), share)


def losses_alone(
    stored: CheckpointTensors,
    recipe: Recipe,
    calibration: torch.Tensor,
    *,
    device: str = "cpu",
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> tuple[SiteLoss, ...]:
    """Return what each site of every decoder layer costs by itself; experts' are left out.

    A layer reads what full precision hands it, so that a site's figure is its own alone.

    Args:
        stored: A causal language model's.
        recipe: As of `tasks.quantization.streamed.derive.derive`.
        calibration: Token ids, [windows, tokens]; of them evenly spaced ones, as many as a layer
            reads at once.
        device: Where layers are computed.
        told: Called before each layer with its number, from 1, and how many there are.

    Raises:
        BadInput: The checkpoint or the recipe.
    """
    decoder = StreamedDecoder(stored, device)
    probe = _Probe(decoder, scheme_of(recipe))
    hidden, calls = decoder.begin(_probed(calibration, TOKENS_AT_ONCE[decoder.device.type]))
    found: list[SiteLoss] = []
    for layer in range(decoder.layers):
        told(layer + 1, decoder.layers)
        losses, hidden = probe.losses(layer, hidden, calls[layer])
        found += losses
        return_freed()
    return tuple(found)


def kept_pattern(losses: Sequence[SiteLoss], share: float) -> str:
    """Return what finds the linear layers that lose most for their weights.

    Args:
        losses: Of all sites.
        share: Of their weights, how many may stay in floating point at most, between 0 and 1.

    Raises:
        BadInput: Not one site has so few weights.
    """
    left = share * sum(item.weights for item in losses)
    kept: list[str] = []
    for item in sorted(losses, key=lambda item: item.lost / item.weights, reverse=True):
        if item.weights <= left:
            left -= item.weights
            kept += item.readers
    if not kept:
        raise BadInput(f"keep {share:.4%} is less than any linear layer has: keep more")
    return f"^(?:{'|'.join(map(re.escape, kept))})$"


def _probed(windows: torch.Tensor, most: int) -> torch.Tensor:
    """Return evenly spaced windows of so many tokens in all."""
    count = min(max(most // windows.shape[1], 1), len(windows))
    return windows[[place * len(windows) // count for place in range(count)]]


class _Probe:
    """Quantizes one site of a layer at a time."""

    def __init__(self, decoder: StreamedDecoder, scheme: LayerScheme) -> None:
        self._decoder, self._scheme = decoder, scheme
        self._whole = LayerQuantizer(decoder, scheme, None)
        self._alone: dict[str, LayerQuantizer] = {}

    def losses(
        self, layer: int, hidden: torch.Tensor, call: LayerCall
    ) -> tuple[list[SiteLoss], torch.Tensor]:
        """Return the losses of a layer's sites, and what full precision makes of hidden states."""
        decoder = self._decoder
        original = decoder.original(layer)
        tokens = hidden.shape[0] * hidden.shape[1]
        watched = self._whole.watched(layer)
        with (
            decoder.loaded(layer, original) as module,
            watching(module, watched, self._whole.wanted, tokens) as views,
        ):
            exact = decoder.run(layer, hidden, call)
        example = (hidden[:1], call.first()) if watched else None
        found = [
            self._lost(layer, site, original, views, example, (hidden, call, exact))
            for site in self._whole.sites(layer)
            if not site.routed
        ]
        return found, exact

    def _lost(
        self,
        layer: int,
        site: LinearSite,
        original: Mapping[str, torch.Tensor],
        views: Mapping[str, SiteView],
        example: tuple[torch.Tensor, LayerCall] | None,
        passed: tuple[torch.Tensor, LayerCall, torch.Tensor],
    ) -> SiteLoss:
        hidden, call, exact = passed
        made = self._alone_of(site).quantize(layer, original, views, example)
        with (
            self._decoder.loaded(layer, made.parameters()) as module,
            rounding_activations(module, made.quantized),
        ):
            error = self._decoder.run(layer, hidden, call).float() - exact.float()
        norms = exact.float().square().sum(-1).clamp(min=SMALLEST)
        prefix = self._decoder.prefix(layer)
        return SiteLoss(
            tuple(prefix + name for name in site.readers),
            sum(original[f"{name}.weight"].numel() for name in site.readers),
            float((error.square().sum(-1) / norms).mean()),
        )

    def _alone_of(self, site: LinearSite) -> LayerQuantizer:
        """Return what quantizes this site of a layer; experts too, which all have one format."""
        if site.name not in self._alone:
            others = f"^(?!.*(?:{'|'.join(_ends(site))}))(?!.*experts)"
            self._alone[site.name] = LayerQuantizer(self._decoder, self._scheme, others)
        return self._alone[site.name]


def _ends(site: LinearSite) -> Iterator[str]:
    return (rf"\.{re.escape(name)}$" for name in site.readers)
