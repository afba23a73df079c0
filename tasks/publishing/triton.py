"""A release in the layout of Triton's model repository.

    MODEL/VERSION/model.onnx     the plan, and the files of large weights beside it
    MODEL/config.pbtxt           tensors, batching, and which versions are served

Sources: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/
model_repository.md and model_configuration.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from infra.errors import BadInput, NotFound, Refused
from infra.gateway.wire.signature import GraphSignature, TensorSignature
from infra.stores.port import ObjectStore

CONFIG, PLAN = "config.pbtxt", "model.onnx"
_VERSIONS = re.compile(r"version_policy \{ specific \{ versions: \[([0-9, ]*)\] \} \}")


def config(
    model: str, signature: GraphSignature, versions: Sequence[int], *, most_rows: int = 64
) -> str:
    """Return a model configuration.

    Where requests may share a run, the first dimension is Triton's batch, and is left out of every
    shape.

    Args:
        model: Its name, and that of its folder.
        signature: Of the graph.
        versions: Those that Triton shall serve.
        most_rows: Of one run.
    """
    lines = [
        f'name: "{model}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {most_rows if signature.shared else 0}",
        *(_tensor("input", tensor, signature.shared) for tensor in signature.inputs),
        *(_tensor("output", tensor, signature.shared) for tensor in signature.outputs),
        _policy(versions),
        *(["dynamic_batching { }"] if signature.shared else []),
    ]
    return "\n".join(lines) + "\n"


def place_version(store: ObjectStore, model: str, version: str, files: Mapping[str, bytes]) -> int:
    """Write a version's directory; the same files again change nothing.

    Args:
        store: The repository.
        model: Its folder.
        version: The release's, which names the directory.
        files: Plan and weights by name.

    Raises:
        BadInput: The version is no whole number from 1 on, as Triton wants.
        Refused: Other files lie there: a directory that Triton may serve is never written over.
    """
    if not version.isascii() or not version.isdecimal() or int(version) < 1:
        raise BadInput(f"version {version} of {model} is no number: Triton's directories are")
    folder = f"{model}/{int(version)}"
    for name, data in files.items():
        key = f"{folder}/{name}"
        if not store.exists(key):
            store.create(key, data)
        elif store.get(key) != data:
            raise Refused(
                f"{key} holds other bytes, and is not written over: publish a new version"
            )
    return int(version)


def served_versions(store: ObjectStore, model: str) -> tuple[int, ...]:
    """Return the versions that a configuration names; none where it names none."""
    try:
        text = store.get(f"{model}/{CONFIG}").decode()
    except NotFound:
        return ()
    match = _VERSIONS.search(text)
    return tuple(int(number) for number in match[1].split(",")) if match and match[1] else ()


def place_config(store: ObjectStore, model: str, text: str) -> None:
    """Write a configuration; it comes after all that it names."""
    store.put(f"{model}/{CONFIG}", text.encode())


def _policy(versions: Sequence[int]) -> str:
    listed = ", ".join(str(version) for version in sorted(versions))
    return f"version_policy {{ specific {{ versions: [{listed}] }} }}"


def _tensor(kind: str, tensor: TensorSignature, batched: bool) -> str:
    shape = tensor.shape[1:] if batched else tensor.shape
    kind_of_data = "STRING" if tensor.datatype == "BYTES" else tensor.datatype
    listed = ", ".join(str(size) for size in shape)
    return f'{kind} {{ name: "{tensor.name}" data_type: TYPE_{kind_of_data} dims: [{listed}] }}'
