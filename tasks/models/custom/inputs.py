"""From records to feeds of a graph with inputs of its own, and from its outputs to cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Engine, Profile, Shapes
from infra.errors import BadInput
from tasks.models.batches import BATCH, Batch
from tasks.payloads import describe
from tasks.preprocess.prepare import Preparation, is_raw
from tasks.records import Payload, Record
from tasks.specs.tensors import RecordLayout, TensorLayout

LARGEST_BATCH = 64
"""Of the shapes that engines are built for."""
Outputs = Mapping[str, NDArray[np.generic]]
"""What a graph made of one case, by output, without the batch axis."""


class RecordInputs:
    """Records of equal shapes stacked along the batch axis of each input.

    A graph with a fixed batch is always given that many: the last case fills the rest. Where an
    input has no batch axis, cases go through one by one.
    """

    def __init__(
        self, layout: RecordLayout, outputs: Sequence[str], tokenizer: bytes | None = None
    ) -> None:
        self.layout, self.outputs = layout, tuple(outputs)
        self._preparation = Preparation(layout, tokenizer) if layout.preprocess else None

    @property
    def output(self) -> str:
        """Return the first output, which sensitivity is measured on."""
        return self.outputs[0]

    @property
    def profile(self) -> Profile:
        """Return each input's shapes: one case, a usual batch, a large one."""
        return {name: self._shapes(tensor) for name, tensor in self.layout.tensors.items()}

    def _shapes(self, tensor: TensorLayout) -> Shapes:
        fixed = 1 if self.layout.alone else self.layout.batch
        batches = (1, BATCH, LARGEST_BATCH) if fixed is None else (fixed,) * 3
        sizes = [
            (axis,) * 3
            if isinstance(axis, int)
            else (
                self.layout.dimensions[axis].smallest,
                self.layout.dimensions[axis].common,
                self.layout.dimensions[axis].largest,
            )
            for axis in tensor.axes
        ]
        smallest, common, largest = (
            ((batches[place],) if tensor.batched else ()) + tuple(size[place] for size in sizes)
            for place in range(3)
        )
        return Shapes(smallest, common, largest)

    def record(self, payload: Payload) -> Record:
        """Return a payload as the graph's inputs.

        What a user sent goes through the spec's preprocess steps. A single tensor is the only
        input.

        Raises:
            BadInput: for a text, and for what the layout refuses.
        """
        if self._preparation is not None and is_raw(payload, self.layout):
            payload = self._preparation.record(payload)
        if isinstance(payload, str):
            raise BadInput("the model reads tensors, and was given a text: name a preprocess step")
        if not isinstance(payload, Mapping):
            if len(self.layout.tensors) != 1:
                raise BadInput(
                    f"the model reads {', '.join(self.layout.tensors)}, and was given one tensor "
                    f"of {describe(payload)}"
                )
            payload = {next(iter(self.layout.tensors)): payload}
        self.layout.check(payload)
        return payload

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield cases of equal shapes together, in the order in which the shapes first come."""
        records = [self.record(payload) for payload in payloads]
        groups: dict[tuple[object, ...], list[int]] = {}
        for case, record in enumerate(records):
            shapes = tuple(record[name].shape for name in self.layout.tensors)
            groups.setdefault(shapes, []).append(case)
        size = 1 if self.layout.alone else self.layout.batch or BATCH
        for cases in groups.values():
            for start in range(0, len(cases), size):
                yield self._batch(records, cases[start : start + size])

    def _batch(self, records: Sequence[Record], cases: list[int]) -> Batch:
        fixed = None if self.layout.alone else self.layout.batch
        if fixed is not None:
            cases = cases + cases[-1:] * (fixed - len(cases))
        feeds = {
            name: np.stack([records[case][name] for case in cases])
            if tensor.batched
            else records[cases[0]][name]
            for name, tensor in self.layout.tensors.items()
        }
        whole = fixed is not None or self.layout.alone
        return Batch(feeds, np.asarray(cases), None, whole)


def run_records(
    engine: Engine, inputs: RecordInputs, payloads: Sequence[Payload]
) -> tuple[Outputs, ...]:
    """Return every output of each payload, in order.

    Raises:
        BadInput: where an output has neither one row a case nor only one case to be of.
    """
    results: dict[int, dict[str, NDArray[np.generic]]] = {}
    for batch in inputs.batches(payloads):
        outputs = engine.run(batch.feeds)
        for name in inputs.outputs:
            rows = rows_of(name, outputs, len(batch.cases))
            for place, case in enumerate(batch.cases.tolist()):
                results.setdefault(case, {})[name] = rows[place]
    return tuple(results[case] for case in range(len(payloads)))


def rows_of(
    name: str, outputs: Mapping[str, NDArray[np.generic]], cases: int
) -> Sequence[NDArray[np.generic]]:
    """Return an output's part of each case."""
    value = outputs.get(name)
    if value is None:
        raise BadInput(f"the engine gave {', '.join(outputs)}, and no output {name!r}")
    if value.ndim and len(value) == cases:
        return [np.asarray(row) for row in value]
    if cases == 1:
        return [value]  # such as boxes that one image has, [boxes, 6]
    raise BadInput(
        f"the output {name} has shape {list(value.shape)} for {cases} cases: one row a case is "
        "needed; export the graph with a batch of 1"
    )
