"""Which layers one target computes in INT8, over what ranges, and with which biases."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
from numpy.typing import NDArray

from tasks.graphs.multiply_accumulates import layer_products
from tasks.observation.observer import SiteObservation
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.plan import GraphPlan
from tasks.quantization.pipeline.mean_errors import MeanErrors
from tasks.quantization.pipeline.results import (
    common_shapes,
    integer_layers,
    result_quantizers,
)
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.integer_placement import (
    IntegerPlacement,
    KernelEvidence,
    convolution_costs,
    place,
)
from tasks.quantization.weight.integer_biases import with_integer_biases


@dataclass(frozen=True, slots=True, eq=False)
class IntegerKernels:
    """What is measured of one plan for the target that takes a choice."""

    model: onnx.ModelProto  # full precision
    plan: GraphPlan
    observed: Mapping[str, SiteObservation]
    recipe: Recipe
    evidence: KernelEvidence
    errors: MeanErrors

    def placed(self) -> tuple[GraphPlan, IntegerPlacement]:
        """Return the plan with the convolutions that measure best in INT8, and the measurements.

        Ranges are compared under the biases that each asks for: what is clipped moves means most.
        """
        sites = tuple(item.site for item in self.plan.sites)
        products = layer_products(self.plan.model, sites, common_shapes(self.evidence))
        costs = convolution_costs(self.plan.model, integer_layers(self.plan), products)

        @cache
        def biases(tolerance: float | None) -> Mapping[str, NDArray[np.float32]]:
            return self.errors.biases(qdq.write(self._planned((), tolerance)))

        def build(floats: Collection[str], tolerance: float | None) -> bytes:
            written = qdq.write(self._planned(floats, tolerance))
            corrected = with_integer_biases(written, biases(tolerance))
            return bytes(lower(corrected, "u8").SerializeToString())

        placement = place(
            build, self.model.SerializeToString(), costs, sum(products.values()), self.evidence
        )
        return self._planned(tuple(placement.reasons), placement.tolerance), placement

    def _planned(self, floats: Collection[str], tolerance: float | None) -> GraphPlan:
        args = (self.model, self.plan, self.observed, self.recipe)
        results = result_quantizers(*args, (), tolerance)
        wanted = result_quantizers(*args, floats, tolerance) if floats else results
        unused = tuple(name for name in results if name not in wanted)
        return replace(self.plan, results=results, floats=tuple(floats), unused=unused)
