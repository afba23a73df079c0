#!/usr/bin/env bash
# Version: tensorrt-rtx 1.7.1.116, onnx 1.21.0, Python 3.11, no GPU (plans are built ahead of time for SM120).
# Expectation: a product whose activation and weight are in blocks multiplies what it reads: NVFP4 in FP4,
# MXFP8 in FP8, as both have instructions on SM120; scales of type FLOAT8E8M0 (a DataType of the module) parse.
# Behaviour: NVFP4 does. Of MXFP8 activation and weight are restored to floats, and floats are multiplied, in
# float32 as in float16; it builds for SM89 just so. Initializers of FLOAT8E8M0 are
# refused, and DequantizeLinear takes no uint8 in their place: TRT_MXFP8DequantizeLinear alone does.
# Output: "NVFP4: FP4E2M1 x FP4E2M1", "MXFP8: Float x Float", "MXFP8 in float16: Half x Half",
# "MXFP8 for SM89: Float x Float", "scales of FLOAT8E8M0: refused".
# Exits 1 if that changes. Takes about a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorrt-rtx==1.7.1.116 onnx==1.21.0 ml_dtypes==0.6.0 numpy >&2
cat >"$folder/build.py" <<'PY'
import re

import ml_dtypes
import numpy as np
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper

K, N, ROWS = 256, 128, 128
WEIGHT = np.random.default_rng(0).standard_normal((K, N)).astype(np.float32)


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.layers = ""

    def log(self, severity, message):
        if message.startswith("Layers:"):
            self.layers = message


def built(nodes, constants, kind=TensorProto.FLOAT, capability="SM120"):
    """Return what the product reads beside scales, or None where the parser refuses the graph."""
    info = helper.make_tensor_value_info
    nodes = [*nodes, helper.make_node("MatMul", ["xd", "wd"], ["y"], "product")]
    x, y = info("x", kind, [ROWS, K]), info("y", kind, [ROWS, N])
    graph = helper.make_graph(nodes, "g", [x], [y], constants)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("trt", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=12)
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    if not trt.OnnxParser(network, log).parse(model.SerializeToString()):
        return None
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    assert builder.build_serialized_network(network, config) is not None
    line = next(item for item in log.layers.splitlines() if re.search(r"LayerType: (gemm|runtime_fusion)", item))
    inputs, constants = re.search(r"Inputs: (.*), Constants: (.*), Outputs", line).groups()
    large = re.findall(rf"Dimensions: \[{K},{N}\][^}}]*Datatype: (\w+)", constants)
    return re.search(r"Datatype: (\w+)", inputs)[1] + " x " + large[0]


def nvfp4():
    blocks = WEIGHT.reshape(K // 16, 16, N)
    whole = np.float32(np.abs(WEIGHT).max() / (6 * 448))
    scales = (np.abs(blocks).max(axis=1) / (6 * whole)).astype(ml_dtypes.float8_e4m3fn)
    values = (blocks / (scales.astype(np.float32) * whole)[:, None]).reshape(K, N)
    constants = [numpy_helper.from_array(np.asarray(item), name) for name, item in (
        ("w", values.astype(ml_dtypes.float4_e2m1fn)), ("ws", scales), ("wg", whole), ("xg", np.float32(0.002)))]
    return [
        helper.make_node("TRT_FP4DynamicQuantize", ["x", "xg"], ["xq", "xs"], domain="trt", axis=-1, block_size=16,
                         scale_type=TensorProto.FLOAT8E4M3FN),
        helper.make_node("DequantizeLinear", ["xs", "xg"], ["xw"]),
        helper.make_node("DequantizeLinear", ["xq", "xw"], ["xd"], axis=-1, block_size=16),
        helper.make_node("DequantizeLinear", ["ws", "wg"], ["ww"]),
        helper.make_node("DequantizeLinear", ["w", "ww"], ["wd"], axis=0, block_size=16),
    ], constants


def mxfp8(kind=TensorProto.FLOAT, scale_type=TensorProto.UINT8):
    blocks = WEIGHT.reshape(K // 32, 32, N)
    exponents = np.ceil(np.log2(np.abs(blocks).max(axis=1) / 448))
    values = (blocks / np.exp2(exponents)[:, None]).reshape(K, N).astype(ml_dtypes.float8_e4m3fn)
    scales = (exponents + 127).astype(np.uint8)
    constants = [numpy_helper.from_array(values, "w"),
                 helper.make_tensor("ws", scale_type, scales.shape, scales.tobytes(), raw=True)]
    restored = {"domain": "trt", "block_size": 32, "output_dtype": kind}
    return [
        helper.make_node("TRT_MXFP8DynamicQuantize", ["x"], ["xq", "xs"], domain="trt", axis=-1, block_size=32,
                         output_dtype=TensorProto.FLOAT8E4M3FN),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["xq", "xs"], ["xd"], axis=-1, **restored),
        helper.make_node("TRT_MXFP8DequantizeLinear", ["w", "ws"], ["wd"], axis=0, **restored),
    ], constants


HALF = TensorProto.FLOAT16
found = {
    "NVFP4": built(*nvfp4()),
    "MXFP8": built(*mxfp8()),
    "MXFP8 in float16": built(*mxfp8(HALF), kind=HALF),
    "MXFP8 for SM89": built(*mxfp8(), capability="SM89"),
    "scales of FLOAT8E8M0": built(*mxfp8(scale_type=TensorProto.FLOAT8E8M0)) or "refused",
}
for name, text in found.items():
    print(f"{name}: {text}")
expected = ["FP4E2M1 x FP4E2M1", "Float x Float", "Half x Half", "Float x Float", "refused"]
raise SystemExit(0 if list(found.values()) == expected else 1)
PY
"$folder/venv/bin/python" "$folder/build.py" 2>/dev/null
