"""The classes of embeddings: one direction a class, fixed when the model is registered."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from infra.errors import BadInput
from tasks.metrics.embeddings import directions
from tasks.records import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Names, and what stands for each.

    A class is CLIP's embedding of a text, or the mean of labelled images (a prototype).
    """

    names: tuple[str, ...]
    embeddings: Tensor  # [classes, width], of length 1

    def nearest(self, outputs: Tensor, name: str) -> NDArray[np.int64]:
        """Return the nearest class of each row by cosine, [N, width] -> [N].

        Raises:
            BadInput: for embeddings that are not finite or not as wide as the classes.
        """
        rows = directions(outputs, name)
        if rows.shape[1] != self.embeddings.shape[1]:
            raise BadInput(
                f"the {name} embeddings are {rows.shape[1]} wide, the classes "
                f"{self.embeddings.shape[1]}"
            )
        return np.asarray((rows @ self.embeddings.T.astype(np.float64)).argmax(axis=1), np.int64)

    def places(self, labels: Sequence[str]) -> NDArray[np.int64]:
        """Return the number of each label's class, -1 where there is none."""
        numbers = {name: number for number, name in enumerate(self.names)}
        return np.array([numbers.get(label, -1) for label in labels], np.int64)


def prototypes(outputs: Tensor, labels: Sequence[str]) -> Classes:
    """Return the mean direction of each label's embeddings [N, width].

    Source: prototypical networks (arXiv 1703.05175).
    """
    rows, names = directions(outputs, "labelled"), tuple(sorted(set(labels)))
    means = np.stack([rows[[label == name for label in labels]].mean(axis=0) for name in names])
    return Classes(names, directions(means, "class").astype(np.float32))


def dump_classes(classes: Classes) -> bytes:
    """Return the safetensors document."""
    names = {"version": "1", "names": json.dumps(classes.names)}
    return bytes(
        safetensors.save({"embeddings": np.ascontiguousarray(classes.embeddings)}, metadata=names)
    )


def parse_classes(data: bytes, *, where: str) -> Classes:
    """Read the document; raises `BadInput` when it is not one."""
    try:
        size = int.from_bytes(data[:8], "little")
        names = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["names"])
        return Classes(tuple(names), safetensors.load(data)["embeddings"])
    except (SafetensorError, ValueError, KeyError, TypeError) as exc:
        raise BadInput(f"{where} holds no classes ({exc}): register the model again") from exc
