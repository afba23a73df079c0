"""Keys and values cached in INT8.

A language model's `past` and `present` become INT8 values with one scale a tensor.

What is new is quantized once, as it enters the cache; attention reads the restored past beside the
new values as they are. A prefill from nothing therefore reads none of them, and only steps over
the cache tell what they cost.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from infra.engines.port import Engine
from infra.errors import BadInput, Refused
from tasks.models.inputs import Inputs
from tasks.models.language.layout import CacheLayout
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.quantization.activation.ranges import amax
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.recipe.schemes import RangeRule
from tasks.records import Payload
from tasks.specs.spec import Budgets, Task

LEVELS = 127
_SCALE = ".cache_scale"
GATES = ("cache-agreement", "cache-perplexity-ratio")
"""Golden metrics that look through the cache."""


def require_cache(recipe: Recipe, task: Task, budgets: Budgets) -> None:
    """Raise `Refused` where a recipe quantizes a cache that cannot be judged.

    The task has none, or no gate looks through it.
    """
    if recipe.kv_cache is not NumberFormat.INT8:  # of a checkpoint, every gate reads the cache
        return
    if task is not Task.CAUSAL_LM:
        raise Refused(
            f"recipe {recipe.name} quantizes the cache of keys and values, and {task} has none: "
            "choose another recipe (`requant recipes` lists them)"
        )
    if not any(rule.metric in GATES for rule in budgets.quality):
        raise Refused(
            f"recipe {recipe.name} quantizes the cache, and no budget of the spec looks through "
            f"it: add {' or '.join(GATES)} to budgets.quality"
        )


def observe_cache(
    engine: Engine, layout: CacheLayout, inputs: Inputs, payloads: Sequence[Payload]
) -> Mapping[str, ExponentHistogram]:
    """Return histograms of |keys| and |values| of every layer, by the cache's names.

    Padding is left out.
    """
    ranges = {name: ExponentHistogram.empty() for name in layout.names}
    for batch in inputs.batches(payloads):
        outputs = engine.run(batch.feeds)
        for name in layout.names:
            by_token = np.moveaxis(outputs[f"present.{name}"], 2, 1)
            ranges[name] += ExponentHistogram.of(
                by_token if batch.mask is None else by_token[batch.mask]
            )
    return ranges


def cache_scales(ranges: Mapping[str, ExponentHistogram], rule: RangeRule) -> Mapping[str, float]:
    """Return the step of each cached tensor, amax / 127.

    Raises `BadInput` naming the tensor where no range follows.
    """
    scales = {}
    for name, histogram in ranges.items():
        try:
            scales[name] = amax(histogram, rule) / LEVELS
        except BadInput as exc:
            raise BadInput(f"the cache's {name}: {exc}") from exc
    return scales


def write_cache(graph: onnx.ModelProto, scales: Mapping[str, float]) -> onnx.ModelProto:
    """Return the graph with `past.NAME` and `present.NAME` in INT8.

    Raises `BadInput` where the cache is not a concatenation.

    present = Concat(past, new) becomes present = Concat(past, Q(new)) for the cache, and
    Concat(DQ(past), new) for attention.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    joins = {node.output[0]: node for node in copy.graph.node if node.op_type == "Concat"}
    nodes: list[onnx.NodeProto] = []
    added: dict[str, list[onnx.NodeProto]] = {}
    for name, scale in scales.items():
        past, present = f"past.{name}", f"present.{name}"
        join = joins.get(present)
        if (
            join is None
            or len(join.input) != 2
            or join.input[0] != past
            or _readers(copy.graph, past) != 1
        ):
            raise BadInput(
                f"{present} is not past and new values joined: "
                "this graph's cache cannot be quantized"
            )
        copy.graph.initializer.extend(_qparams(present, scale))
        added[join.name] = _quantized(join, past, present)
        _rename(copy.graph, present, f"{present}.float")
        join.input[0] = f"{past}.float"
    for node in copy.graph.node:
        before = added.get(node.name, [])
        nodes += [*before[:1], node, *before[1:]]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    for item in (*copy.graph.input, *copy.graph.output):
        if item.name.partition(".")[2] in scales and item.name.startswith(("past.", "present.")):
            item.type.tensor_type.elem_type = TensorProto.INT8
    return copy


def stored_scales(graph: onnx.ModelProto) -> dict[str, float]:
    """Return the step of each tensor of a graph's INT8 cache, by its name; none of floats."""
    return {
        item.name.removeprefix("present.").removesuffix(_SCALE): float(numpy_helper.to_array(item))
        for item in graph.graph.initializer
        if item.name.endswith(_SCALE)
    }


def renew_cache(graph: onnx.ModelProto, scales: Mapping[str, float]) -> onnx.ModelProto:
    """Return a graph whose cache is in INT8 with other steps, by the names of `stored_scales`.

    Raises `BadInput` where these are not the tensors that it caches.
    """
    odd = sorted(scales.keys() ^ stored_scales(graph).keys())
    if odd:
        raise BadInput(f"the graph and the new scales differ in the cache's {odd[0]}: write both")
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    parts = {item.name: item for item in copy.graph.initializer}
    for name, scale in scales.items():
        for part in _qparams(f"present.{name}", scale):
            parts[part.name].CopyFrom(part)
    return copy


def limited_scales(
    scales: Mapping[str, float], deployed: Mapping[str, float], largest: float
) -> tuple[dict[str, float], dict[str, float]]:
    """Keep each step between the deployed one's `largest`-th part and `largest` times it.

    Returns:
        The steps, and for each tensor that was held back the change that was asked for (new / old).
    """
    changes = {name: scale / deployed[name] for name, scale in scales.items() if name in deployed}
    allowed = {name: min(max(change, 1 / largest), largest) for name, change in changes.items()}
    limited = {name: deployed[name] * change for name, change in allowed.items()}
    held = {name: change for name, change in changes.items() if change != allowed[name]}
    return {**scales, **limited}, held


def cache_changes(scales: Mapping[str, float], deployed: Mapping[str, float]) -> str:
    """Return how far new steps are from a champion's, in a sentence."""
    changes = {name: scales[name] / deployed[name] for name in deployed}
    ordered = sorted(changes, key=changes.__getitem__)
    least, most = ordered[0], ordered[-1]
    return (
        f"the cache's {len(changes)} scales are {changes[least]:.3g} ({least}) to "
        f"{changes[most]:.3g} ({most}) times the champion's"
    )


def cache_saving(layout: CacheLayout) -> str:
    """Return what a token's keys and values take, in a sentence."""
    values = sum(2 * heads * width for heads, width in layout.layers)
    return (
        f"the cache holds {values} values a token: {values} bytes in INT8, "
        f"where FP32 takes {4 * values}"
    )


def scale_name(present: str) -> str:
    """Return the initializer that holds a cached tensor's step.

    Not one of an activation's quantizers.
    """
    return f"{present}{_SCALE}"


def _qparams(present: str, scale: float) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.asarray(scale, np.float32), scale_name(present)),
        numpy_helper.from_array(np.zeros((), np.int8), f"{present}.cache_zero_point"),
    ]


def _quantized(join: onnx.NodeProto, past: str, present: str) -> list[onnx.NodeProto]:
    """Restore the past, then quantize what is new and join the values."""
    qparams, axis = [scale_name(present), f"{present}.cache_zero_point"], join.attribute[0].i
    level = f"{present}.new"
    return [
        helper.make_node(
            "DequantizeLinear", [past, *qparams], [f"{past}.float"], f"{past}.dequantize"
        ),
        helper.make_node(
            "QuantizeLinear", [join.input[1], *qparams], [level], f"{present}.quantize"
        ),
        helper.make_node("Concat", [past, level], [present], f"{present}.join", axis=axis),
    ]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _readers(graph: onnx.GraphProto, tensor: str) -> int:
    """Count the nodes that read its values; a shape is the same in any type."""
    return sum(
        name == tensor for node in graph.node if node.op_type != "Shape" for name in node.input
    )
