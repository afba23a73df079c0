#!/usr/bin/env bash
# Version: onnxruntime 1.32.0 (CPU), onnx 1.22.0, Python 3.11.
# Expectation: a convolution whose weight is stored in float32 multiplies float32: nobody asked for its weight to be quantized.
# Behaviour: where a DequantizeLinear stands before it and a QuantizeLinear behind it, as between layers in INT8, its weight is
#   quantized when the session opens, with one scale for all channels, and it runs in INT8. A depthwise convolution that was left
#   in floats for its accuracy, as `nodes_to_exclude` does, loses its small channels. A Sum of one input before the QuantizeLinear
#   keeps it in floats.
# Output: "between quantizers: QLinearConv, channel 0 is 100% off", "behind a Sum: Conv, channel 0 is ...% off" (under 5).
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.22.0 numpy >&2
cat >"$folder/pulled.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
X = rng.standard_normal((1, 8, 16, 16)).astype(np.float32)
WEIGHT = (rng.standard_normal((8, 1, 3, 3)) * np.logspace(-4, 0, 8).reshape(-1, 1, 1, 1)).astype(np.float32)
# Scales of the input and, fine enough for its smallest channel to be seen, of the output.
CONSTANTS = {"s": np.float32(4 / 127), "z": np.uint8(128), "t": np.float32(1e-6), "w": WEIGHT}


def graph(parted: bool) -> bytes:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Conv", ["d", "w"], ["c" if parted else "f"], group=8),
        *([helper.make_node("Sum", ["c"], ["f"])] if parted else []),
        helper.make_node("QuantizeLinear", ["f", "t", "z"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "t", "z"], ["y"]),
    ]
    made = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 14, 14])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in CONSTANTS.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def run(model: bytes, level: ort.GraphOptimizationLevel) -> tuple[np.ndarray, list[str]]:
    options, path = ort.SessionOptions(), folder / "optimized.onnx"
    options.log_severity_level, options.graph_optimization_level = 4, level
    options.optimized_model_filepath = str(path)
    opened = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(path).graph.node if "Conv" in node.op_type]
    return opened.run(None, {"x": X})[0][0, 0], kinds


right = True
for name, parted, kind in (("between quantizers", False, "QLinearConv"), ("behind a Sum", True, "Conv")):
    exact, _ = run(graph(parted), ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    found, kinds = run(graph(parted), ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    off = float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
    print(f"{name}: {', '.join(kinds)}, channel 0 is {off:.0%} off")
    right &= kinds == [kind] and (off < 0.05) is parted
sys.exit(not right)
PY
"$folder/venv/bin/python" "$folder/pulled.py" "$folder"
