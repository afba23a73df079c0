"""Weights of floats in blocks: one scale a block, itself restored from a short float or not."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from tasks.graphs.sites import Layer
from tasks.numerics.quantized_weight import QuantizedWeight


def restored_blocks(
    name: str, layer: Layer, weight: QuantizedWeight
) -> tuple[list[onnx.NodeProto], dict[str, NDArray[np.generic]]]:
    """Return the nodes that restore a weight in blocks, and their constants but its values.

    Args:
        name: What nodes and constants are named after; the values are `name.quantized`.
        layer: Whose weight it is.
        weight: Its values and scales, [outputs, blocks].
    """
    scales = weight.scales.T if layer.output_axis == 1 else weight.scales
    read, nodes, constants = f"{name}.scale", [], dict[str, NDArray[np.generic]]()
    if weight.tensor_scale is None:
        constants[read] = scales
    else:
        whole = np.float32(weight.tensor_scale)
        constants[read] = (scales / whole).astype(ml_dtypes.float8_e4m3fn)
        constants[f"{read}.scale"] = np.asarray(whole)
        nodes.append(
            helper.make_node(
                "DequantizeLinear",
                [read, f"{read}.scale"],
                [f"{read}.dequantized"],
                f"{read}.dequantize",
            )
        )
        read = f"{read}.dequantized"
    nodes.append(
        helper.make_node(
            "DequantizeLinear",
            [f"{name}.quantized", read],
            [f"{name}.dequantized"],
            f"{name}.dequantize",
            axis=1 - layer.output_axis,
            block_size=weight.block,
        )
    )
    return nodes, constants
