"""What the static ranges of a quantized checkpoint see of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.layerwise.attention_cache import CacheScales, seeing
from tasks.layerwise.batches import by_text, counted_tokens
from tasks.layerwise.linear_sites import linear_sites
from tasks.layerwise.quantized import QuantizedLayer
from tasks.layerwise.stored_layer import StoredLayer
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.clipped_fraction import Clipping
from tasks.observation.counting import count

if TYPE_CHECKING:
    import torch
    from torch import nn


def reach_of(item: StoredLayer) -> float | None:
    """Return the largest magnitude that a layer's static range holds; None where it has none."""
    if item.input_scale is None:
        return None
    largest = NumberFormat.FP8.largest if item.is_float else NumberFormat.INT8.largest
    return item.input_scale * largest


class RangeWatch:
    """Counts what linear layers with a static range read, before it is rounded.

    A site is named by the first of the layers that read its tensor; what an attention caches is
    `ATTENTION.keys` and `ATTENTION.values`.
    """

    def __init__(self, texts: int) -> None:
        """Watch so many texts."""
        self._texts = texts
        self._tokens = 0
        self._cases: NDArray[np.intp] = np.zeros(0, np.intp)
        self._lengths: Sequence[int] = ()
        self.reach: dict[str, float] = {}
        self.histograms: dict[str, ExponentHistogram] = {}
        self._fraction: dict[str, NDArray[np.float64]] = {}
        self._amax: dict[str, NDArray[np.float64]] = {}

    @property
    def clipping(self) -> Clipping:
        """How much of each text every range clips; NaN where rows belong to no known text."""
        sites = tuple(self.reach)
        empty = np.zeros((self._texts, 0))
        return Clipping(
            sites,
            np.stack([self._fraction[name] for name in sites], 1) if sites else empty,
            np.stack([self._amax[name] for name in sites], 1) if sites else empty,
        )

    def reading(
        self, cases: Sequence[int], tokens: int, lengths: Sequence[int] | None = None
    ) -> None:
        """Say which texts the next call reads.

        Args:
            cases: Places of the texts, [batch].
            tokens: That the call has of each, padding among them.
            lengths: Tokens that count of each; None: all.
        """
        self._cases, self._tokens = np.asarray(cases, np.intp), tokens
        self._lengths = lengths or [tokens] * len(cases)

    @contextmanager
    def watching(self, module: nn.Module, prefix: str, made: QuantizedLayer) -> Iterator[None]:
        """Watch a decoder layer's sites while the context lasts.

        It has to begin before the rounding of what is read, so that it sees what is rounded.
        """
        hooks, quantized = [], made.quantized
        for site in linear_sites(module):
            first = next((name for name in site.readers if name in quantized), None)
            reach = None if first is None else reach_of(quantized[first])
            if first is None or reach is None:
                continue
            full = prefix + first
            self._begin(full, reach)

            def see(_: Any, inputs: tuple[torch.Tensor, ...], full: str = full) -> None:
                self._see(full, inputs[0])

            hooks.append(module.get_submodule(first).register_forward_pre_hook(see))
        cached = {name: self._of_cache(prefix + name, item) for name, item in made.cached.items()}
        try:
            with seeing(module, cached):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _begin(self, full: str, reach: float) -> None:
        self.reach[full] = reach
        self.histograms.setdefault(full, ExponentHistogram.empty())
        self._fraction.setdefault(full, np.zeros(self._texts))
        self._amax.setdefault(full, np.zeros(self._texts))

    def _of_cache(
        self, full: str, scales: CacheScales
    ) -> Callable[[torch.Tensor, torch.Tensor], None]:
        """Return what counts an attention's keys and values."""
        names = f"{full}.keys", f"{full}.values"
        for name, scale in zip(names, (scales.key, scales.value), strict=True):
            self._begin(name, scale * NumberFormat.FP8.largest)

        def see(keys: torch.Tensor, values: torch.Tensor) -> None:
            self._see(names[0], keys)
            self._see(names[1], values)

        return see

    def _see(self, full: str, values: torch.Tensor) -> None:
        wide = values.detach().float()
        known = by_text(wide, len(self._cases), self._tokens)
        if known is None:
            self.histograms[full] += _counted(wide.reshape(-1, wide.shape[-1]))
            self._fraction[full][self._cases] = np.nan
            self._amax[full][self._cases] = np.nan
            return
        own = counted_tokens(self._lengths, known)
        self.histograms[full] += _counted(known[own[:, :, 0]])
        sizes = known.abs().masked_fill(~own, 0)
        above = (sizes > self.reach[full]).sum((1, 2)) / (own.sum((1, 2)) * sizes.shape[2])
        self._fraction[full][self._cases] = above.cpu().numpy()
        self._amax[full][self._cases] = sizes.amax((1, 2)).cpu().numpy()


def _counted(rows: torch.Tensor) -> ExponentHistogram:
    """Return counts of |x| of rows [tokens, width]."""
    return count(rows if rows.is_cuda else rows.numpy(), -1).histogram
