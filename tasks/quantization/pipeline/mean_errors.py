"""What INT8 adds to every layer's result on the mean, taken off for one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.engines import open_target
from tasks.graphs.multiply_accumulates import layer_products
from tasks.models.batches import Batch
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.plan import GraphPlan, QuantizedSite
from tasks.quantization.pipeline.results import common_shapes, divided_tensors
from tasks.quantization.sensitivity.integer_placement import KernelEvidence, single_cases
from tasks.quantization.sensitivity.measure import mean_loss
from tasks.quantization.weight.integer_biases import with_integer_biases, without_integer_biases
from tasks.quantization.weight.sequential_correction import corrected_biases, exact_means

CASES = (4, 64)
"""Least and most cases on which means are taken; every fourth says whether they hold."""
WORK = 1e11
"""Multiply-accumulates of one pass over them."""


class MeanErrors:
    """Measures them for any graph that is quantized of one model at the same sites.

    Full precision's means are taken once.
    """

    def __init__(self, model: onnx.ModelProto, plan: GraphPlan, evidence: KernelEvidence) -> None:
        """Take the means of full precision.

        Args:
            model: The full-precision graph.
            plan: What is quantized of it.
            evidence: What is measured on.
        """
        self._model, self._evidence = model, evidence
        sites = tuple(
            item.site
            for item in plan.sites
            if isinstance(item, QuantizedSite) and item.activation is not None
        )
        products = sum(layer_products(model, sites, common_shapes(evidence)).values())
        batches = single_cases(evidence, int(np.clip(WORK // max(products, 1), *CASES)))
        self._held_out = batches[::4]
        self._cases = [batch.feeds for place, batch in enumerate(batches) if place % 4]
        layers = {layer.node for site in sites for layer in site.layers}
        divided = divided_tensors(model, plan.model)
        self._means = exact_means(model, layers, self._cases, divided) if self._cases else {}

    def biases(self, qdq: onnx.ModelProto) -> Mapping[str, NDArray[np.float32]]:
        """Return node -> the bias under which it keeps its mean on ONNX Runtime, [outputs]."""
        if not self._means:
            return {}
        return corrected_biases(lower(without_integer_biases(qdq), "u8"), self._means, self._cases)

    def corrected(self, qdq: onnx.ModelProto) -> tuple[onnx.ModelProto, tuple[str, ...]]:
        """Return a graph with these biases, where they help, and sentences on it.

        Those that it had are superseded. It gets none where the output's loss, on cases that told
        no mean, does not fall.
        """
        plain, biases = without_integer_biases(qdq), self.biases(qdq)
        if not biases:
            return plain, ()
        corrected = with_integer_biases(plain, biases)
        before, after = (self._loss(graph) for graph in (plain, corrected))
        if not after < before:
            return plain, ()
        sentence = (
            f"on ONNX Runtime, {len(biases)} layers' biases take off the mean of what INT8 adds, "
            f"which leaves {after / before:.0%} of the output's loss on "
            f"{len(self._held_out)} other cases"
        )
        return corrected, (sentence,)

    def _loss(self, qdq: onnx.ModelProto) -> float:
        return float(np.mean(self._losses(qdq, self._held_out)))

    def _losses(self, qdq: onnx.ModelProto, batches: Sequence[Batch]) -> list[float]:
        target, output = open_target("onnxruntime-cpu"), self._evidence.inputs.output
        exact, quantized = (
            target.load(graph.SerializeToString()) for graph in (self._model, lower(qdq, "u8"))
        )
        losses = []
        for batch in batches:
            answers = (engine.run(batch.feeds)[output] for engine in (exact, quantized))
            losses.append(mean_loss(self._evidence.task, *answers))
        return losses
