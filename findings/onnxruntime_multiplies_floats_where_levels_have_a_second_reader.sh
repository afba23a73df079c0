#!/usr/bin/env bash
# Version: onnxruntime 1.32.0 (CPU), onnx 1.22.0, Python 3.11.
# Expectation: a MatMul whose weight comes out of a DequantizeLinear in blocks is taken into MatMulNBits, which reads the stored
#   4-bit values, whoever else reads them: the weights stay as they are, and nothing of the other reader changes.
# Behaviour: where another node reads the same stored values or scales too, as the embedding of a language model does whose table is
#   also its output layer, the product is left as it is: DequantizeLinear restores the whole weight in float32 at each run, and
#   MatMul multiplies floats. Nothing is logged as a warning. Naming both twice, one name a reader, brings MatMulNBits back.
# Output: what makes y. "one reader: MatMulNBits", "one name for values: DequantizeLinear, MatMul", "one name for scales:
#   DequantizeLinear, MatMul", "two names for both: MatMulNBits".
# Exits 1 if that changes. Takes about half a minute.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.22.0 numpy >&2
cat >"$folder/readers.py" <<'PY'
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

folder, rng = Path(sys.argv[1]), np.random.default_rng(0)
WIDTH, WORDS, BLOCK = 64, 96, 32


def graph(second: str | None, by: str) -> bytes:
    """Two readers where `second` and `by` are the names that the other one reads values and scales by."""
    values = rng.integers(-8, 8, WIDTH * WORDS)
    packed = ((values[0::2] & 15) | ((values[1::2] & 15) << 4)).astype(np.uint8).tobytes()
    names = dict.fromkeys(("levels", *([second] if second else [])))
    weights = [helper.make_tensor(name, TensorProto.INT4, [WIDTH, WORDS], packed, raw=True) for name in names]
    scales = rng.uniform(0.01, 0.1, (WIDTH // BLOCK, WORDS)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["levels", "scales"], ["weight"], axis=0, block_size=BLOCK),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, WORDS])]
    if second:
        nodes += [
            helper.make_node("DequantizeLinear", [second, by], ["table"], axis=0, block_size=BLOCK),
            helper.make_node("Gather", ["table", "ids"], ["e"], axis=1),
        ]
        outputs.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [WIDTH, 4]))
    made = helper.make_graph(
        nodes, "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, WIDTH]),
            *([helper.make_tensor_value_info("ids", TensorProto.INT64, [4])] if second else []),
        ],
        outputs, [*weights, *(onnx.numpy_helper.from_array(scales, name) for name in dict.fromkeys(("scales", by)))],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def makers(model: bytes) -> list[str]:
    """Return what makes y, and what makes its weight where something does."""
    options, path = ort.SessionOptions(), folder / "optimized.onnx"
    options.log_severity_level, options.optimized_model_filepath = 3, str(path)
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    by_output = {name: node for node in onnx.load(path).graph.node for name in node.output}
    last = by_output["y"]
    weight = [by_output[name].op_type for name in last.input if name in by_output]
    return [*weight, last.op_type]


right = True
for name, second, by, expected in (
    ("one reader", None, "scales", ["MatMulNBits"]),
    ("one name for values", "levels", "more scales", ["DequantizeLinear", "MatMul"]),
    ("one name for scales", "again", "scales", ["DequantizeLinear", "MatMul"]),
    ("two names for both", "again", "more scales", ["MatMulNBits"]),
):
    found = makers(graph(second, by))
    print(f"{name}: {', '.join(found)}")
    right &= found == expected
sys.exit(not right)
PY
"$folder/venv/bin/python" "$folder/readers.py" "$folder"
