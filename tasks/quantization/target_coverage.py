"""What each class of recipes takes of a model on each of its targets, and what it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import onnx

from infra.engines import open_target
from infra.engines.port import each_profile
from infra.errors import BadInput, Unavailable
from tasks.graphs.coverage import Coverage, LeftLayer, coverage, stored_shorter
from tasks.graphs.multiply_accumulates import layer_products
from tasks.graphs.short_floats import float32_nodes, shortened
from tasks.graphs.sites import Site
from tasks.models.catalog import RegisteredModel
from tasks.numerics.formats import NumberFormat
from tasks.quantization.graph.assemble import find_tables
from tasks.quantization.graph.recurrent import find_recurrent
from tasks.quantization.pipeline.probe import builder_question
from tasks.quantization.recipe.catalog import RECIPES
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import Static
from tasks.quantization.recipe.targets import ONNXRUNTIME, ONNXRUNTIME_CUDA

CLASSES: Mapping[str, Sequence[str]] = {
    "int8": ("int8-smooth", "int8-fp16"),
    "int8-weights": ("int8-weights",),
    "int4-weights": ("int4-gptq",),
    "fp8": ("fp8",),
    "nvfp4": ("nvfp4",),
    "fp16": ("fp16-whole", "fp16"),
}
"""Class -> recipes that stand for it, the first that a target can express."""
_FLOATS: Mapping[str, str] = {
    "ConvTranspose": "TensorRT multiplies floats in transposed convolutions, whatever is asked for",
}
"""Operator -> why TensorRT has no product of it in fewer bits (`findings/`)."""


@dataclass(frozen=True, slots=True)
class RecipeCoverage:
    """What one class of recipes takes of a model on one target."""

    target: str
    recipes: str  # the class: int8, int8-weights, int4-weights, fp8, nvfp4 or fp16
    refused: str | None  # why the target has no recipe of the class
    layers: int
    weights: float  # fraction of all float numbers that the graph stores, 0..1
    products: float | None  # fraction of all multiply-accumulates with weights; None: not known
    left: tuple[LeftLayer, ...]  # what it leaves in float32, largest first

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        name = f"{self.recipes} on {self.target}"
        if self.refused is not None:
            return f"{name}: none, because {self.refused}"
        taken = Coverage(self.layers, self.weights, self.products, ())
        return f"{name}: {taken.sentences[0]}"


def target_coverage(model: RegisteredModel) -> tuple[RecipeCoverage, ...]:
    """Return every class of recipes on every target of the spec that is installed here."""
    profile = each_profile(model.inputs.profile)[0]
    shapes = {name: item.common for name, item in profile.items()}
    ask = builder_question(model.sites)
    covered = []
    for target in model.spec.targets:
        if not _is_installed(target):
            continue
        for recipes, names in CLASSES.items():
            reasons = {name: ask(RECIPES[name], target) for name in names}
            able = next((name for name, reason in reasons.items() if reason is None), None)
            if able is None:
                refused = next(reason for reason in reversed(reasons.values()) if reason)
                covered.append(RecipeCoverage(target, recipes, refused, 0, 0.0, None, ()))
            else:
                taken = _taken(model.graph, model.sites, shapes, RECIPES[able], target)
                covered.append(replace(taken, recipes=recipes))
    return tuple(covered)


def short_of_int8(covered: Sequence[RecipeCoverage], least: float) -> tuple[str, ...]:
    """Return a sentence for each target on which no release in INT8 can pass `layer-precision`.

    Args:
        covered: What each class of recipes takes.
        least: Of the multiply-accumulates, what has to run in INT8: `budgets.int8_fraction`.
    """
    return tuple(
        f"int8 on {item.target} takes {item.products:.1%} of the products, and "
        f"budgets.int8_fraction asks for {least:.0%}: no release of it will pass"
        for item in covered
        if item.recipes == "int8" and item.products is not None and item.products < least
    )


def unusable_targets(targets: Sequence[str]) -> Mapping[str, str]:
    """Return in a sentence what this host lacks for targets, by target; empty where it has all.

    It is that a target does not open, or that its engines do not run.
    """
    reasons = {target: _why_unusable(target) for target in targets}
    return {target: reason for target, reason in reasons.items() if reason is not None}


def _why_unusable(target: str) -> str | None:
    try:
        reason = open_target(target).why_not_executable()
    except Unavailable as exc:
        return f"{exc}; until then no run of the model comes to its end on this host"
    if reason is None:
        return None
    return f"{reason}: their verdict is inconclusive"


def _is_installed(target: str) -> bool:
    try:
        open_target(target)
    except Unavailable:
        return False
    return True


def _taken(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    shapes: Mapping[str, Sequence[int]],
    recipe: Recipe,
    target: str,
) -> RecipeCoverage:
    if recipe.rest is not NumberFormat.FP32 and not isinstance(recipe.activation, Static):
        return _in_short_floats(model, sites, shapes, recipe, target)
    any_product = target in (ONNXRUNTIME, ONNXRUNTIME_CUDA) or recipe.activation is None
    floats = () if any_product else tuple(_FLOATS)
    takes_recurrent = target == ONNXRUNTIME and recipe.takes_recurrent
    recurrent = find_recurrent(model) if takes_recurrent else ()
    whole = coverage(model, _without(sites, floats), shapes, recurrent)
    stored = find_tables(model) if recipe.tables is not NumberFormat.FP32 else ()
    tables = {table.name for table in stored}
    sizes = {item.name: prod(item.dims) for item in model.graph.initializer}
    total = sum(
        prod(item.dims)
        for item in model.graph.initializer
        if item.data_type == onnx.TensorProto.FLOAT
    )
    reads = {node.name: node.input[0] for node in model.graph.node if node.input}
    left = [
        replace(item, reason=_reason(item, target, takes_recurrent, floats))
        for item in whole.left
        if reads.get(item.node) not in tables
    ]
    weights = whole.weights + sum(sizes[name] for name in tables) / max(total, 1)
    return RecipeCoverage(target, "", None, whole.layers, weights, whole.products, tuple(left))


def _reason(item: LeftLayer, target: str, takes_recurrent: bool, floats: Sequence[str]) -> str:
    if item.op in floats:
        return _FLOATS[item.op]
    if item.op != "LSTM":
        return item.reason
    if target == ONNXRUNTIME_CUDA:
        return "ONNX Runtime has no LSTM of integers on a device"
    if target != ONNXRUNTIME:
        return "TensorRT multiplies floats in LSTMs, whatever is asked for"
    if not takes_recurrent:
        return "LSTMs stay in floating point under these recipes"
    return "it gains nothing by INT8, being small, or its weights are no constants of its own"


def _without(sites: Sequence[Site], operators: Sequence[str]) -> tuple[Site, ...]:
    """Leave out the layers of some operators."""
    kept = (
        replace(site, layers=tuple(layer for layer in site.layers if layer.op not in operators))
        for site in sites
    )
    return tuple(site for site in kept if site.layers)


def _in_short_floats(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    shapes: Mapping[str, Sequence[int]],
    recipe: Recipe,
    target: str,
) -> RecipeCoverage:
    """Say what a whole graph in FP16 leaves, but for what calibration alone will tell."""
    whole = coverage(model, sites, shapes)
    try:
        short = shortened(model, recipe.rest, {})
    except BadInput as exc:
        return RecipeCoverage(target, "", str(exc), 0, 0.0, None, whole.left)
    reasons = float32_nodes(short)
    macs = layer_products(model, sites, shapes)
    layers = [layer for site in sites for layer in site.layers if layer.node not in reasons]
    fraction = sum(macs.get(layer.node, 0) for layer in layers) / max(sum(macs.values()), 1)
    sizes = {item.name: prod(item.dims) for item in model.graph.initializer}
    left = (
        LeftLayer(node.name, node.op_type, sum(sizes.get(name, 0) for name in node.input), why)
        for node in model.graph.node
        if (why := reasons.get(node.name)) and any(sizes.get(name, 0) > 1 for name in node.input)
    )
    return RecipeCoverage(
        target,
        "",
        None,
        len(layers),
        stored_shorter(model, short),
        None if whole.products is None else whole.products * fraction,
        tuple(sorted(left, key=lambda item: -item.weights)),
    )
