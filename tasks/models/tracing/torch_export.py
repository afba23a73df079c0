"""torch's exporter, and what it makes of large weights."""

import io
import logging
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout

import onnx
import torch
from torch import nn

from infra.errors import BadInput
from tasks.graphs.weights import are_large, large_beside
from tasks.models.tracing.tied_tables import share_tables, tied_tables

OPSET = 20


def to_onnx(
    module: nn.Module,
    probe: Mapping[str, object],
    shapes: Mapping[str, object],
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    """Export a module, opset 20, without what the exporter notes of its machine.

    Args:
        module: What is traced.
        probe: Its arguments by name.
        shapes: Their dynamic dimensions.
        inputs: Names of the graph's inputs.
        outputs: Names of its outputs.

    Raises:
        BadInput: torch cannot export it.
    """
    model = traced(module, probe, shapes, inputs, outputs)
    strip(model)
    return model


def traced(
    module: nn.Module,
    probe: Mapping[str, object],
    shapes: Mapping[str, object],
    inputs: list[str],
    outputs: list[str],
    *,
    beside: bool | None = None,
) -> onnx.ModelProto:
    """Export a module with the exporter's notes: of each node, the modules around it.

    `beside`: whether its weights are written to files; by default where they are large.
    """
    try:
        # It prints its progress, and names every package that it does without.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            program = torch.onnx.export(
                module,
                kwargs=dict(probe),
                dynamo=True,
                input_names=inputs,
                output_names=outputs,
                dynamic_shapes=dict(shapes),
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as exc:  # the exporter's errors derive from whatever its stages raise
        reason = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
        raise BadInput(
            f"source: torch could not export the model to ONNX ({reason}); bring a "
            "model.onnx instead"
        ) from exc
    if program is None:
        raise BadInput("source: torch could not export the model to ONNX")
    return _written(program, beside, tied_tables(module))


def strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes from a graph."""
    for item in (
        *model.graph.node,
        *model.graph.input,
        *model.graph.output,
        *model.graph.value_info,
    ):
        # Traces of the exporting machine's source files do not belong into a shipped graph.
        del item.metadata_props[:]


def _written(
    program: torch.onnx.ONNXProgram, beside: bool | None, tied: Mapping[str, str]
) -> onnx.ModelProto:
    """Return the graph; weights that are large together are written to files one by one.

    Tables that are tied to a matrix are not written.

    The program forgets its weights: onnxscript 0.7.2's rewrite rules, which are made once a
    process, keep what they last matched, and all of its graph with it.
    """
    initializers = program.model.graph.initializers
    values = dict(initializers)
    constants = {
        name: item.const_value for name, item in values.items() if item.const_value is not None
    }
    if beside is None:
        beside = are_large(sum(item.nbytes for item in constants.values()))
    if beside:
        initializers.clear()
    model: onnx.ModelProto = program.model_proto
    for item in values.values():
        item.const_value = None
    shared = share_tables(model, tied)
    if beside:
        for name, constant in constants.items():
            if name in shared:
                continue
            model.graph.initializer.append(large_beside(constant.numpy(), name))
    return model
