#!/usr/bin/env bash
# Version: tensorrt-rtx 1.7.1.116, onnx 1.21.0, Python 3.11, no GPU (plans are built ahead of time for SM89).
# Expectation: activations quantized to uint8 are refused or stay unsigned; a scale of infinity is refused;
# a ConvTranspose between Q/DQ multiplies INT8, as Conv does.
# Behaviour: uint8 with zero-point 0 becomes INT8 without a word (128 to 255 are lost); infinity builds;
# the ConvTranspose dequantizes both operands and multiplies floats, while its Conv twin multiplies INT8.
# Output: "uint8 activation: Int8", "scale inf: built", "Conv: Int8 x Int8", "ConvTranspose: Float x Float".
# Exits 1 if that changes. Takes about a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet tensorrt-rtx==1.7.1.116 onnx==1.21.0 numpy >&2
cat >"$folder/build.py" <<'PY'
import re
import numpy as np
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper


class Log(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.layers = ""

    def log(self, severity, message):
        if message.startswith("Layers:"):
            self.layers = message


def build(op, weight, zero=np.int8(0), scale=0.02):
    constants = {"s": np.float32(scale), "z": np.asarray(zero), "w": weight, "ws": np.float32(0.01)}
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
             helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
             helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"]),
             helper.make_node(op, ["d", "wd"], ["y"], name="product")]
    info = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16, 8, 8])
    graph = helper.make_graph(nodes, "g", [x], [info("y")],
                              [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    model.ir_version = 10
    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(0)
    assert trt.OnnxParser(network, log).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    assert builder.build_serialized_network(network, config) is not None
    line = next(line for line in log.layers.splitlines() if re.search(r"LayerType: (correlation|deconv)", line))
    return re.findall(r"Datatype: (\w+)", line.split(", Outputs: ")[0])


weight = np.random.default_rng(0).integers(-127, 127, (16, 16, 3, 3)).astype(np.int8)
unsigned = build("Conv", weight, np.uint8(0))[0]
infinite = build("Conv", weight, scale=np.inf)
plain, transposed = build("Conv", weight), build("ConvTranspose", weight)
print(f"uint8 activation: {unsigned}")
print(f"scale inf: {'built' if infinite else 'refused'}")
print(f"Conv: {plain[0]} x {plain[1]}")
print(f"ConvTranspose: {transposed[0]} x {transposed[1]}")
as_expected = unsigned == plain[0] == plain[1] == "Int8" and transposed[:2] == ["Float", "Float"]
raise SystemExit(0 if as_expected else 1)
PY
"$folder/venv/bin/python" "$folder/build.py"
