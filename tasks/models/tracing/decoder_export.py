"""A decoder's graph from few of its layers, where those are alike."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.weights import inside, large_beside
from tasks.models.language.decoder import CachedDecoder, Probe, Shapes, with_layers
from tasks.models.language.layout import CacheLayout
from tasks.models.tracing.repeated_layers import (
    EXPORTED,
    find_layers,
    first_layers,
    repeat_layers,
)
from tasks.models.tracing.torch_export import strip, traced


def decoder_from_template(
    module: CachedDecoder, layout: CacheLayout, probe: Probe, shapes: Shapes, *, beside: bool
) -> onnx.ModelProto | None:
    """Export the first layers and repeat the last of them; None where the others are not like it.

    What is returned has yet to be compared with the model: what a layer computes by its number
    alone is not seen.
    """
    layers = find_layers(module, len(layout.layers))
    if layers is None or len(set(layout.layers)) > 1 or module.mixed:
        return None
    few = CacheLayout(layout.layers[:EXPORTED], layout.stops)
    with first_layers(module, layers):
        try:
            model = traced(
                module,
                *with_layers(probe, shapes, EXPORTED),
                list(few.inputs),
                list(few.outputs),
                beside=beside,
            )
        except BadInput:
            return None  # traced whole, it says what is wrong

    weights: dict[str, NDArray[np.generic]] = {
        name: parameter.detach().numpy() for name, parameter in module.named_parameters()
    }
    constant = large_beside if beside else inside
    if not repeat_layers(model, layers, len(layout.layers), weights, constant):
        return None
    strip(model)
    return model
