"""What one request of a model with inputs of its own carries: named tensors, and their sizes.

A graph's axis has a fixed size or a named dimension. The batch is the first axis of the inputs that
have one, and no part of what a request carries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from infra.errors import BadInput
from tasks.specs.preprocess import PreprocessSpec

if TYPE_CHECKING:  # commands that only read do without arrays
    import numpy as np
    from numpy.typing import NDArray

Axis = int | str
"""A fixed size, or the name of a dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """The sizes that one named dimension may have."""

    smallest: int
    common: int
    largest: int

    def __contains__(self, size: object) -> bool:
        return isinstance(size, int) and self.smallest <= size <= self.largest


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """One input of the graph, as a request carries it: without the batch axis."""

    dtype: str  # numpy's name: "float32", "int32", "uint8"
    axes: tuple[Axis, ...]
    batched: bool  # whether the graph has a batch axis before these


_MISSING = (
    "; a state that an output gives back belongs in input.states of the spec, what never changes "
    "in input.tensors.NAME.value"
)
CHUNKS = "chunks"
"""The first axis of what a request of a streaming graph carries: its chunks in their order."""


@dataclass(frozen=True, slots=True)
class StateLayout:
    """An input that is fed with what an output was for the chunk before."""

    output: str
    dtype: str
    shape: tuple[int, ...]
    initial: tuple[float, ...]  # one number for all, or as many as the shape has


@dataclass(frozen=True, slots=True)
class RecordLayout:
    """The inputs of one graph, and how many requests go through it at a time."""

    tensors: Mapping[str, TensorLayout]
    dimensions: Mapping[str, Dimension]
    batch: int | None  # fixed by the graph; None where any will do
    preprocess: PreprocessSpec | None = None  # from what users send to these
    preprocess_digest: str = ""  # of the steps as they were at registration
    states: Mapping[str, StateLayout] = field(default_factory=dict)  # by input; no request has them
    # Of each output, the axis along which the batch lies; None where it has none.
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)

    @property
    def alone(self) -> bool:
        """Whether requests go through the graph one by one: an input has no batch axis."""
        return bool(self.states) or not all(tensor.batched for tensor in self.tensors.values())

    def check(self, record: Mapping[str, NDArray[np.generic]]) -> None:
        """Refuse a request that does not fit.

        Raises:
            BadInput: for other names, dtypes or shapes, naming the input.
        """
        if set(record) != set(self.tensors):
            more = "" if set(self.tensors) <= set(record) else _MISSING
            raise BadInput(
                f"the inputs are {_listed(record)}: this model reads {_listed(self.tensors)}{more}"
            )
        sizes: dict[str, int] = {}
        for name, value in record.items():
            self._check_tensor(name, value, sizes)

    def _check_tensor(self, name: str, value: NDArray[np.generic], sizes: dict[str, int]) -> None:
        wanted = self.tensors[name]
        if str(value.dtype) != wanted.dtype and not is_widened(value, wanted.dtype):
            raise BadInput(f"the input {name} is {value.dtype}: this model reads {wanted.dtype}")
        if len(value.shape) != len(wanted.axes):
            raise BadInput(
                f"the input {name} has shape {list(value.shape)}: "
                f"this model reads {self.spelled(name)}"
            )
        for size, axis in zip(value.shape, wanted.axes, strict=True):
            fits = size == axis if isinstance(axis, int) else size in self.dimensions[axis]
            if fits and isinstance(axis, str) and sizes.setdefault(axis, size) != size:
                raise BadInput(
                    f"the input {name} has shape {list(value.shape)}: axes called {axis} have to "
                    f"be equal, and have {sizes[axis]} and {size}; where they need not be, give "
                    f"them names of their own in input.tensors.{name}.shape"
                )
            if not fits:
                raise BadInput(
                    f"the input {name} has shape {list(value.shape)}: this model reads "
                    f"{self.spelled(name)}; widen input.dimensions if it should be served"
                )

    def spelled(self, name: str) -> str:
        """Return an input's axes for people: [3, 48, width 8 to 640]."""
        axes = (
            str(axis)
            if isinstance(axis, int)
            else f"{axis} {self.dimensions[axis].smallest} to {self.dimensions[axis].largest}"
            for axis in self.tensors[name].axes
        )
        return f"[{', '.join(axes)}]"


def is_widened(value: NDArray[np.generic], dtype: str) -> bool:
    """Tell a float16 tensor for a float32 input, as an FP16 graph's users send: nothing is lost."""
    return str(value.dtype) == "float16" and dtype == "float32"


PayloadShape = tuple[int, ...] | RecordLayout | None
"""What a model's payloads look like: one tensor, -1 where any length goes, a record, or a text."""


def dump_layout(layout: RecordLayout) -> bytes:
    """Return the JSON document."""
    rules = layout.preprocess
    document = asdict(replace(layout, preprocess=None)) | {
        "version": 1,
        "preprocess": None if rules is None else rules.model_dump(mode="json"),
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def parse_layout(data: bytes, *, where: str) -> RecordLayout:
    """Read the document; raises `BadInput` when it is not one."""
    try:
        document = json.loads(data)
        tensors = {
            name: TensorLayout(item["dtype"], tuple(item["axes"]), item["batched"])
            for name, item in document["tensors"].items()
        }
        sizes = {name: Dimension(**item) for name, item in document["dimensions"].items()}
        rules = document.get("preprocess")
        return RecordLayout(
            tensors,
            sizes,
            document["batch"],
            None if rules is None else PreprocessSpec.model_validate(rules),
            document.get("preprocess_digest", ""),
            {
                name: StateLayout(
                    item["output"], item["dtype"], tuple(item["shape"]), tuple(item["initial"])
                )
                for name, item in document.get("states", {}).items()
            },
            document.get("batch_axes", {}),
        )
    except (ValueError, KeyError, TypeError) as exc:
        raise BadInput(f"{where} tells no inputs ({exc!r}): register the model again") from exc


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join(sorted(names)) or "none"
