"""Rounding an activation in blocks of its channels, as functions of standard operators.

A graph calls one by name: so it says in one node what is asked for, every runtime of ONNX computes
it, and the lowering for TensorRT puts that one's own operators in its place. The values are those
of `tasks.numerics.block_floats.fake_quantize_blocks`.
"""

from __future__ import annotations

import onnx
from onnx import helper, parser

from tasks.numerics.block_floats import BlockQuantizer
from tasks.numerics.formats import NumberFormat

DOMAIN = "requant"
NVFP4, MXFP8 = "RoundToNVFP4", "RoundToMXFP8"
NEEDS = {NVFP4: (23, 11), MXFP8: (24, 12)}
"""First opset and IR version that have the formats of a function's scales and weights."""
_E4M3, _E8M0 = onnx.TensorProto.FLOAT8E4M3FN, onnx.TensorProto.FLOAT8E8M0
_STEPS = {
    # E2M1 has steps of 0.5 below 2, of 1 below 4 and of 2 up to 6; Round takes ties to even.
    NVFP4: f"""
        six = Constant <value_float: float = 6.0> ()
        unit = Mul (six, whole)
        wanted = Div (largest, unit)
        most = Constant <value_float: float = 448.0> ()
        capped = Min (wanted, most)
        short = Cast <to: int = {_E4M3}> (capped)
        scales = Cast <to: int = 1> (short)
        steps = Mul (scales, whole)
        zero = Constant <value_float: float = 0.0> ()
        some = Greater (steps, zero)
        one = Constant <value_float: float = 1.0> ()
        divisor = Where (some, steps, one)
        units = Div (blocks, divisor)
        least = Neg (six)
        cut = Clip (units, least, six)
        size = Abs (cut)
        two = Constant <value_float: float = 2.0> ()
        four = Constant <value_float: float = 4.0> ()
        half = Constant <value_float: float = 0.5> ()
        small = Less (size, two)
        middle = Less (size, four)
        upper = Where (middle, one, two)
        grid = Where (small, half, upper)
        places = Div (cut, grid)
        nearest = Round (places)
        rounded = Mul (nearest, grid)
    """,
    MXFP8: f"""
        most = Constant <value_float: float = 448.0> ()
        wanted = Div (largest, most)
        tiny = Constant <value_float: float = {2.0**-126}> ()
        normal = Max (wanted, tiny)
        power = Cast <to: int = {_E8M0}, round_mode: string = "up"> (normal)
        steps = Cast <to: int = 1> (power)
        units = Div (blocks, steps)
        least = Neg (most)
        cut = Clip (units, least, most)
        short = Cast <to: int = {_E4M3}> (cut)
        rounded = Cast <to: int = 1> (short)
    """,
}
_INPUTS, _BLOCKS = {NVFP4: "x, whole", MXFP8: "x"}, {NVFP4: 16, MXFP8: 32}


def function(name: str, opset: int) -> onnx.FunctionProto:
    """Return a function's definition: x [..., channels], in whole blocks -> the same, rounded.

    NVFP4's second input is the scale of the tensor.
    """
    return parser.parse_function(
        f"""
        <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
        {name} ({_INPUTS[name]}) => (y)
        {{
            grouped = Constant <value_ints: ints = [-1, {_BLOCKS[name]}]> ()
            blocks = Reshape (x, grouped)
            magnitudes = Abs (blocks)
            last = Constant <value_ints: ints = [-1]> ()
            largest = ReduceMax <keepdims: int = 1> (magnitudes, last)
            {_STEPS[name]}
            restored = Mul (rounded, steps)
            shape = Shape (x)
            y = Reshape (restored, shape)
        }}
        """
    )


def function_name(quantizer: BlockQuantizer) -> str:
    """Return the function that rounds as a quantizer says."""
    return NVFP4 if quantizer.format is NumberFormat.FP4 else MXFP8


def call(name: str, source: str, result: str, node: str, of_tensor: str | None) -> onnx.NodeProto:
    """Return the node that rounds `source`; `of_tensor` is the constant of NVFP4's scale."""
    inputs = [source, *([of_tensor] if of_tensor else [])]
    return helper.make_node(name, inputs, [result], node, domain=DOMAIN)


def define(model: onnx.ModelProto) -> None:
    """Add the definitions of the functions that a model's nodes call."""
    called = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    if not called:
        return
    opset = max(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.functions.extend(function(name, opset) for name in called)
