"""The fraction of a graph's weight products that really run on INT8 operands.

Every graph is judged alike, whoever wrote it.
"""

import onnx

PRODUCTS = ("MatMul", "Gemm", "Conv")
INTEGER_WEIGHT = {"MatMulInteger": 1, "ConvInteger": 1, "QLinearMatMul": 3, "QLinearConv": 3}
_TRANSPARENT = ("QuantizeLinear", "Transpose", "Identity", "Cast", "Reshape")


def int8_share(quantized: bytes, weights: int) -> float:
    """Return the fraction of weights whose product has both operands in INT8.

    The whole is all `weights` of the full-precision graph's products. For matrix products that is
    the fraction of multiply-accumulates per position.
    """
    graph = onnx.load_from_string(quantized).graph
    producers = {name: node for node in graph.node for name in node.output}
    sizes = {item.name: _size(list(item.dims)) for item in graph.initializer if len(item.dims) > 1}
    sizes |= {
        node.output[0]: _size(list(node.attribute[0].t.dims))
        for node in graph.node
        if node.op_type == "Constant"
    }
    return sum(_int8_weights(node, producers, sizes) for node in graph.node) / weights


def _int8_weights(
    node: onnx.NodeProto, made: dict[str, onnx.NodeProto], sizes: dict[str, int]
) -> int:
    if node.op_type in INTEGER_WEIGHT:
        return sizes.get(node.input[INTEGER_WEIGHT[node.op_type]], 0)
    if node.op_type not in PRODUCTS:
        return 0
    feeder = made.get(node.input[0])
    if feeder is None or feeder.op_type != "DequantizeLinear":
        return 0
    return _dequantized(node.input[1], made, sizes)


def _dequantized(name: str, made: dict[str, onnx.NodeProto], sizes: dict[str, int]) -> int:
    """Count the elements of the constant behind a DequantizeLinear; 0 when there is none."""
    dequantized = False
    while name in made and name not in sizes:
        node = made[name]
        if node.op_type != "DequantizeLinear" and node.op_type not in _TRANSPARENT:
            return 0
        dequantized |= node.op_type == "DequantizeLinear"
        name = node.input[0]
    return sizes.get(name, 0) if dequantized else 0


def _size(dims: list[int]) -> int:
    total = 1
    for dim in dims:
        total *= dim
    return total
