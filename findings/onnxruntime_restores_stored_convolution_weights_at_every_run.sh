#!/usr/bin/env bash
# Version: onnxruntime 1.32.0 (CPU), onnx 1.22.0, Python 3.11.
# Expectation: INT8 weights of a convolution whose input stays in floats are restored once, when the session opens: all inputs of
#   that DequantizeLinear are constants, and constants are folded.
# Behaviour: the node stays in the optimized graph at every level and runs each time. The same weights behind a Mul by their scale
#   are folded. So a file made smaller by storing weights alone in INT8 is slower than FP32.
# Output: "DequantizeLinear in the optimized graph: 1, runs of it in 5 runs: 5", "written as Cast and Mul: 0 of either left".
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.22.0 numpy >&2
cat >"$folder/weights.py" <<'PY'
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
CONSTANTS = {
    "w": rng.integers(-127, 128, (8, 4, 3, 3), np.int8), "zero": np.zeros(8, np.int8),
    "scale": np.full(8, 0.01, np.float32), "factor": np.full((8, 1, 1, 1), 0.01, np.float32),
}
RESTORED = [helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["w_float"], axis=0)]
MULTIPLIED = [
    helper.make_node("Cast", ["w"], ["w_cast"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["w_cast", "factor"], ["w_float"]),
]


def graph(before: list[onnx.NodeProto]) -> bytes:
    read = {name for node in before for name in node.input}
    made = helper.make_graph(
        [*before, helper.make_node("Conv", ["x", "w_float"], ["y"])], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8, 14, 14])],
        [numpy_helper.from_array(value, name) for name, value in CONSTANTS.items() if name in read],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def session(model: bytes, name: str) -> tuple[ort.InferenceSession, Counter]:
    options, path = ort.SessionOptions(), folder / f"{name}.onnx"
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath, options.enable_profiling = str(path), True
    options.profile_file_prefix = str(folder / name)
    opened = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return opened, Counter(node.op_type for node in onnx.load(path).graph.node)


opened, left = session(graph(RESTORED), "restored")
for _ in range(5):
    opened.run(None, {"x": np.ones((1, 4, 16, 16), np.float32)})
events = json.loads(Path(opened.end_profiling()).read_text())
runs = sum(event["name"].endswith("_kernel_time") and event["args"]["op_name"] == "DequantizeLinear" for event in events)
print(f"DequantizeLinear in the optimized graph: {left['DequantizeLinear']}, runs of it in 5 runs: {runs}")
_, folded = session(graph(MULTIPLIED), "multiplied")
others = folded["Cast"] + folded["Mul"]
print(f"written as Cast and Mul: {others} of either left")
sys.exit(not (left["DequantizeLinear"] == 1 and runs == 5 and others == 0))
PY
"$folder/venv/bin/python" "$folder/weights.py" "$folder"
