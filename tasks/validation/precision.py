"""Does what was asked for in INT8, FP8 or FP4 run in it?

What was asked stands in the Q/DQ graph, what runs in the engine. A runtime is free to restore
floats and multiply those: the answers stay right, and the speed that was paid for with accuracy is
lost. So what asks for INT8 is refused where too few of its multiply-accumulates run in it, those
that no recipe takes (of a GRU, a loop, a transposed convolution) counted as well. Sites that a
recipe leaves in floating point were not asked for. Layers that a target's form leaves there, where
INT8 was measured to be slower or too dear, count as not in INT8, and are said to be left.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import onnx

from infra.engines.port import UNKNOWN, Kernel
from tasks.graphs.sites import Site
from tasks.records import LAYER_PRECISION, GateResult, Interval, Verdict
from tasks.specs.groups import ALL
from tasks.validation.gates import AT_LEAST

METRIC = LAYER_PRECISION
LEAST = 0.8
"""Of the multiply-accumulates, where a spec says nothing else."""
_NAMED = 3
_QUANTIZERS = ("QuantizeLinear", "DynamicQuantizeLinear")
_FORMATS = {
    onnx.TensorProto.INT8: "INT8",
    onnx.TensorProto.UINT8: "INT8",
    onnx.TensorProto.FLOAT8E4M3FN: "FP8",
    onnx.TensorProto.FLOAT4E2M1: "FP4",
}
_ROUNDED = {"RoundToNVFP4": "FP4", "RoundToMXFP8": "FP8"}
"""Functions that round an activation in blocks (`tasks.quantization.graph.block_floats`)."""


@dataclass(frozen=True, slots=True)
class QuantizedProduct:
    """One layer whose activation and weight are both quantized: a product in that format."""

    site: str
    layer: str
    node: str  # of the graph
    precision: str  # INT8, FP8 or FP4
    macs: int = 1  # multiply-accumulates on a typical batch


class Execution(StrEnum):
    """What an engine made of one layer that was asked for."""

    AS_ASKED = "as asked"
    KEPT = "kept"  # in floating point on purpose, on this target
    OTHERWISE = "otherwise"  # its kernels multiply something longer
    ABSENT = "absent"  # no kernel bears its name
    UNTOLD = "untold"  # the runtime does not say what its kernels multiply


@dataclass(frozen=True, slots=True)
class LayerPrecision:
    """One layer, what was asked for, and what runs."""

    requested: QuantizedProduct
    actual: Execution
    kernel: str  # the one that tells, empty where there is none


def asked_for(
    graph: onnx.ModelProto, sites: Sequence[Site], macs: Mapping[str, int] | None = None
) -> tuple[QuantizedProduct, ...]:
    """Return every product of a Q/DQ graph that reads two dequantized operands of one format.

    Weight-only quantization asks for none. `macs` are multiply-accumulates by node.
    """
    producers = {name: node for node in graph.graph.node for name in node.output}
    nodes = {node.name: node for node in graph.graph.node}
    types = {item.name: item.data_type for item in graph.graph.initializer}
    products = []
    for site in sites:
        for layer in site.layers:
            formats = {_format(name, producers, types) for name in nodes[layer.node].input[:2]}
            if len(formats) == 1 and (precision := formats.pop()):
                count = (macs or {}).get(layer.node, 1)
                products.append(
                    QuantizedProduct(site.name, layer.name, layer.node, precision, count)
                )
    return tuple(products)


def compare_precision(
    requested: Sequence[QuantizedProduct],
    kernels: Sequence[Kernel],
    kept: Collection[str] = (),
) -> tuple[LayerPrecision, ...]:
    """Say what became of each product; `kept` are nodes in floating point on purpose.

    Where several kernels bear its name, one as asked is enough.
    """
    return tuple(
        LayerPrecision(product, Execution.KEPT, "")
        if product.node in kept
        else _finding(product, [kernel for kernel in kernels if product.node in kernel.nodes])
        for product in requested
    )


def precision_gate(
    requested: Sequence[QuantizedProduct],
    kernels: Sequence[Kernel] | None,
    why_not: str,
    least: float = LEAST,
    kept: Collection[str] = (),
    beside: Mapping[str, int | None] | None = None,
) -> tuple[GateResult, ...]:
    """Judge, as the gate `layer-precision`, the fraction of the work that runs as asked.

    The work is counted in multiply-accumulates. Under `least` the gate fails, and binds where INT8
    was asked for. There is no gate where no product was asked for. Without kernels (an engine that
    nobody could inspect) it is inconclusive for the reason given, never passed. `kept` are nodes
    that the target's form leaves in floating point: they count as not in the format. `beside` are
    multiply-accumulates by node of what no recipe takes; of those None, nobody knows how many.
    """
    if not requested:
        return ()
    if kernels is None:
        return (_gate(Verdict.INCONCLUSIVE, None, least, requested, why_not),)
    findings = compare_precision(requested, kernels, kept)
    unclear = [layer for layer in findings if layer.actual is Execution.UNTOLD]
    done = (Execution.AS_ASKED, Execution.UNTOLD)
    wrong = [layer for layer in findings if layer.actual not in done]
    others = _Beside.of(beside or {}, kernels, requested[0].precision)
    asked = sum(product.macs for product in requested)
    lost, open_ = (sum(layer.requested.macs for layer in side) for side in (wrong, unclear))
    whole = asked + others.whole
    fraction, most = ((asked - less + others.done) / whole for less in (lost + open_, lost))
    verdict = Verdict.PASSED if fraction >= least else Verdict.INCONCLUSIVE
    verdict = Verdict.FAILED if most < least else verdict
    interval = Interval(fraction, fraction, fraction)
    reason = _reason(findings, wrong, unclear, 1 - (lost + open_) / asked)
    return (_gate(verdict, interval, least, requested, reason + others.told(fraction)),)


@dataclass(frozen=True, slots=True)
class _Beside:
    """What multiplies by weights beside the layers of sites."""

    whole: int  # multiply-accumulates; 0 where they cannot be counted
    done: int  # of these, in the format
    floats: tuple[str, ...]  # nodes that multiply floats, the dearest first
    uncounted: tuple[str, ...]

    @classmethod
    def of(
        cls, counts: Mapping[str, int | None], kernels: Sequence[Kernel], precision: str
    ) -> _Beside:
        short = {name for item in kernels if item.precision == precision for name in item.nodes}
        known = {name: count for name, count in counts.items() if count is not None}
        floats = sorted(
            (name for name in known if name not in short), key=lambda name: -known[name]
        )
        uncounted = tuple(name for name in counts if name not in known)
        done = sum(count for name, count in known.items() if name in short)
        return cls(sum(known.values()), done, tuple(floats), uncounted)

    def told(self, fraction: float) -> str:
        """Say it in a clause, or nothing where there is nothing beside."""
        if not self.whole and not self.uncounted:
            return ""
        parts = [f"{fraction:.1%} of all that multiply by weights"] if self.whole else []
        if self.floats:
            parts.append(f"no recipe takes {_listed(self.floats)}")
        if self.uncounted:
            parts.append(f"what {_listed(self.uncounted)} multiplies within is not counted")
        return "".join(f"; {part}" for part in parts)


def _finding(requested: QuantizedProduct, kernels: Sequence[Kernel]) -> LayerPrecision:
    telling = [kernel for kernel in kernels if kernel.precision]
    for wanted, outcome in ((requested.precision, Execution.AS_ASKED), (UNKNOWN, Execution.UNTOLD)):
        for kernel in telling:
            if kernel.precision == wanted:
                return LayerPrecision(requested, outcome, kernel.name)
    return (
        LayerPrecision(requested, Execution.OTHERWISE, telling[0].name)
        if telling
        else LayerPrecision(requested, Execution.ABSENT, "")
    )


def _format(name: str, producers: dict[str, onnx.NodeProto], types: dict[str, int]) -> str:
    """Return INT8, FP8 or FP4 where the tensor is restored from it, otherwise nothing."""
    restored = producers.get(name)
    shorter = restored is not None and restored.op_type == "Cast"
    rounded = producers.get(restored.input[0]) if restored is not None and shorter else restored
    if rounded is not None and rounded.op_type in _ROUNDED:
        return _ROUNDED[rounded.op_type]
    if restored is None or restored.op_type != "DequantizeLinear":
        return ""
    source = restored.input[0]
    quantizer = producers.get(source)
    if quantizer is None:
        return _FORMATS.get(types.get(source, 0), "")
    if quantizer.op_type not in _QUANTIZERS:
        return ""
    if quantizer.op_type == "DynamicQuantizeLinear":
        return "INT8"
    return _FORMATS.get(types.get(quantizer.input[2], 0), "")


def _reason(
    findings: Sequence[LayerPrecision],
    wrong: Sequence[LayerPrecision],
    unclear: Sequence[LayerPrecision],
    fraction: float,
) -> str:
    right = len(findings) - len(wrong) - len(unclear)
    kept = [layer for layer in wrong if layer.actual is Execution.KEPT]
    wrong = [layer for layer in wrong if layer.actual is not Execution.KEPT]
    parts = [
        f"{right} of {len(findings)} products run as asked, "
        f"{fraction:.1%} of their multiply-accumulates"
    ]
    if kept:
        parts.append(
            f"{_listed([layer.requested.layer for layer in kept])} left in floating point on "
            "purpose, where INT8 is slower or loses too much"
        )
    if wrong:
        parts.append(
            f"not so {_names(wrong)}: the runtime multiplies floats there, so nothing is gained"
        )
    if unclear:
        parts.append(f"the runtime does not say what {_names(unclear)} multiply")
    return "; ".join(parts)


def _names(findings: Sequence[LayerPrecision]) -> str:
    return _listed(
        [
            f"{layer.requested.layer} ({layer.requested.precision} asked, "
            f"{layer.kernel or 'no kernel'})"
            for layer in findings
        ]
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _gate(
    verdict: Verdict,
    fraction: Interval | None,
    least: float,
    requested: Sequence[QuantizedProduct],
    reason: str,
) -> GateResult:
    binding = verdict is Verdict.FAILED and all(item.precision == "INT8" for item in requested)
    return GateResult(
        METRIC,
        ALL,
        binding,
        verdict,
        fraction,
        least,
        AT_LEAST,
        len(requested),
        f"{METRIC}: {reason}",
    )
