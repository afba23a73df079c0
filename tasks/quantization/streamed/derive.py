"""From a checkpoint to a quantized one, a decoder layer at a time.

Memory holds one layer, and the hidden states of the calibration set and of the judged windows
before it. So its peak does not grow with the number of layers. Each layer is observed behind the
quantized ones before it, as it will be used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from infra.canonical import sha256
from infra.errors import BadInput
from infra.processes.memory import return_freed
from tasks.layerwise.quantized import LayerNotes, QuantizedLayer
from tasks.layerwise.rounding import as_served
from tasks.layerwise.stored_layer import described, require_package
from tasks.layerwise.watching import RangeWatch
from tasks.models.checkpoints.decoder import LayerCall, StreamedDecoder
from tasks.models.checkpoints.stored import CheckpointTensors
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.streamed.judging import JudgedGroup, judge
from tasks.quantization.streamed.layer import LayerQuantizer
from tasks.quantization.streamed.needs import needed_memory, require_room
from tasks.quantization.streamed.observing import (
    CacheView,
    SiteView,
    as_far_as_read,
    watching,
    watching_cache,
)
from tasks.quantization.streamed.scheme import scheme_of
from tasks.quantization.streamed.written import WrittenCheckpoint

if TYPE_CHECKING:
    import torch

TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 16384}
"""Read by a layer in one call."""
_WITHOUT_DATA = "recipe {} needs a calibration set: name texts to observe"


@dataclass(frozen=True, slots=True)
class DerivedCheckpoint:
    """What was made."""

    folder: str
    recipe: str
    layers: int
    quantized: int  # linear layers
    kept: tuple[str, ...]  # linear layers in floating point, the head among them
    unsmoothed: tuple[str, ...]  # sites whose smoothing scales nothing before takes
    scarce: tuple[str, ...]  # experts' sites that few or no tokens reach, of GPTQ
    raised: tuple[str, ...]  # linear layers in more bits than others, of a mean of bits
    bits: float  # of a quantized weight on average, scales counted, by what was written
    size_ratio: float  # bytes of its files over the checkpoint's
    seconds: float  # of this call
    estimated: int | None  # bytes of memory at the peak; None: a device held the layers
    resumed_at: int  # layers that an earlier call had made
    cached: int  # attentions whose keys and values are cached in FP8
    judged: tuple[JudgedGroup, ...]


@dataclass(slots=True, eq=False)
class _Made:
    """What has been made so far, by full names."""

    schemes: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    unsmoothed: list[str] = field(default_factory=list)
    scarce: list[str] = field(default_factory=list)
    cached: int = 0
    resumed: int = 0

    def add(self, prefix: str, layer: QuantizedLayer, kept: Sequence[str]) -> None:
        """Add a layer."""
        self.schemes |= {prefix + name: item.scheme() for name, item in layer.quantized.items()}
        self.unsmoothed += [prefix + name for name in layer.notes.unsmoothed]
        self.scarce += [prefix + name for name in layer.notes.scarce]
        self.kept += kept
        self.cached += len(layer.cached)


@dataclass(slots=True, eq=False)
class _Streams:
    """Hidden states before the layer at hand, [windows, tokens, width]."""

    calibration: torch.Tensor | None
    quantized: dict[str, torch.Tensor] = field(default_factory=dict)
    exact: dict[str, torch.Tensor] = field(default_factory=dict)


def derive(
    stored: CheckpointTensors,
    output: Path,
    recipe: Recipe,
    calibration: torch.Tensor | None = None,
    judged: Mapping[str, torch.Tensor] | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    keep: str | None = None,
    raised: Collection[str] = (),
    watched: RangeWatch | None = None,
    ceilings: Mapping[str, float] | None = None,
    told: Callable[[int, int], object] = lambda layer, of: None,
) -> DerivedCheckpoint:
    """Write a quantized copy of a checkpoint; go on where an earlier call was ended.

    Args:
        stored: A causal language model's.
        output: The folder to write.
        recipe: One of `tasks.quantization.streamed.scheme.expressible`.
        calibration: Token ids without padding, [windows, tokens]; None where nothing is learned.
        judged: Token ids by group, likewise, all of the calibration's length or of their own.
        device: Where layers are computed.
        dtype: What they are computed in; None: as they are stored.
        keep: A regular expression; linear layers whose name it finds stay in floating point.
        raised: Full names of the linear layers that have more bits, of a recipe with a mean of
            bits: `tasks.quantization.streamed.losses.place` chooses them.
        watched: Counts what static ranges see of the calibration set; None: nobody asks.
        ceilings: By the full name of the first linear layer that reads a tensor, the magnitude
            that few requests cannot push its range beyond.
        told: Called before each layer with its number, from 1, and how many there are.

    Raises:
        BadInput: The checkpoint, its tensors or the recipe; or `keep` names no layer.
        Unavailable: The disk is full; what was made stays.
    """
    begun = perf_counter()
    require_package()
    scheme = scheme_of(recipe)
    if scheme.learns and (calibration is None or not calibration.numel()):
        raise BadInput(_WITHOUT_DATA.format(recipe.name))
    decoder = StreamedDecoder(stored, device, dtype)
    quantizer = LayerQuantizer(decoder, scheme, keep, raised)
    written = WrittenCheckpoint(
        output,
        stored.folder,
        decoder.layers,
        _made_from(stored, recipe, decoder, calibration, keep, raised, ceilings or {}),
    )
    windows = _checked(judged or {}, decoder)
    observed = _checked_ids(calibration, decoder) if scheme.learns else None
    on_cpu = decoder.device.type == "cpu"
    held = int(psutil.Process().memory_info().rss)
    needed = needed_memory(decoder, scheme, observed, windows, TOKENS_AT_ONCE["cpu"])
    require_room(decoder, scheme, output, stored.size, needed if on_cpu else None)
    run = _Derivation(decoder, quantizer, written, windows, watched, ceilings or {})
    made = run.all_layers(observed, told)
    if not made.schemes:
        raise BadInput(f"keep {keep!r} leaves no layer to quantize: name fewer layers")
    if not written.file_of(decoder.layers).is_file():  # whole, or not there
        written.write(decoder.layers, stored.read(decoder.outside), LayerNotes())
    found, kept = run.judged(), (*made.kept, *decoder.heads)
    report = {"recipe": recipe.name, "judged": [asdict(item) for item in found]}
    in_floats, caches = run.in_floats(made.schemes), bool(made.cached)
    written.finish(described(made.schemes, in_floats, caches=caches), report)
    return DerivedCheckpoint(
        str(output),
        recipe.name,
        decoder.layers,
        len(made.schemes),
        kept,
        tuple(made.unsmoothed),
        tuple(made.scarce),
        tuple(sorted(raised)),
        written.bits,
        written.size / stored.size,
        perf_counter() - begun,
        held + needed if on_cpu else None,
        made.resumed,
        made.cached,
        found,
    )


def _made_from(
    stored: CheckpointTensors,
    recipe: Recipe,
    decoder: StreamedDecoder,
    calibration: torch.Tensor | None,
    keep: str | None,
    raised: Collection[str],
    ceilings: Mapping[str, float],
) -> Mapping[str, Any]:
    ids = None if calibration is None else calibration.to("cpu").numpy()
    return {
        "checkpoint": stored.identity,
        "recipe": dict(recipe.document()),
        "calibration": None if ids is None else sha256(np.ascontiguousarray(ids).tobytes()),
        "computed_in": str(decoder.dtype).removeprefix("torch."),
        "keep": keep,
        **({"raised": sorted(raised)} if raised else {}),
        **({"ceilings": dict(ceilings)} if ceilings else {}),
    }


def _checked(
    judged: Mapping[str, torch.Tensor], decoder: StreamedDecoder
) -> Mapping[str, torch.Tensor]:
    for group, ids in judged.items():
        if ids.dim() != 2 or ids.shape[1] < 2 or not len(ids):
            raise BadInput(f"group {group} has no window of two tokens or more to judge by")
        _checked_ids(ids, decoder)
    return judged


def _checked_ids(ids: torch.Tensor | None, decoder: StreamedDecoder) -> torch.Tensor | None:
    """Refuse token ids that the model has no embedding for, and more of them than positions."""
    if ids is None:
        return None
    words, positions = decoder.words, decoder.positions
    if int(ids.max()) >= words or int(ids.min()) < 0:
        raise BadInput(
            f"a text holds the token {int(ids.max())}, and the model has embeddings for {words}: "
            "the tokenizer is another model's"
        )
    if positions is not None and ids.shape[1] > positions:
        raise BadInput(
            f"windows have {ids.shape[1]} tokens, and the model has {positions} positions: ask for "
            "shorter ones"
        )
    return ids


class _Derivation:
    """One derivation."""

    def __init__(
        self,
        decoder: StreamedDecoder,
        quantizer: LayerQuantizer,
        written: WrittenCheckpoint,
        windows: Mapping[str, torch.Tensor],
        watched: RangeWatch | None,
        ceilings: Mapping[str, float],
    ) -> None:
        self._decoder, self._quantizer, self._written = decoder, quantizer, written
        self._windows, self._watched, self._ceilings = windows, watched, ceilings
        self._streams = _Streams(None)
        self._calls: dict[tuple[int, int], list[LayerCall]] = {}

    def all_layers(
        self, calibration: torch.Tensor | None, told: Callable[[int, int], object]
    ) -> _Made:
        """Make every layer, or read what was made of it."""
        decoder, streams, made = self._decoder, self._streams, _Made()
        if calibration is not None:
            streams.calibration = self._begin(calibration)
        for group, ids in self._windows.items():
            streams.exact[group] = self._begin(ids)
            streams.quantized[group] = streams.exact[group].clone()
        for layer in range(decoder.layers):
            told(layer + 1, decoder.layers)
            state = self._written.read(layer)
            quantized = self._quantized(layer) if state is None else self._again(layer, state)
            made.add(decoder.prefix(layer), quantized, self._quantizer.kept(layer))
            made.resumed += state is not None
            self._pass_quantized(layer, quantized)
            del state, quantized
            return_freed()
        return made

    def judged(self) -> tuple[JudgedGroup, ...]:
        """Compare both models behind the last layer."""
        return judge(self._decoder, self._windows, self._streams.exact, self._streams.quantized)

    def in_floats(self, quantized: Collection[str]) -> tuple[str, ...]:
        """Return all that multiplies and is not quantized, routers among it, by all its names.

        Whoever loads the checkpoint asks for each by the name that it has for it.
        """
        own, names = self._decoder.matrices, self._decoder.names
        kept = [name for name in own if name not in quantized]
        stored = [names.stored(f"{name}.weight").removesuffix(".weight") for name in kept]
        return (*dict.fromkeys([*kept, *stored]),)

    def _quantized(self, layer: int) -> QuantizedLayer:
        """Observe a layer, quantize and write it."""
        decoder, calibration = self._decoder, self._streams.calibration
        original = decoder.original(layer)
        views: Mapping[str, SiteView] = {}
        handed: Mapping[str, CacheView] = {}
        example = None
        if calibration is not None or self._windows:
            with decoder.loaded(layer, original) as module:
                if calibration is not None:
                    sites, wanted = self._quantizer.watched(layer), self._quantizer.wanted
                    cached = self._quantizer.caching(layer)
                    tokens = calibration.shape[0] * calibration.shape[1]
                    with (
                        watching(module, sites, wanted, tokens, self._limits(layer)) as views,
                        watching_cache(module, cached, tokens) as handed,
                        as_far_as_read(module, () if cached else sites) as run,
                    ):
                        self._show(layer, calibration, run)
                    call = self._calls[_size(self._split(calibration)[0])][layer]
                    example = calibration[:1], call.first()
                self._pass_all(layer, self._streams.exact)
        quantized = self._quantizer.quantize(layer, original, views, example, handed)
        tensors = quantized.tensors(decoder.prefix(layer))
        stored = {decoder.names.stored(name): value for name, value in tensors.items()}
        self._written.write(layer, stored, quantized.notes)
        return quantized

    def _limits(self, layer: int) -> dict[str, float]:
        prefix = self._decoder.prefix(layer)
        return {
            name.removeprefix(prefix): value
            for name, value in self._ceilings.items()
            if name.startswith(prefix)
        }

    def _again(self, layer: int, state: Mapping[str, torch.Tensor]) -> QuantizedLayer:
        """Read what an earlier call wrote of a layer."""
        if self._windows:
            with self._decoder.loaded(layer, self._decoder.original(layer)):
                self._pass_all(layer, self._streams.exact)
        own = {self._decoder.names.own(name): value for name, value in state.items()}
        return self._quantizer.read(layer, own, self._written.notes(layer))

    def _begin(self, ids: torch.Tensor) -> torch.Tensor:
        """Return hidden states before the first layer, and remember how layers are called."""
        import torch

        parts = []
        for part in self._split(ids):
            hidden, calls = self._decoder.begin(part)
            parts.append(hidden)
            self._calls.setdefault(_size(hidden), calls)
        return torch.cat(parts)

    def _split(self, windows: torch.Tensor) -> Sequence[torch.Tensor]:
        """Part windows [windows, tokens, ...] into what a layer reads at once."""
        import torch

        most = max(TOKENS_AT_ONCE[self._decoder.device.type] // windows.shape[1], 1)
        parts: Sequence[torch.Tensor] = torch.split(windows, most)
        return parts

    def _pass(self, layer: int, hidden: torch.Tensor, watched: RangeWatch | None = None) -> None:
        """Send hidden states through a loaded layer; they are replaced by what it makes of them."""
        first = 0
        for part in self._split(hidden):
            if watched is not None:
                watched.reading(range(first, first + len(part)), part.shape[1])
                first += len(part)
            part.copy_(self._decoder.run(layer, part, self._calls[_size(part)][layer]))

    def _show(
        self,
        layer: int,
        hidden: torch.Tensor,
        run: Callable[[Callable[[], object]], None],
    ) -> None:
        """Send hidden states through a watched layer; what it makes of them is let go."""
        for part in self._split(hidden):
            call = self._calls[_size(part)][layer]
            run(partial(self._decoder.run, layer, part, call))

    def _pass_all(self, layer: int, hidden: Mapping[str, torch.Tensor]) -> None:
        for group in hidden.values():
            self._pass(layer, group)

    def _pass_quantized(self, layer: int, made: QuantizedLayer) -> None:
        streams, decoder = self._streams, self._decoder
        if streams.calibration is None and not streams.quantized:
            return
        calibration, watched = streams.calibration, self._watched
        with decoder.loaded(layer, made.parameters()) as module:
            if calibration is not None and (watched is not None or layer + 1 < decoder.layers):
                prefix = decoder.prefix(layer)
                seen = watched and watched.watching(module, prefix, made)
                with seen or nullcontext(), as_served(module, made):
                    self._pass(layer, calibration, watched)
            with as_served(module, made):
                self._pass_all(layer, streams.quantized)


def _size(hidden: torch.Tensor) -> tuple[int, int]:
    """Return what tells calls of layers apart: how many windows of how many tokens."""
    return int(hidden.shape[0]), int(hidden.shape[1])
