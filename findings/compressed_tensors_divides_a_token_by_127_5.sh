#!/usr/bin/env bash
# Version: compressed-tensors 0.20.1, torch 2.13.0 on the CPU, Python 3.11.
# Expectation: symmetric INT8 with a range a token maps a token's largest magnitude to 127, as the kernel of vLLM
# does that serves such a checkpoint (`dynamic_scaled_int8_quant`: the scale is the largest magnitude over 127).
# Behaviour: the library, by which transformers runs the checkpoint, divides by 127.5, half of the 255 steps of the
# type: the largest value of each token becomes 127.5, is cut to 127 and comes back 0.4 % smaller, and every other
# value is rounded on another grid than it is served on. Perplexities of the two differ for the same files.
# Output: "the largest magnitude 127 has the scale 0.996078, and comes back as 126.502", "0.102 of a normal token's integers ...".
# Exits 1 if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 compressed-tensors==0.20.1 >&2
cat >"$folder/scales.py" <<'PY'
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

args = QuantizationArgs(num_bits=8, type="int", symmetric=True, strategy="token", dynamic=True)


def stored(token):
    """Return a token's scale and integers, as transformers computes with them."""
    scale, zero = compute_dynamic_scales_and_zp(token, args, torch.nn.Module())
    return float(scale), quantize(token, scale, zero, args)


scale, values = stored(torch.tensor([[127.0, 1.0]]))
back = scale * float(values[0, 0])
print(f"the largest magnitude 127 has the scale {scale:.6f}, and comes back as {back:.3f}")
token = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
served = (token / (token.abs().max() / 127)).round().clamp(-128, 127)
other = float((stored(token)[1] != served).float().mean())
print(f"{other:.3f} of a normal token's integers are others than with 127")
raise SystemExit(not (abs(scale - 127 / 127.5) < 1e-6 and back < 127 and other > 0))
PY
"$folder/venv/bin/python" "$folder/scales.py"
