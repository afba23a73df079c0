"""A graph in MLflow's ONNX flavour, and a checkpoint's index in that of transformers.

`mlflow.pyfunc.load_model` loads both with nothing of ours installed.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.engine_options.accuracy_level import session_options
from infra.errors import BadInput
from infra.identifiers import RunId
from infra.registry.checkpoint_flavour import (
    expected_files,
    save_checkpoint,
    wrong_flavours,
)
from infra.registry.linking import second_name
from infra.weights.carried import is_index
from infra.weights.naming import weight_files
from infra.weights.outline import outline

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

PROVIDERS = ["CPUExecutionProvider"]
GRAPH_FILE, DESCRIPTION = "model.onnx", "MLmodel"
FILES = frozenset({DESCRIPTION, GRAPH_FILE, "conda.yaml", "python_env.yaml", "requirements.txt"})
"""Every file of a logged model; there is no other but weights beside the graph."""


@dataclass(frozen=True, slots=True)
class Graph:
    """A serialized graph, and the files of its weights that lie beside it, by name."""

    data: bytes
    weights: Mapping[str, Path]


def log_onnx(
    client: MlflowClient, run_id: RunId, name: str, serialized: Graph, folder: Path, kind: str
) -> str:
    """Do what `mlflow.onnx.log_model` does, on this client instead of the global one.

    Returns the logged model's id. `folder` is scratch space, `kind` what MLflow groups models
    by. Raises `BadInput` for bytes that are no ONNX model.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.models import Model

    graph = parsed(serialized.data)
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment, name=name, source_run_id=run_id, model_type=kind
    )
    model_id = str(logged.model_id)
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    described = Model(
        artifact_path=logged.artifact_location,
        run_id=run_id,
        model_uuid=model_id,
        model_id=model_id,
    )
    _save(graph, serialized, folder / "model", described)
    client.log_model_artifacts(model_id, str(folder / "model"))
    client.finalize_logged_model(model_id, LoggedModelStatus.READY)
    return model_id


def differences(described: bytes, graph: Any) -> str | None:
    """Return what in a logged model's MLmodel would load it otherwise than `log_onnx` wrote it.

    `graph` is the parsed ONNX model, whose numbers may be left out. None where MLflow loads that
    graph, by its ONNX flavour, under the signature that follows from it.
    """
    from mlflow.models import ModelSignature

    try:
        model = yaml.safe_load(described)
        if is_index(graph):
            return wrong_flavours(model)
        flavours = model["flavors"]
        if set(flavours) != {"onnx", "python_function"}:
            return f"its flavours are {', '.join(sorted(flavours))}"
        onnx, pyfunc = flavours["onnx"], flavours["python_function"]
        if (onnx.get("data"), pyfunc.get("data")) != (GRAPH_FILE, GRAPH_FILE):
            return "its MLmodel loads another file"
        if pyfunc.get("loader_module") != "mlflow.onnx" or onnx.get("code") or pyfunc.get("code"):
            return "its MLmodel brings code of its own"
        options = onnx.get("onnx_session_options") or None  # earlier versions have none
        if options not in (None, session_options(graph)) or onnx.get("providers") != PROVIDERS:
            return "its MLmodel asks for another way to run"
        signed = model.get("signature")
        if (signed and ModelSignature.from_dict(signed)) != _signature(graph):
            return "its MLmodel names other inputs or outputs"
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        return f"its MLmodel cannot be read ({error})"
    return None


def files_of(graph: bytes) -> Mapping[str, str]:
    """Return what lies beside a version's graph: a file's name -> that of its digest.

    Raises `BadInput` for bytes that are no ONNX model, `Tampered` as `weight_file`.
    """
    if is_index(outline(graph)):
        return expected_files(parsed(graph))
    return {name: name for name in weight_files(graph)}


def parsed(onnx_bytes: bytes) -> Any:
    """Return the ONNX model of bytes; raises `BadInput` for bytes that are none."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # it ships no types

    try:
        model = onnx.load_model_from_string(onnx_bytes)
    except DecodeError as error:
        raise BadInput(
            "The bytes to register are no ONNX model: hand over the serialized graph."
        ) from error
    if not model.graph.output:  # protobuf reads an empty or foreign message without a murmur
        raise BadInput(
            "The bytes to register are an ONNX model without outputs: hand over the serialized "
            "graph."
        )
    return model


def _save(graph: Any, serialized: Graph, folder: Path, described: object) -> None:
    if is_index(graph):
        save_checkpoint(graph, serialized.weights, folder, described, serialized.data)
        return
    import mlflow.onnx

    mlflow.onnx.save_model(
        graph,
        str(folder),
        mlflow_model=described,
        signature=_signature(graph),
        # Inferring requirements would start a process and load the model: seconds for an answer
        # that is known.
        pip_requirements=[
            f"{package}=={importlib.metadata.version(package)}"
            for package in ("onnx", "onnxruntime")
        ],
        onnx_execution_providers=PROVIDERS,
        onnx_session_options=session_options(graph),
        save_as_external_data=False,
    )
    # Byte for byte what the release holds, not a re-serialization.
    (folder / GRAPH_FILE).write_bytes(serialized.data)
    for name, path in serialized.weights.items():
        second_name(path, folder / name)  # the registry copies it from here


def _signature(graph: Any) -> object:
    """Return names, types and shapes of inputs and outputs, -1 for a symbolic dimension."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema

    constants = {tensor.name for tensor in graph.graph.initializer}
    inputs = [_spec(value) for value in graph.graph.input if value.name not in constants]
    outputs = [_spec(value) for value in graph.graph.output]
    signature: object = ModelSignature(Schema(inputs), Schema(outputs))
    return signature


def _spec(value: Any) -> object:
    import onnx
    from mlflow.types import TensorSpec

    tensor = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else -1 for side in tensor.shape.dim)
    return TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape, value.name)
