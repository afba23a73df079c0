"""A candidate of a model that stays a checkpoint: derived layer by layer, kept as an index."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx

from infra.canonical import Json, canonical
from infra.errors import BadInput
from infra.processes.telling import tell
from tasks.layerwise.quantized import layers_in
from tasks.layerwise.watching import RangeWatch
from tasks.models.checkpoints.carried import CarriedCheckpoint
from tasks.models.checkpoints.decoder import device_here, positions_in, read_config
from tasks.models.checkpoints.index_graph import index_of
from tasks.models.checkpoints.registering import files_beside
from tasks.models.checkpoints.stored import CONFIG, every_tensor
from tasks.models.language.inputs import LanguageInputs
from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.archive import dump_observation
from tasks.observation.observer import SiteObservation
from tasks.observation.scales import dump_scales
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Static
from tasks.quantization.streamed.derive import DerivedCheckpoint, derive
from tasks.quantization.streamed.losses import place
from tasks.quantization.streamed.rounding import most_bits
from tasks.quantization.streamed.scheme import scheme_of
from tasks.records import Request

if TYPE_CHECKING:
    import torch

_IN_LAYER = re.compile(r"\.\d+\..*weight$")
_SHOWN = 3  # layers that a sentence names
WINDOW = 512
"""Tokens of a window that is calibrated on, at most."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a candidate follows from, as its facts record it."""

    model: str  # digest
    calibration: str  # digest
    observation: str  # key


def derive_candidate(
    original: CarriedCheckpoint,
    inputs: LanguageInputs,
    requests: Sequence[Request],
    recipe: Recipe,
    origin: Origin,
    scratch: Path,
    ceilings: Mapping[str, float],
    keep: str | None = None,
) -> dict[str, bytes]:
    """Return a candidate's files, its large tensors written into the workspace's weights.

    Args:
        original: Full precision.
        inputs: How the model reads texts.
        requests: The calibration set.
        recipe: What a checkpoint can hold; full precision is the original itself.
        origin: What is recorded of where it comes from.
        scratch: The folder that a derivation goes on in, where one was ended; removed at the end.
        ceilings: As of `derive`.
        keep: As of `derive`, or how many of the linear layers' weights, such as 10%.

    Raises:
        BadInput: As `derive`.
        Unavailable: Memory or disk are too short.
    """
    if not recipe.quantized:
        return _files(original.index, RangeWatch(0), recipe, origin, None)
    windows = calibration_windows(inputs, requests, positions_in(read_config(original)))
    watched = RangeWatch(len(windows))
    placement = place(
        keep,
        original,
        recipe,
        windows,
        device=device_here(),
        told=lambda layer, of: tell(f"asking what loses most: decoder layer {layer} of {of}"),
    )
    made = derive(
        original,
        scratch,
        recipe,
        windows,
        device=device_here(),
        watched=watched,
        ceilings=ceilings,
        keep=placement.keep,
        raised=placement.raised,
        told=lambda layer, of: tell(f"making {recipe.name}: decoder layer {layer} of {of}"),
    )
    beside = {path.name: path.read_bytes() for path in (scratch / CONFIG, *files_beside(scratch))}
    index = index_of(every_tensor(scratch), beside)
    shutil.rmtree(scratch)
    return _files(index, watched, recipe, origin, made)


def calibration_windows(
    inputs: LanguageInputs, requests: Sequence[Request], positions: int | None
) -> torch.Tensor:
    """Return texts as windows of one length without padding, [windows, tokens].

    Texts of a group are joined in their order. What does not fill its last window is filled with
    the group's own beginning, so that a rare group has its say too.

    Args:
        inputs: How the model reads texts.
        requests: The calibration set; a group is a language, or a domain where that is unknown.
        positions: That the model has; None: any number.

    Raises:
        BadInput: There are none.
    """
    import torch

    if not requests:
        raise BadInput("the calibration set is empty: sample more traffic first")
    readings = inputs.read([str(request.payload) for request in requests])
    joined: dict[str, list[int]] = {}
    for request, reading in zip(requests, readings, strict=True):
        joined.setdefault(_group(request), []).extend(reading.ids)
    tokens = min(WINDOW, positions or WINDOW, max(map(len, joined.values())))
    rows = []
    for ids in joined.values():
        count = math.ceil(len(ids) / tokens)
        rows.append(np.resize(np.asarray(ids), (count, tokens)))  # repeats what is too short
    return torch.from_numpy(np.concatenate(rows))


def _group(request: Request) -> str:
    known = [name for name in (request.language, request.domain) if name not in ("", "unknown")]
    return known[0] if known else "unknown"


def _files(
    index: onnx.ModelProto,
    watched: RangeWatch,
    recipe: Recipe,
    origin: Origin,
    made: DerivedCheckpoint | None,
) -> dict[str, bytes]:
    nothing, no_rows = np.zeros(0, np.float32), np.zeros((0, 0), np.float32)
    seen = {
        name: SiteObservation(histogram, nothing, nothing, no_rows)
        for name, histogram in watched.histograms.items()
    }
    form = recipe.activation.format if isinstance(recipe.activation, Static) else NumberFormat.INT8
    scales = {name: Quantizer(reach, format=form) for name, reach in watched.reach.items()}
    facts: dict[str, Json] = {
        "version": 1,
        "model": origin.model,
        "calibration": origin.calibration,
        "observation": origin.observation,
        "recipe": recipe.document(),
        "graph_recipe": recipe.name,
        "kept_high": list(made.kept) if made else [],
        "quantized_share": quantized_share(index),
        "remarks": list(_remarks(made)),
        "sensitivity": [],
    }
    return {
        "graph.onnx": index.SerializeToString(deterministic=True),
        "scales.json": dump_scales(scales),
        "ranges.npz": dump_observation(seen),
        "candidate.json": canonical(facts),
    }


def _remarks(made: DerivedCheckpoint | None) -> Iterator[str]:
    if made is None:
        return
    yield f"{made.quantized} linear layers of {made.layers} decoder layers are quantized"
    if made.cached:
        yield f"keys and values of {made.cached} attentions are cached in FP8"
    if made.kept:
        more = f" and {len(made.kept) - _SHOWN} more" if len(made.kept) > _SHOWN else ""
        yield f"in floating point as stored: {', '.join(made.kept[:_SHOWN])}{more}"
    if made.raised:
        yield (
            f"{len(made.raised)} of them have weights in INT8, so that a weight has "
            f"{made.bits:.2f} bits on average: {', '.join(made.raised[:_SHOWN])}"
        )
    if made.unsmoothed:
        yield (
            f"{len(made.unsmoothed)} sites are not smoothed, as nothing before them takes the "
            f"scales: {', '.join(made.unsmoothed[:_SHOWN])}"
        )
    if made.scarce:
        yield (
            f"{len(made.scarce)} sites of experts are hardly reached by the calibration set, and "
            "rounded to the nearest where no token of it does: "
            f"{', '.join(made.scarce[:_SHOWN])}"
        )


def least_checkpoint_ratio(original: CarriedCheckpoint, recipe: Recipe) -> float:
    """Return a lower bound on a candidate's bytes over the original's: its weights alone.

    Every matrix inside of decoder layers counts as quantized.
    """
    shapes, bits = original.shapes, recipe.weights.format.bits
    inside = sum(
        original.bytes_of(name) - math.prod(shape) * bits // 8
        for name, shape in shapes.items()
        if recipe.quantized and len(shape) > 1 and _IN_LAYER.search(name)
    )
    return (original.size - inside) / original.size


def blocks_fit(original: CarriedCheckpoint, recipe: Recipe) -> bool:
    """Return whether matrices inside of decoder layers have whole blocks of a recipe's size.

    Of a mean of bits, whether the largest blocks that they have leave it within reach.
    """
    weights = recipe.weights
    if not isinstance(weights, WeightScheme) or not isinstance(weights.granularity, PerBlock):
        return True
    matrices = {
        name: (shape[0], shape[1])
        for name, shape in original.shapes.items()
        if len(shape) == 2 and _IN_LAYER.search(name)
    }
    scheme = scheme_of(recipe)
    stored = {shape: scheme.weights_of(shape[1]) for shape in matrices.values()}
    whole = all(
        isinstance(own.granularity, PerBlock) and inputs % own.granularity.size == 0
        for (_, inputs), own in stored.items()
    )
    if not whole or recipe.raised is None or not matrices:
        return whole
    of_scale = most_bits(original.tensor(next(iter(matrices))).dtype)
    least = sum(stored[shape].stored_bits(*shape, of_scale) for shape in matrices.values())
    return least <= recipe.raised.bits * sum(map(math.prod, matrices.values()))


def quantized_share(index: onnx.ModelProto) -> float:
    """Return which fraction of a checkpoint's numbers is stored in fewer bits."""
    carried = CarriedCheckpoint(index)
    layers, quantized, floats = frozenset(layers_in(carried.names)), 0, 0
    for name, shape in carried.shapes.items():
        layer, _, part = name.rpartition(".")
        if layer in layers and part == "weight":
            quantized += math.prod(shape)
        elif layer in layers and part == "weight_shape":
            quantized += math.prod(carried.tensor(name).tolist())
        elif layer not in layers or part == "bias":
            floats += math.prod(shape)
    return quantized / max(quantized + floats, 1)
