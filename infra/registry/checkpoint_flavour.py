"""A checkpoint in MLflow's transformers flavour: its weights are the files that its index names.

`mlflow.transformers.load_model` and `mlflow.pyfunc.load_model` run it with transformers and
compressed-tensors, and with nothing of ours installed.

Every file follows from the index, so that its digest vouches for all of them. MLflow's own
`save_model` copies a folder, and writes its tokenizer anew; with transformers 5.23 it raises, and
it wants torchvision to save what reads texts.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.canonical import sha256
from infra.registry.linking import second_name
from infra.weights.carried import CONFIG, files_beside, stored_inside, tensors_in
from infra.weights.naming import file_name, is_beside, weight_file

if TYPE_CHECKING:
    from onnx import TensorProto

PACKAGES = ("transformers", "torch", "compressed-tensors", "accelerate")
"""What loads it, as far as it is installed here."""
_SUFFIX, _INSIDE = ".safetensors", "inside.safetensors"
_PLACED = "model.safetensors.index.json"
_EXAMPLE, _SERVING = "input_example.json", "serving_input_example.json"
_COMPONENT = "components/tokenizer"
_OF_MODEL = frozenset({CONFIG, "generation_config.json"})
_PROMPT, _NEW_TOKENS = ["What changed since yesterday?"], 64
_FLAVOUR = {
    "code": None,
    "task": "text-generation",
    "instance_type": "TextGenerationPipeline",
    "pipeline_model_type": "AutoModelForCausalLM",
    "model_binary": ".",
    "components": ["tokenizer"],
    "tokenizer_type": "PreTrainedTokenizerFast",
}
"""As `mlflow.transformers.load_model` reads it; the folder itself is the checkpoint."""


def expected_files(index: Any) -> dict[str, str]:
    """Return every file beside an index in a version: its name -> that of its digest."""
    contents = {name: file_name(sha256(data)) for name, data in _told(index).items()}
    return {**contents, **_placed(index)}


def stem_of(name: str) -> str:
    """Return the name of a weight without what tells that it is of safetensors."""
    return name.removesuffix(_SUFFIX)


def save_checkpoint(
    index: Any, weights: Mapping[str, Path], folder: Path, described: Any, data: bytes
) -> None:
    """Write a version's files: its own, and second names of the workspace's.

    Args:
        index: The checkpoint's graph.
        weights: The files beside it, by name.
        folder: Where to write; it is made.
        described: MLflow's description of the model, which is completed.
        data: The serialized index, which stays beside what follows from it.
    """
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(data)
    (folder / _COMPONENT).mkdir(parents=True)
    for name, content in _told(index).items():
        (folder / name).write_bytes(content)
    for name, weight in _placed(index).items():
        second_name(weights[weight], folder / name)
    _describe(folder, described)


def wrong_flavours(model: Mapping[str, Any]) -> str | None:
    """Return what in an MLmodel would load a checkpoint otherwise than it was written, or None."""
    from mlflow.models import ModelSignature

    flavours = model["flavors"]
    if set(flavours) != {"transformers", "python_function"}:
        return f"its flavours are {', '.join(sorted(flavours))}"
    told = {name: value for name, value in flavours["transformers"].items() if name in _FLAVOUR}
    more = set(flavours["transformers"]) - set(_FLAVOUR) - {"transformers_version"}
    pyfunc = flavours["python_function"]
    if told != _FLAVOUR or more or model.get("metadata"):
        return "its MLmodel asks for another way to run"
    if pyfunc.get("loader_module") != "mlflow.transformers" or pyfunc.get("code"):
        return "its MLmodel brings code of its own"
    if ModelSignature.from_dict(model["signature"]) != _signature():
        return "its MLmodel names other inputs or outputs"
    return None


def _told(index: Any) -> dict[str, bytes]:
    """Return the contents of files that the index itself holds, by name."""
    inside = _carried(index, beside=False)
    shards = {item.name: _shard(item) if is_beside(item) else _INSIDE for item in tensors_in(index)}
    return {
        _PLACED: json.dumps({"metadata": {}, "weight_map": shards}, indent=1).encode(),
        _INSIDE: stored_inside(index),
        _EXAMPLE: json.dumps(_PROMPT).encode(),
        _SERVING: json.dumps({"inputs": _PROMPT}).encode(),
        **{name: item.raw_data for name, item in inside.items()},
    }


def _placed(index: Any) -> dict[str, str]:
    """Return name -> the workspace's file, of those that hold one tensor or carried file each."""
    shards = {_shard(item): weight_file(item) for item in tensors_in(index) if is_beside(item)}
    beside = _carried(index, beside=True)
    return {**shards, **{name: weight_file(item) for name, item in beside.items()}}


def _carried(index: Any, *, beside: bool) -> dict[str, TensorProto]:
    """Return configuration and tokenizer by name, the latter also where a pipeline looks for it."""
    files = {name: item for name, item in files_beside(index).items() if is_beside(item) is beside}
    again = {f"{_COMPONENT}/{name}": item for name, item in files.items() if name not in _OF_MODEL}
    return {**files, **again}


def _shard(item: TensorProto) -> str:
    return f"{weight_file(item)}{_SUFFIX}"


def _describe(folder: Path, described: Any) -> None:
    from mlflow.utils.environment import _PythonEnv

    versions = {name: version for name in PACKAGES if (version := _version(name))}
    required = ["mlflow==" + importlib.metadata.version("mlflow")]
    required += [f"{name}=={version}" for name, version in versions.items()]
    python = platform.python_version()
    conda = {
        "name": "mlflow-env",
        "channels": ["conda-forge"],
        "dependencies": [f"python={python}", "pip", {"pip": required}],
    }
    (folder / "requirements.txt").write_text("\n".join(required))
    (folder / "conda.yaml").write_text(yaml.safe_dump(conda, sort_keys=False))
    _PythonEnv.current().to_yaml(str(folder / "python_env.yaml"))
    described.add_flavor(
        "transformers", transformers_version=versions.get("transformers"), **_FLAVOUR
    )
    described.add_flavor(
        "python_function",
        loader_module="mlflow.transformers",
        python_version=python,
        env={"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
    )
    described.signature = _signature()
    described.saved_input_example_info = {
        "artifact_path": _EXAMPLE,
        "type": "json_object",
        "serving_input_path": _SERVING,
    }
    described.save(str(folder / "MLmodel"))


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    texts = Schema([ColSpec("string")])
    return ModelSignature(
        texts, texts, ParamSchema([ParamSpec("max_new_tokens", "long", _NEW_TOKENS)])
    )


def _version(package: str) -> str | None:
    """Return an installed version without what says how it was built, such as `+cpu`."""
    try:
        return importlib.metadata.version(package).partition("+")[0]
    except PackageNotFoundError:
        return None
