"""A known task's inputs under the names, types and batch that its graph has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.engines.port import Profiles, Shapes, each_profile
from infra.errors import BadInput
from tasks.models.batches import Batch
from tasks.records import Payload
from tasks.specs.spec import ModelSpec
from tasks.specs.traits import TRAITS

Value = TypeVar("Value")
Item = TypeVar("Item", bound=np.generic)
SEGMENTS = "token_type_ids"
"""An input of BERT's exports: 0 for the only text."""


@dataclass(frozen=True, slots=True)
class GraphNames:
    """What a graph calls a task's inputs and its output."""

    feeds: Mapping[str, str]  # the task's name -> the graph's
    output: str
    dtypes: Mapping[str, str]  # of the graph's inputs, numpy's names
    batch: int | None  # fixed by the graph
    zeros: tuple[str, ...] = ()  # inputs that are 0 throughout, as the others are large


def graph_names(spec: ModelSpec, graph: onnx.ModelProto) -> GraphNames:
    """Return the names by the spec, by the task, or where only one candidate is left.

    Raises:
        BadInput: where that is not plain; it lists what the graph has.
    """
    traits = TRAITS[spec.task]
    weights = {item.name for item in graph.graph.initializer}
    inputs = {item.name: item for item in graph.graph.input if item.name not in weights}
    outputs = [item.name for item in graph.graph.output]
    zeros = tuple(name for name in inputs if name == SEGMENTS and SEGMENTS not in traits.feeds)
    feeds = _feeds(spec, traits.feeds, [name for name in inputs if name not in zeros])
    output = _output(spec, traits.output, outputs)
    if feeds is None or output is None:
        raise BadInput(
            f"the graph maps {', '.join(inputs)} to {', '.join(outputs)}, and {spec.task} needs "
            f"{', '.join(traits.feeds)} to {traits.output}: say which is which in input.names and "
            "outputs, or choose task custom"
        )
    types = {name: item.type.tensor_type for name, item in inputs.items()}
    first = [value.shape.dim[0].dim_value for value in types.values() if value.shape.dim]
    dtypes = {
        name: str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)))
        for name, value in types.items()
    }
    batch = next((size for size in first if size > 0), None)
    return GraphNames(feeds, output, dtypes, batch, zeros)


def _feeds(
    spec: ModelSpec, wanted: Sequence[str], inputs: Sequence[str]
) -> Mapping[str, str] | None:
    given = dict(spec.input.names)
    feeds = {name: given.get(name, name) for name in wanted}
    feeds = {name: own for name, own in feeds.items() if own in inputs}
    left = [name for name in inputs if name not in feeds.values()]
    lacking = [name for name in wanted if name not in feeds]
    if len(left) == 1 and len(lacking) == 1 and lacking[0] not in given:
        return {**feeds, lacking[0]: left[0]}
    # An export may have folded an input away, such as a mask; the rest has to be known.
    return feeds if feeds and not left and not set(lacking) & set(given) else None


def _output(spec: ModelSpec, wanted: str, outputs: Sequence[str]) -> str | None:
    if spec.outputs:
        return spec.outputs[0] if spec.outputs[0] in outputs else None
    if wanted in outputs:
        return wanted
    return outputs[0] if len(outputs) == 1 else None


_USUAL = frozenset({"float32", "int64"})


def are_usual(names: GraphNames, output: str) -> bool:
    """Return whether a graph has the task's own names and types, and any batch."""
    same = all(name == own for name, own in names.feeds.items()) and names.output == output
    return same and names.batch is None and not names.zeros and set(names.dtypes.values()) <= _USUAL


class Batcher(Protocol):
    """What is adapted: a known task's inputs."""

    @property
    def profile(self) -> Profiles:
        """Return the shapes that engines are built for."""
        ...

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield all payloads, each once."""
        ...


class AdaptedInputs:
    """Another batcher's batches, as one graph takes them."""

    def __init__(self, inputs: Batcher, names: GraphNames) -> None:
        self._inputs, self._names = inputs, names
        self.output = names.output

    @property
    def profile(self) -> Profiles:
        """Return the other batcher's shapes under the graph's names."""
        adapted = [
            {name: self._shapes(shapes) for name, shapes in self._named(profile).items()}
            for profile in each_profile(self._inputs.profile)
        ]
        return adapted[0] if len(adapted) == 1 else adapted

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield the other batcher's batches; a fixed size is filled up with the last case."""
        for batch in self._inputs.batches(payloads):
            feeds = {
                name: value.astype(self._names.dtypes[name], copy=False)
                for name, value in self._named(batch.feeds).items()
            }
            renamed = replace(batch, feeds=feeds)
            if self._names.batch is None:
                yield renamed
            else:
                yield from map(self._filled, renamed.parts(self._names.batch))

    def _named(self, values: Mapping[str, Value]) -> dict[str, Value]:
        named = {own: values[name] for name, own in self._names.feeds.items()}
        like = next(iter(named.values()))
        return named | {name: _zero(like) for name in self._names.zeros}

    def _shapes(self, shapes: Shapes) -> Shapes:
        size = self._names.batch
        if size is None:
            return shapes
        sides = ((size, *side[1:]) for side in (shapes.smallest, shapes.common, shapes.largest))
        return Shapes(*sides)

    def _filled(self, batch: Batch) -> Batch:
        missing = (self._names.batch or 0) - len(batch.cases)
        mask = None if batch.mask is None else _repeated(batch.mask, missing)
        feeds = {name: _repeated(value, missing) for name, value in batch.feeds.items()}
        return Batch(feeds, _repeated(batch.cases, missing), mask, whole=True)


def _zero(like: Value) -> Value:
    """Return zeros of the same shape; shapes themselves are those of the others."""
    return np.zeros_like(like) if isinstance(like, np.ndarray) else like


def _repeated(values: NDArray[Item], count: int) -> NDArray[Item]:
    return np.concatenate([values, np.repeat(values[-1:], count, axis=0)])
