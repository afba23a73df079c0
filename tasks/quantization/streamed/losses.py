"""What rounding each site costs by itself, and which stay in floating point or get more bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.errors import BadInput
from infra.processes.memory import return_freed
from tasks.layerwise.linear_sites import LinearSite, fused_name
from tasks.layerwise.rounding import rounding_activations
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.checkpoints.stored import CheckpointTensors
from tasks.numerics.formats import SMALLEST
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.mixed_precision import SiteCost, within
from tasks.quantization.streamed.derive import TOKENS_AT_ONCE
from tasks.quantization.streamed.layer import LayerQuantizer, pattern_of
from tasks.quantization.streamed.observing import SiteView, watching
from tasks.quantization.streamed.rounding import most_bits
from tasks.quantization.streamed.scheme import LayerScheme, scheme_of
from tasks.specs.form import share_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class SiteLoss:
    """One site, quantized where nothing else of its layer is; or several, each by itself."""

    readers: tuple[str, ...]  # its linear layers, by their full names
    shapes: tuple[tuple[int, int], ...]  # outputs and inputs of each
    of_scale: int  # bits of one of its scales, at most
    lost: float | None  # of the layer's result: squared error / squared norm, mean of tokens

    @property
    def weights(self) -> int:
        """Return how many weights its linear layers have."""
        return sum(outputs * inputs for outputs, inputs in self.shapes)


@dataclass(frozen=True, slots=True)
class CheckpointPlacement:
    """Which linear layers of a checkpoint are treated unlike the others."""

    keep: str | None = None  # finds those in floating point, as of `derive`
    raised: tuple[str, ...] = ()  # those of more bits, by their full names


def place(
    keep: str | None,
    stored: CheckpointTensors,
    recipe: Recipe,
    calibration: torch.Tensor | None,
    *,
    device: str = "cpu",
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> CheckpointPlacement:
    """Choose by measured losses, where `keep` is a share or the recipe has a mean of bits.

    Args:
        keep: A regular expression of `derive`, or how many of the linear layers' weights, such as
            10%: those that lose most stay in floating point.
        stored: As of `losses_alone`, and so all others.
        recipe: It.
        calibration: It; None is enough where nothing is to be measured.
        device: It.
        told: It.

    Raises:
        BadInput: As `losses_alone`; `keep` is no regular expression, no percentage or less than any
            linear layer has; or the model's layers have more bits on average than are asked for.
    """
    try:
        share = share_of(keep or "")
    except ValueError as exc:
        raise BadInput(str(exc)) from exc
    if share is None and recipe.raised is None:
        return CheckpointPlacement(keep)
    if calibration is None:
        asked = f"recipe {recipe.name}" if share is None else f"keep {keep!r}"
        raise BadInput(f"{asked} asks which layers lose most: name texts to observe")
    named = pattern_of(keep) if share is None else None
    losses = losses_alone(stored, recipe, calibration, device=device, told=told)
    if share is not None:
        named = pattern_of(kept_pattern(losses, share))
    raised = raised_layers(losses, scheme_of(recipe), named)
    return CheckpointPlacement(named.pattern if named else None, raised)


def losses_alone(
    stored: CheckpointTensors,
    recipe: Recipe,
    calibration: torch.Tensor,
    *,
    device: str = "cpu",
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> tuple[SiteLoss, ...]:
    """Return what each site of every decoder layer costs by itself; of routed experts nothing.

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
    return _fused(found)


def _fused(losses: Sequence[SiteLoss]) -> tuple[SiteLoss, ...]:
    """Return sites as one that servers multiply by as one: all of it has one format."""
    parts: dict[str, list[SiteLoss]] = {}
    for item in losses:
        parts.setdefault(fused_name(item.readers[0]), []).append(item)
    return tuple(
        SiteLoss(
            tuple(name for item in group for name in item.readers),
            tuple(shape for item in group for shape in item.shapes),
            max(item.of_scale for item in group),
            None if group[0].lost is None else sum(item.lost or 0.0 for item in group),
        )
        for group in parts.values()
    )


def kept_pattern(losses: Sequence[SiteLoss], share: float) -> str:
    """Return what finds the linear layers in floating point: the least loss for their weights.

    Args:
        losses: Of all sites; routed experts' stay quantized.
        share: Of the others' weights, how many may stay at most, between 0 and 1.

    Raises:
        BadInput: Not one site has so few weights.
    """
    costs = {
        item.readers: SiteCost(item.readers[0], item.lost, item.weights)
        for item in losses
        if item.lost is not None
    }
    room = share * sum(cost.cost for cost in costs.values())
    chosen = within([*costs.values()], room).kept
    kept = [name for readers in costs if readers[0] in chosen for name in readers]
    if not kept:
        raise BadInput(f"keep {share:.4%} is less than any linear layer has: keep more")
    return f"^(?:{'|'.join(map(re.escape, kept))})$"


def raised_layers(
    losses: Sequence[SiteLoss], scheme: LayerScheme, keep: re.Pattern[str] | None
) -> tuple[str, ...]:
    """Return the linear layers that have more bits: the least loss within the scheme's mean.

    The mean is over all that is quantized, values and scales, and so leaves out what stays in
    floating point. A site that is raised counts as without loss: by their squared error, SmolLM2's
    weights lose an 80th to a 140th in INT8 of what they lose in INT4.

    Args:
        losses: Of all sites; routed experts are never raised, as all have one format.
        scheme: With a mean of bits, or without: then there are none.
        keep: Finds those in floating point; None: there are none.

    Raises:
        BadInput: Without any raised, a weight has more bits already.
    """
    if scheme.raised is None:
        return ()
    weights, least = 0, 0
    able = dict[str, tuple[str, ...]]()
    costs: list[SiteCost] = []
    for item in losses:
        taken = {
            name: shape
            for name, shape in zip(item.readers, item.shapes, strict=True)
            if keep is None or not keep.search(name)
        }
        low, high = (_bits(item, scheme, taken, raised=raised) for raised in (False, True))
        weights += sum(outputs * inputs for outputs, inputs in taken.values())
        least += low
        if taken and item.lost is not None:
            able[item.readers[0]] = (*taken,)
            costs.append(SiteCost(item.readers[0], item.lost, high - low))
    if least > scheme.raised.bits * weights:
        raise BadInput(
            f"recipe {scheme.recipe}: a weight of this model has {least / weights:.2f} bits at "
            "least, with its share of a scale, in the blocks that its layers can have: ask for more"
        )
    chosen = within(costs, scheme.raised.bits * weights - least).kept
    return tuple(name for site in chosen for name in able[site])


def _bits(
    item: SiteLoss, scheme: LayerScheme, layers: Mapping[str, tuple[int, int]], *, raised: bool
) -> int:
    return sum(
        scheme.weights_of(inputs, raised=raised).stored_bits(outputs, inputs, item.of_scale)
        for outputs, inputs in layers.values()
    )


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
            self._site(
                layer,
                site,
                original,
                None
                if site.routed
                else self._lost(layer, site, original, views, example, (hidden, call, exact)),
            )
            for site in self._whole.sites(layer)
        ]
        return found, exact

    def _site(
        self,
        layer: int,
        site: LinearSite,
        original: Mapping[str, torch.Tensor],
        lost: float | None,
    ) -> SiteLoss:
        weights = [original[f"{name}.weight"] for name in site.readers]
        prefix = self._decoder.prefix(layer)
        return SiteLoss(
            tuple(prefix + name for name in site.readers),
            tuple((weight.shape[0], weight.shape[1]) for weight in weights),
            most_bits(weights[0].dtype),
            lost,
        )

    def _lost(
        self,
        layer: int,
        site: LinearSite,
        original: Mapping[str, torch.Tensor],
        views: Mapping[str, SiteView],
        example: tuple[torch.Tensor, LayerCall] | None,
        passed: tuple[torch.Tensor, LayerCall, torch.Tensor],
    ) -> float:
        hidden, call, exact = passed
        made = self._alone_of(site).quantize(layer, original, views, example)
        with (
            self._decoder.loaded(layer, made.parameters()) as module,
            rounding_activations(module, made.quantized),
        ):
            error = self._decoder.run(layer, hidden, call).float() - exact.float()
        norms = exact.float().square().sum(-1).clamp(min=SMALLEST)
        return float((error.square().sum(-1) / norms).mean())

    def _alone_of(self, site: LinearSite) -> LayerQuantizer:
        """Return what quantizes this site of a layer; experts too, which all have one format."""
        if site.name not in self._alone:
            others = f"^(?!.*(?:{'|'.join(_ends(site))}))(?!.*experts)"
            self._alone[site.name] = LayerQuantizer(self._decoder, self._scheme, others)
        return self._alone[site.name]


def _ends(site: LinearSite) -> Iterator[str]:
    return (rf"\.{re.escape(name)}$" for name in site.readers)
