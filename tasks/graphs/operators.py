"""Which operators a graph may have: those that its targets know."""

from collections.abc import Sequence

import onnx

from infra.engines import open_target
from infra.engines.apart import require_build
from infra.engines.port import Profiles
from infra.errors import BadInput, Refused, Unavailable
from tasks.graphs.canonical.editing import all_nodes
from tasks.graphs.short_floats import shortened
from tasks.numerics.formats import NumberFormat

_STANDARD = ("", "ai.onnx")
_RUNTIME = "onnxruntime-cpu"
_RUNTIMES = frozenset({_RUNTIME, "onnxruntime-cuda"})
_OWN = dict.fromkeys(_RUNTIMES, ("com.microsoft", "ai.onnx.ml"))
"""Domains that a target knows beside ONNX's own."""


def require_buildable(model: onnx.ModelProto, profile: Profiles, targets: Sequence[str]) -> None:
    """Raise `BadInput` in a builder's words where a target builds a graph in no float.

    A parser's yes is no evidence: `Attention` of float32 parses and fails to build, and builds in
    FP16. A builder may crash over a graph, so that it has a process of its own. A target that is
    not installed here, or builds on its device alone, is not asked.
    """
    for name in targets:
        if name == _RUNTIME:
            continue
        try:
            require_build(name, model.SerializeToString(), profile)
        except Unavailable:
            continue
        except Refused as exc:
            try:
                short = shortened(model, NumberFormat.FP16, {})
                require_build(name, short.SerializeToString(), profile)
            except (BadInput, Refused):
                raise BadInput(
                    f"source: {exc}; export the model otherwise, or drop the target from the spec"
                ) from exc


def require_operators(model: onnx.ModelProto, targets: Sequence[str]) -> None:
    """Raise `BadInput` naming the first node that a target does not know, in bodies too.

    Layers in the body of an If, Loop or Scan stay in floating point. A target that is not installed
    here is not asked.
    """
    opset = next((item.version for item in model.opset_import if item.domain in _STANDARD), 0)
    for node in all_nodes(model.graph):
        strangers = [
            name for name in targets if node.domain not in (*_STANDARD, *_OWN.get(name, ()))
        ]
        if strangers:
            raise BadInput(
                f"source: node {node.name} is {node.domain}::{node.op_type}, which "
                f"{', '.join(strangers)} does not "
                "know: export the model with ONNX's own operators"
            )
        if (
            node.domain in _STANDARD
            and not onnx.defs.has(node.op_type, opset, "")
            and not set(targets) <= _RUNTIMES
        ):
            raise BadInput(
                f"source: node {node.name} is {node.op_type}, which opset {opset} of ONNX does not "
                "have: "
                "export the model with ONNX's own operators"
            )
    data = model.SerializeToString()
    for name in targets:
        try:
            open_target(name).check(data)
        except Refused as exc:
            raise BadInput(
                f"source: {exc}; export the model otherwise, or drop the target from the spec"
            ) from exc
        except Unavailable:
            continue
