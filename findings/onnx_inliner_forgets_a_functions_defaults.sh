#!/usr/bin/env bash
# Version: onnx 1.22.0, onnxruntime 1.32.0 (CPU), Python 3.11.
# Expectation: `onnx.inliner.inline_local_functions` returns a model that computes the same. A function's attribute with a default
#   (`attribute_proto`, since IR version 9) has that default where a call does not give it, as ONNX Runtime computes it.
# Behaviour: where the call leaves the attribute out, the node inside comes back without it, and so with its operator's own default:
#   a LeakyRelu of slope 0.5 has 0.01. Both models pass the checker. Inlined with the attribute given in the call, it is right.
# Output: "as it is: -1.0", "inlined: -0.02", "inlined, attribute given: -1.0".
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.22.0 onnxruntime==1.32.0 numpy >&2
cat >"$folder/inlined.py" <<'PY'
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper
from onnx.inliner import inline_local_functions

OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def model(**given: float) -> onnx.ModelProto:
    leaky = helper.make_node("LeakyRelu", ["a"], ["b"])
    leaky.attribute.append(
        onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    )
    default = [helper.make_attribute("slope", 0.5)]
    function = helper.make_function("local", "Leak", ["a"], ["b"], [leaky], OPSETS[:1], attribute_protos=default)
    graph = helper.make_graph(
        [helper.make_node("Leak", ["x"], ["y"], domain="local", **given)],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    made = helper.make_model(graph, opset_imports=OPSETS, functions=[function], ir_version=10)
    onnx.checker.check_model(made, full_check=True)
    return made


def answer(made: onnx.ModelProto) -> float:
    onnx.checker.check_model(made, full_check=True)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return round(float(session.run(None, {"x": np.array([-2], np.float32)})[0][0]), 6)


answers = {
    "as it is": answer(model()),
    "inlined": answer(inline_local_functions(model())),
    "inlined, attribute given": answer(inline_local_functions(model(slope=0.5))),
}
for name, value in answers.items():
    print(f"{name}: {value}")
sys.exit(list(answers.values()) != [-1.0, -0.02, -1.0])
PY
"$folder/venv/bin/python" "$folder/inlined.py"
