#!/usr/bin/env bash
# Version: onnxruntime 1.32.0 (CPU), onnx 1.22.0, Python 3.11.
# Expectation: a QDQ MatMul followed by a constant Add runs as an integer product, whatever the number of its axes.
# Behaviour: with an input of three axes it does (the product has no DequantizeLinear before it). With two axes MatMulAddFusion
#   joins product and Add to a float Gemm first, which the QDQ fusion then leaves: both inputs are dequantized and multiplied as floats.
# Output: "3 axes: integer product", "2 axes: float Gemm", "2 axes without MatMulAddFusion: integer product".
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.22.0 numpy >&2
cat >"$folder/axes.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

folder, width = Path(sys.argv[1]), 32


def graph(axes: int) -> bytes:
    rng = np.random.default_rng(0)
    constants = {
        "x_scale": np.float32(0.02), "x_zero": np.uint8(128), "w_zero": np.zeros(width, np.int8),
        "w_scale": np.full(width, 0.01, np.float32), "w": rng.integers(-127, 128, (width, width), np.int8),
        "b": rng.standard_normal(width).astype(np.float32), "y_scale": np.float32(0.1), "y_zero": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_dq"], axis=1),
        helper.make_node("MatMul", ["x_dq", "w_dq"], ["product"], "product"),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    shape = ["batch", *[4] * (axes - 2), width]
    made = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def kernel(axes: int, disabled: list[str]) -> str:
    options, path = ort.SessionOptions(), folder / f"{axes}{len(disabled)}.onnx"
    options.log_severity_level = 4
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(graph(axes), options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)
    types = {node.op_type for node in onnx.load(path).graph.node}
    if {"MatMulIntegerToFloat", "QLinearMatMul", "DynamicQuantizeMatMul", "QGemm"} & types:
        return "integer product"
    return "float Gemm" if "Gemm" in types else f"something else: {sorted(types)}"


found = kernel(3, []), kernel(2, []), kernel(2, ["MatMulAddFusion"])
for name, what in zip(("3 axes", "2 axes", "2 axes without MatMulAddFusion"), found):
    print(f"{name}: {what}")
sys.exit(0 if found == ("integer product", "float Gemm", "integer product") else 1)
PY
"$folder/venv/bin/python" "$folder/axes.py" "$folder"
