#!/usr/bin/env bash
# Version: nvidia-modelopt 0.47.0 (its ONNX exporter's own functions, which need numpy alone), Python 3.11.
# Expectation: MXFP8 scales of a weight [inputs, outputs] in blocks along axis 0 follow from the block's own
# values, so that none over its scale exceeds 448 (`get_amax` says "the axis to quantize", and takes 0 and -1).
# Behaviour: along axis 0 the largest magnitude is that of every (inputs / 32)-th row instead of 32 in a row: it
# reshapes to [32, -1], where [-1, 32, outputs] is meant. What is larger than its scale allows is cut off.
# Output: "axis 1: largest over its scale 250, ...: True", "axis 0: largest over its scale 256000, ...: False".
# Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'numpy<3' >&2
"$folder/venv/bin/pip" install --quiet --no-deps nvidia-modelopt==0.47.0 >&2
cat >"$folder/scales.py" <<'PY'
import importlib.util
import sysconfig
from pathlib import Path

import numpy as np

PATH = Path(sysconfig.get_path("purelib")) / "modelopt/onnx/quantization/quant_utils.py"
spec = importlib.util.spec_from_file_location("quant_utils", PATH)  # the package itself imports torch
quant_utils = importlib.util.module_from_spec(spec)
spec.loader.exec_module(quant_utils)
BLOCK = 32


def largest(weight, axis):
    """Return the largest magnitude over its scale, as `MXFP8QuantExporter` divides."""
    amax = quant_utils.get_amax(weight, axis, BLOCK)
    e8m0 = quant_utils.compute_e8m0(amax, weight.shape, axis, BLOCK).astype(np.uint8)
    scales = np.exp2(np.repeat(e8m0.astype(np.float32), BLOCK, axis=axis) - 127)
    return float(np.abs(weight / scales).max())


inputs = np.where(np.arange(64) % 2, 1.0, 1000.0).astype(np.float32)  # every other input is large
right, wrong = largest(inputs[None, :], 1), largest(inputs[:, None], 0)
print(f"axis 1: largest over its scale {right:g}, which E4M3 holds: {right <= 448}")
print(f"axis 0: largest over its scale {wrong:g}, which E4M3 holds: {wrong <= 448}")
raise SystemExit(0 if right <= 448 < wrong else 1)
PY
"$folder/venv/bin/python" "$folder/scales.py"
