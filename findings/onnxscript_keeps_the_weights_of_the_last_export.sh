#!/usr/bin/env bash
# onnxscript 0.7.2 (onnx-ir 1.1.0) as torch 2.13.0's exporter uses it. Expected: when the module and
# the exported program are deleted, their weights are freed. Seen: the rewrite rules, which are
# objects of onnxscript's modules, keep the last match, whose nodes hold the whole exported graph:
# every large weight stays in memory until the process ends or exports again. Printed here:
# "64 MB of weights: 1 of 1 is alive after all was deleted; 0 of 1 once the graph's values were told
# to forget them". Exits with 1 when that has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'torch==2.13.0' 'onnxscript==0.7.2' 'onnx-ir==1.1.0' \
  'onnx==1.21.0' 'numpy==2.4.6'
"$folder/venv/bin/python" - <<'PYTHON'
import contextlib
import gc
import io
import sys
import weakref

import torch
from torch import nn


class Head(nn.Module):
    """A product and a sum, which the rewrite rules look at."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4096, 4096), requires_grad=False)
        self.bias = nn.Parameter(torch.ones(4096), requires_grad=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(rows @ self.weight + self.bias).reshape(-1, 4096)


def exported(forget: bool) -> "weakref.ref[torch.UntypedStorage]":
    """Export a model, delete all of it, and return a reference to its weight that holds nothing."""
    module = Head()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        program = torch.onnx.export(module, (torch.ones(2, 4096),), dynamo=True)
    if forget:
        for value in program.model.graph.initializers.values():
            value.const_value = None
    return weakref.ref(module.weight)


alive = []
for forget in (False, True):
    weight = exported(forget)
    torch._dynamo.reset()
    gc.collect()
    alive.append(int(weight() is not None))
print(
    f"64 MB of weights: {alive[0]} of 1 is alive after all was deleted; {alive[1]} of 1 once the "
    "graph's values were told to forget them"
)
sys.exit(0 if alive == [1, 0] else 1)
PYTHON
