"""One decoder layer, quantized from what its sites saw."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.layerwise.attention_cache import CacheScales, cached_attentions
from tasks.layerwise.linear_sites import LinearSite, linear_sites
from tasks.layerwise.quantized import LayerNotes, QuantizedLayer, StoredKind, read_layer
from tasks.layerwise.stored_layer import StoredLayer
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.checkpoints.experts import is_routed
from tasks.numerics.quantized_weight import WeightScheme
from tasks.quantization.recipe.schemes import PerToken, Static
from tasks.quantization.streamed.folding import (
    exact_folds,
    fold,
    protecting_scales,
    smoothing_scales,
)
from tasks.quantization.streamed.needs import WIDE
from tasks.quantization.streamed.observing import CacheView, SiteView, Wanted
from tasks.quantization.streamed.rounding import (
    Rounded,
    block_of,
    compensated,
    input_scale_of,
    nearest,
    protected,
)
from tasks.quantization.streamed.scheme import LayerScheme

if TYPE_CHECKING:
    import torch

SCARCE = 1 / 8
"""Tokens over inputs below which an expert is named. GPTQ stays: it is no worse than rounding to
the nearest from a few tokens on, and of an eighth it took 3 to 80 % of that error away."""


def pattern_of(keep: str | None) -> re.Pattern[str] | None:
    """Return what finds linear layers that stay in floating point; None: none do.

    Raises:
        BadInput: It is no regular expression.
    """
    try:
        return re.compile(keep) if keep else None
    except re.error as exc:
        raise BadInput(f"keep {keep!r} is no regular expression ({exc})") from exc


class LayerQuantizer:
    """Quantizes decoder layers one after the other, all by the same scheme."""

    def __init__(
        self,
        decoder: StreamedDecoder,
        scheme: LayerScheme,
        keep: str | None,
        raised: Collection[str] = (),
    ) -> None:
        """Set up.

        Args:
            decoder: With the layers.
            scheme: How they are quantized.
            keep: A regular expression; linear layers whose full name it finds stay in floating
                point.
            raised: Full names of the linear layers whose weights have more bits.

        Raises:
            BadInput: `keep` is no regular expression, or finds routed experts.
        """
        self._decoder, self._scheme, self._raised = decoder, scheme, frozenset(raised)
        self._keep = pattern_of(keep)
        self._foldable: dict[tuple[LinearSite, ...], frozenset[str]] = {}
        self._require_all_experts()
        if scheme.cache is not None:
            self._require_caches()

    def _require_all_experts(self) -> None:
        if self._keep is None:
            return
        routed = filter(is_routed, self._decoder.matrices)
        found = next(filter(self._keep.search, routed), None)
        if found:
            raise BadInput(
                f"keep {self._keep.pattern!r} finds the routed expert {found}, and transformers "
                "and vLLM read all of them in one format: write a pattern that finds none of them"
            )

    def _require_caches(self) -> None:
        recipe, decoder = self._scheme.recipe, self._decoder
        if getattr(decoder.model.config, "kv_lora_rank", None):
            raise BadInput(
                f"recipe {recipe} has scales for keys and values, and {decoder.kind} caches what "
                "both are made from: use the recipe without -kv"
            )
        if not any(map(self.caching, range(decoder.layers))):
            raise BadInput(
                f"recipe {recipe} has scales for keys and values, and no attention of "
                f"{decoder.kind} is known to cache them: use the recipe without -kv"
            )

    def caching(self, layer: int) -> tuple[str, ...]:
        """Return the attentions of a layer whose keys and values are to be cached in FP8."""
        return cached_attentions(self._decoder.module(layer)) if self._scheme.cache else ()

    def wanted(self, site: LinearSite) -> Wanted:
        """Return what is to be learned of a site: of routed experts, what GPTQ needs."""
        static = isinstance(self._scheme.activation, Static)
        ranges = (static or self._scheme.smooths) and not site.routed
        rows = ranges or (self._scheme.protects and not site.routed)
        return Wanted(ranges, rows, self._scheme.compensates)

    def sites(self, layer: int) -> tuple[LinearSite, ...]:
        """Return the sites of a layer with readers that are to be quantized."""
        return tuple(
            site
            for site in linear_sites(self._decoder.module(layer))
            if any(self._takes(layer, name) for name in site.readers)
        )

    def watched(self, layer: int) -> tuple[LinearSite, ...]:
        """Return the sites of a layer of which something is to be learned."""
        return tuple(site for site in self.sites(layer) if self.wanted(site).anything)

    def kept(self, layer: int) -> tuple[str, ...]:
        """Return the linear layers of a layer that stay in floating point, by their full names."""
        prefix = self._decoder.prefix(layer)
        return tuple(
            prefix + name
            for site in linear_sites(self._decoder.module(layer))
            for name in site.readers
            if not self._takes(layer, name)
        )

    def quantize(
        self,
        layer: int,
        original: Mapping[str, torch.Tensor],
        views: Mapping[str, SiteView],
        example: tuple[torch.Tensor, LayerCall] | None,
        handed: Mapping[str, CacheView] | None = None,
    ) -> QuantizedLayer:
        """Quantize a layer.

        Args:
            layer: Its number.
            original: Its parameters as they are stored, on the device.
            views: What its sites saw, by name; empty where the scheme learns nothing.
            example: Hidden states [1, tokens, width] before it and how it is called, on which folds
                are tried; None where nothing is smoothed.
            handed: What its attentions handed to their caches, by name; None: nobody asks.

        Raises:
            BadInput: No text reaches a static range.
        """
        sites, scheme = self.sites(layer), self._scheme
        smooth = [site for site in sites if not site.routed]
        parameters = _widened(original, smooth)
        scales, unsmoothed = self._smoothed(layer, parameters, tuple(smooth), views, example)
        quantized: dict[str, StoredLayer] = {}
        scarce: list[str] = []
        for site in sites:
            view, by = views.get(site.name), scales.get(site.name)
            names = [name for name in site.readers if self._takes(layer, name)]
            scales_in = _scales_in(original[f"{names[0]}.weight"])
            weight = _stacked(parameters, names)
            if site.routed and view is not None and view.seen < weight.shape[1] * SCARCE:
                scarce.append(site.name)
            stored = self.weights_of(layer, names[0])
            rounded = self._rounded(weight, stored, view, by, scales_in)
            activation = scheme.activation_of(site.routed)
            if isinstance(activation, Static) and view is not None and not view.seen:
                raise BadInput(
                    f"no text of the calibration set reaches {self._decoder.prefix(layer)}"
                    f"{names[0]}, so that it has no static range: ask for a recipe without any"
                )
            input_scale = input_scale_of(activation, view, by, scales_in)
            at = 0
            for name in names:
                rows = slice(at, at := at + len(parameters[f"{name}.weight"]))
                quantized[name] = StoredLayer(
                    rounded.values[rows],
                    rounded.scales[rows],
                    stored.format.bits,
                    block_of(stored, weight.shape[1]),
                    input_scale,
                    isinstance(activation, PerToken),
                )
        floats = {
            name: value.to(original[name].dtype)
            for name, value in parameters.items()
            if name.removesuffix(".weight") not in quantized
        }
        kind = _scales_in(min(original.values(), key=lambda value: value.dtype.itemsize))
        cached = {
            name: self._cache_scales(layer, name, view, kind)
            for name, view in (handed or {}).items()
        }
        return QuantizedLayer(floats, quantized, LayerNotes(unsmoothed, tuple(scarce)), cached)

    def _cache_scales(
        self, layer: int, name: str, view: CacheView, kind: torch.dtype | None
    ) -> CacheScales:
        key, value = (
            input_scale_of(self._scheme.cache, item, None, kind) if item.seen else None
            for item in (view.keys, view.values)
        )
        if key is None or value is None:
            raise BadInput(
                f"{self._decoder.prefix(layer)}{name} hands its cache no keys and values, and "
                f"recipe {self._scheme.recipe} has scales for them: use the recipe without -kv"
            )
        return CacheScales(key, value)

    def read(
        self, layer: int, state: Mapping[str, torch.Tensor], notes: LayerNotes
    ) -> QuantizedLayer:
        """Return what an earlier call wrote of a layer, on the device."""
        scheme, decoder = self._scheme, self._decoder

        prefix = decoder.prefix(layer)

        def kind_of(name: str) -> StoredKind:
            by_token = isinstance(scheme.activation_of(is_routed(name)), PerToken)
            own = name.removeprefix(prefix)
            stored, inputs = self.weights_of(layer, own), self._inputs(layer, own)
            return StoredKind(stored.format.bits, block_of(stored, inputs), by_token)

        return read_layer(state, prefix, kind_of, decoder.device, notes)

    def weights_of(self, layer: int, name: str) -> WeightScheme:
        """Return how the weights of a layer's linear layer are stored, by its own name."""
        raised = self._decoder.prefix(layer) + name in self._raised
        return self._scheme.weights_of(self._inputs(layer, name), raised=raised)

    def _inputs(self, layer: int, name: str) -> int:
        return int(getattr(self._decoder.module(layer).get_submodule(name), "in_features", 0))

    def _takes(self, layer: int, name: str) -> bool:
        return self._keep is None or not self._keep.search(self._decoder.prefix(layer) + name)

    def _rounded(
        self,
        weight: torch.Tensor,
        stored: WeightScheme,
        view: SiteView | None,
        by: torch.Tensor | None,
        scales_in: torch.dtype | None,
    ) -> Rounded:
        if self._scheme.protects and view is not None:
            rows = view.rows.to(weight.device)
            read = rows if by is None else rows / by
            return protected(weight, read, stored, scales_in)
        gram = None if view is None else view.gram
        if not self._scheme.compensates or gram is None:
            return nearest(weight, stored, scales_in)
        if by is not None:
            gram = gram / by / by[:, None]
        return compensated(weight, gram, stored, scales_in)

    def _smoothed(
        self,
        layer: int,
        parameters: dict[str, torch.Tensor],
        sites: tuple[LinearSite, ...],
        views: Mapping[str, SiteView],
        example: tuple[torch.Tensor, LayerCall] | None,
    ) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        """Fold each site's smoothing scales into what is before it; return them by site.

        All are chosen before any is folded.
        """
        if not self._scheme.folds or example is None:
            return {}, ()
        search = protecting_scales if self._scheme.protects else smoothing_scales
        if sites not in self._foldable:
            self._foldable[sites] = self._tried(layer, parameters, sites, *example)
        foldable = [site for site in sites if site.name in self._foldable[sites]]
        chosen = {
            site: search(
                views[site.name],
                _stacked(parameters, site.readers),
                self._scheme,
                *self._sharing(layer, site),
            )
            for site in foldable
        }
        scales = {
            site.name: fold(parameters, site, by, *self._sharing(layer, site))
            for site, by in chosen.items()
            if by is not None
        }
        return scales, tuple(site.name for site in sites if site not in foldable)

    def _sharing(self, layer: int, site: LinearSite) -> tuple[int, int]:
        """Return how many heads read the same channels of what is before, and their width."""
        if site.before is None or not site.before.endswith("v_proj"):
            return 1, 1
        module = self._decoder.module(layer)
        attention = module.get_submodule(site.before.rpartition(".")[0])
        outputs = int(getattr(module.get_submodule(site.before), "out_features", 0))
        inputs = int(getattr(module.get_submodule(site.readers[0]), "in_features", 0))
        return max(inputs // outputs, 1), int(getattr(attention, "head_dim", outputs))

    def _tried(
        self,
        layer: int,
        parameters: Mapping[str, torch.Tensor],
        sites: Sequence[LinearSite],
        hidden: torch.Tensor,
        call: LayerCall,
    ) -> frozenset[str]:
        """Return the sites whose folds change nothing, as one window in float32 shows."""

        def run(trial: Mapping[str, torch.Tensor]) -> torch.Tensor:
            wide = {name: value.float() for name, value in trial.items()}
            with self._decoder.loaded(layer, wide, cast=False):
                return self._decoder.run(layer, hidden.float(), call)

        return exact_folds(
            {name: value.float() for name, value in parameters.items()},
            sites,
            run,
            lambda site: self._sharing(layer, site),
        )


def _widened(
    original: Mapping[str, torch.Tensor], sites: Sequence[LinearSite]
) -> dict[str, torch.Tensor]:
    """Return a layer's parameters with those of sites' readers in float32."""
    readers = {reader for site in sites for reader in site.readers}
    return {
        name: value.float() if name.rpartition(".")[0] in readers else value
        for name, value in original.items()
    }


def _scales_in(weight: torch.Tensor) -> torch.dtype | None:
    """Return the type of a stored weight's scales: its own, where that is of 16 bits."""
    return weight.dtype if weight.dtype.itemsize < WIDE else None


def _stacked(parameters: Mapping[str, torch.Tensor], names: Sequence[str]) -> torch.Tensor:
    import torch

    weights = [parameters[f"{name}.weight"].float() for name in names]
    return weights[0] if len(weights) == 1 else torch.cat(weights)
