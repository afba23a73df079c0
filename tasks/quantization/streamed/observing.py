"""What the sites of one decoder layer see, counted where the layer is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.layerwise.attention_cache import seeing
from tasks.layerwise.linear_sites import LinearSite
from tasks.numerics.histogram import ExponentHistogram
from tasks.observation.counting import Counted, start

if TYPE_CHECKING:
    import torch
    from torch import nn

WORTH_ITS_THREADS = 2048
"""Inputs from which on another library's threads on the CPU gain more than they cost."""
BANDS = 4
"""Parts of a product that is its own transpose; five eighths of it are computed."""
ROWS = 256
"""Tokens kept of every site, evenly spaced, for the search of smoothing scales.

At most. Their distance is a prime number, or so large a part of them were a window's first tokens:
of windows of 256, every 64th token of all is one in four. These carry massive activations.
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be learned of every site."""

    ranges: bool  # histogram and extremes by channel
    rows: bool
    gram: bool

    @property
    def anything(self) -> bool:
        """Whether a site has to be watched."""
        return self.ranges or self.rows or self.gram


class SiteView:
    """What one site saw, added up over batches."""

    def __init__(self, wanted: Wanted, tokens: int, ceiling: float = math.inf) -> None:
        self._wanted, self._ceiling = wanted, ceiling
        self._every = _prime_from(tokens / ROWS)
        self.seen = 0  # tokens
        self._waiting: Callable[[], Counted] | None = None
        self._histogram = ExponentHistogram.empty()
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None
        self._rows: list[torch.Tensor] = []
        self.gram: torch.Tensor | None = None  # X' X in float32, [inputs, inputs]

    def add(self, values: torch.Tensor) -> None:
        """Add a batch, [..., inputs]."""
        flat = values.reshape(-1, values.shape[-1])
        if math.isfinite(self._ceiling):
            flat = flat.clamp(-self._ceiling, self._ceiling)
        if self._wanted.ranges:
            self._finish()
            on_host = flat.float().numpy() if not flat.is_cuda else flat
            self._waiting = start(on_host, -1)
        if self._wanted.rows:
            offset = -self.seen % self._every
            self._rows.append(flat[offset :: self._every].float())
        if self._wanted.gram:
            added = _gram(flat)
            self.gram = added if self.gram is None else self.gram.add_(added)
        self.seen += len(flat)

    @property
    def rows(self) -> torch.Tensor:
        """Tokens as they were seen, [kept, inputs] in float32."""
        import torch

        return torch.cat(self._rows)

    @property
    def histogram(self) -> ExponentHistogram:
        """Counts of |x|."""
        self._finish()
        return self._histogram

    @property
    def channel_amax(self) -> NDArray[np.float32]:
        """The largest magnitude of each channel, [inputs]."""
        self._finish()
        if self._low is None or self._high is None:
            raise BadInput("a layer was called with no token: give a longer calibration set")
        return np.maximum(np.abs(self._low), np.abs(self._high))

    def _finish(self) -> None:
        if self._waiting is None:
            return
        counted, self._waiting = self._waiting(), None
        self._histogram = self._histogram + counted.histogram
        self._low = counted.low if self._low is None else np.minimum(self._low, counted.low)
        self._high = counted.high if self._high is None else np.maximum(self._high, counted.high)


def _prime_from(least: float) -> int:
    """Return the smallest prime that is no less; 1 where that is enough."""
    found = max(math.ceil(least), 1)
    while any(found % divisor == 0 for divisor in range(2, math.isqrt(found) + 1)):
        found += 1
    return found


@contextmanager
def watching(
    layer: nn.Module,
    sites: Sequence[LinearSite],
    wanted: Callable[[LinearSite], Wanted],
    tokens: int,
    ceilings: Mapping[str, float] | None = None,
) -> Iterator[dict[str, SiteView]]:
    """Count what every site of a loaded layer reads while the context lasts; by the site's name.

    Args:
        layer: A decoder layer with its weights.
        sites: Those of it.
        wanted: Returns what is to be learned of one.
        tokens: How many will be seen in all.
        ceilings: By a site's first reader, the magnitude beyond which values count as it: too few
            requests reach further.
    """
    limits = ceilings or {}
    views = {
        site.name: SiteView(wanted(site), tokens, limits.get(site.readers[0], math.inf))
        for site in sites
    }
    hooks = []
    for site in sites:

        def see(
            _: Any, inputs: tuple[torch.Tensor, ...], view: SiteView = views[site.name]
        ) -> None:
            view.add(inputs[0])

        hooks.append(layer.get_submodule(site.readers[0]).register_forward_pre_hook(see))
    try:
        yield views
    finally:
        for hook in hooks:
            hook.remove()


class _AllRead(Exception):
    """Every site of a layer has read the batch."""


@contextmanager
def as_far_as_read(
    layer: nn.Module, sites: Sequence[LinearSite]
) -> Iterator[Callable[[Callable[[], object]], None]]:
    """Yield what runs batches through a layer no further than the last of these sites reads.

    The first batch runs to its end, and tells how often sites are read. What is skipped of others
    is the product of that site's weights, a quarter of a Llama's layer. Where experts are routed,
    each batch reaches others, and all run to their end.

    Args:
        layer: A decoder layer with its weights, that `watching` watches.
        sites: Those that are watched.
    """
    reads, of_a_batch = 0, 0

    def count(_: Any, __: tuple[torch.Tensor, ...]) -> None:
        nonlocal reads
        reads += 1
        if reads == of_a_batch:
            raise _AllRead

    def run(batch: Callable[[], object]) -> None:
        nonlocal reads, of_a_batch
        reads = 0
        with suppress(_AllRead):
            batch()
        of_a_batch = reads

    dense = () if any(site.routed for site in sites) else sites
    hooks = [
        layer.get_submodule(site.readers[0]).register_forward_pre_hook(count) for site in dense
    ]
    try:
        yield run
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True, slots=True, eq=False)
class CacheView:
    """What one attention handed to its cache."""

    keys: SiteView
    values: SiteView

    def add(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Add a batch, [batch, tokens, heads * width]."""
        self.keys.add(keys)
        self.values.add(values)


@contextmanager
def watching_cache(
    layer: nn.Module, names: Sequence[str], tokens: int
) -> Iterator[dict[str, CacheView]]:
    """Count what attentions of a loaded layer hand to their caches while the context lasts.

    Args:
        layer: A decoder layer with its weights.
        names: Of the attentions.
        tokens: How many will be seen in all.
    """
    wanted = Wanted(ranges=True, rows=False, gram=False)
    views = {name: CacheView(SiteView(wanted, tokens), SiteView(wanted, tokens)) for name in names}
    with seeing(layer, {name: view.add for name, view in views.items()}):
        yield views


def _gram(rows: torch.Tensor) -> torch.Tensor:
    """Return X' X of rows [n, inputs] in float32.

    On CUDA, products of bfloat16 are exact in TensorFloat-32, which is ten times as fast. On the
    CPU, NumPy sees that both factors are one, and computes half of the product, which torch does
    not; of few inputs, its threads beside torch's cost more than that, and torch computes what is
    on and above the diagonal in `BANDS` of equal width.
    """
    import torch

    wide = rows.float()
    if not rows.is_cuda and rows.shape[1] < WORTH_ITS_THREADS:
        return _mirrored(wide)
    if not rows.is_cuda:
        array = wide.numpy()
        return torch.from_numpy(array.T @ array)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = rows.dtype == torch.bfloat16
    try:
        return wide.T @ wide
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _mirrored(rows: torch.Tensor) -> torch.Tensor:
    """Return X' X of rows [n, inputs] in float32: what is below the diagonal is what is above."""
    import torch

    inputs = rows.shape[1]
    made = torch.empty(inputs, inputs)
    band = -(-inputs // BANDS)
    for begin in range(0, inputs, band):
        end = min(begin + band, inputs)
        part = torch.mm(rows[:, begin:end].T, rows[:, begin:])
        made[begin:end, begin:] = part
        made[end:, begin:end] = part[:, end - begin :].T
    return made
