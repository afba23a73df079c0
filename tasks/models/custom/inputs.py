"""From records to feeds of a graph with inputs of its own, and from its outputs to cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine, Profile, Shapes
from infra.errors import BadInput
from tasks.models.batches import BATCH, Batch
from tasks.models.custom.streams import run_chunks, stacked_outputs
from tasks.payloads import describe
from tasks.preprocess.prepare import Preparation, is_raw
from tasks.records import Payload, Record
from tasks.specs.tensors import RecordLayout, TensorLayout, is_widened

LARGEST_BATCH = 64
"""Of the shapes that engines are built for."""
DEPENDENT = 1e-2
"""Difference, of the largest magnitude, that rounding alone does not make: sums in another order
differ by less."""
Outputs = Mapping[str, NDArray[np.generic]]
"""What a graph made of one case, by output, without the batch axis."""


class RecordInputs:
    """Records of equal shapes stacked along the batch axis of each input.

    A graph with a fixed batch is always given that many: the last case fills the rest. Where an
    input has no batch axis, cases go through one by one. A streaming graph gets each chunk with the
    state that full precision has by then, so that every engine is asked the same.
    """

    def __init__(
        self,
        layout: RecordLayout,
        outputs: Sequence[str],
        tokenizer: bytes | None = None,
        reference: Callable[[], Engine] | None = None,
    ) -> None:
        self.layout, self.outputs, self._reference = layout, tuple(outputs), reference
        self._preparation = Preparation(layout, tokenizer) if layout.preprocess else None

    @property
    def output(self) -> str:
        """Return the first output, which sensitivity is measured on."""
        return self.outputs[0]

    @property
    def profile(self) -> Profile:
        """Return each input's shapes: one case, a usual batch, a large one."""
        shapes = {name: self._shapes(tensor) for name, tensor in self.layout.tensors.items()}
        states = self.layout.states
        return shapes | {name: Shapes(*(state.shape,) * 3) for name, state in states.items()}

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
            for axis in tensor.axes[1 if self.layout.states else 0 :]
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
            payload = {name: self._typed(name, payload) for name in self.layout.tensors}
        self.layout.check(payload)
        return {
            name: value.astype(np.float32)
            if is_widened(value, self.layout.tensors[name].dtype)
            else value
            for name, value in payload.items()
        }

    def _typed(self, name: str, tensor: NDArray[np.float32]) -> NDArray[np.generic]:
        """Return a single tensor, which is kept as float32, in its input's dtype if it fits."""
        typed = tensor.astype(self.layout.tensors[name].dtype)
        return typed if np.array_equal(typed.astype(np.float32), tensor) else tensor

    def batches(self, payloads: Sequence[Payload]) -> Iterator[Batch]:
        """Yield cases of equal shapes together, in the order in which the shapes first come."""
        records = [self.record(payload) for payload in payloads]
        if self.layout.states:
            yield from self._chunks(records)
            return
        groups: dict[tuple[object, ...], list[int]] = {}
        for case, record in enumerate(records):
            shapes = tuple(record[name].shape for name in self.layout.tensors)
            groups.setdefault(shapes, []).append(case)
        size = 1 if self.layout.alone else self.layout.batch or BATCH
        for cases in groups.values():
            for start in range(0, len(cases), size):
                yield self._batch(records, cases[start : start + size])

    def _chunks(self, records: Sequence[Record]) -> Iterator[Batch]:
        if self._reference is None:
            raise BadInput("the states of a streaming graph need its full precision: open both")
        engine = self._reference()
        for case, record in enumerate(records):
            for feeds, _ in run_chunks(engine, self.layout, record):
                yield Batch(feeds, np.asarray([case]), None, whole=True)

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
    if inputs.layout.states:
        return tuple(_streamed(engine, inputs, payload) for payload in payloads)
    results: dict[int, dict[str, NDArray[np.generic]]] = {}
    for batch in inputs.batches(payloads):
        outputs = engine.run(batch.feeds)
        for name in inputs.outputs:
            axis = inputs.layout.batch_axes.get(name, 0)
            rows = rows_of(name, outputs, len(batch.cases), axis)
            for place, case in enumerate(batch.cases.tolist()):
                results.setdefault(case, {})[name] = rows[place]
    return tuple(results[case] for case in range(len(payloads)))


def _streamed(engine: Engine, inputs: RecordInputs, payload: Payload) -> Outputs:
    """Return the outputs of all chunks of one request, by an engine that keeps its own states."""
    chunks = [
        {name: rows_of(name, outputs, 1)[0] for name in inputs.outputs}
        for _, outputs in run_chunks(engine, inputs.layout, inputs.record(payload))
    ]
    return stacked_outputs(chunks, inputs.outputs)


def find_batch_axes(
    engine: Engine, inputs: RecordInputs, payload: Payload
) -> dict[str, int | None]:
    """Return along which axis of each output the cases of a batch lie; None where along none.

    It is what grows with the batch; the graph's declarations are often silent or wrong. Where
    the batch is fixed, it is the first axis of its size. Requests that go one by one need none.
    """
    layout = inputs.layout
    if layout.alone or layout.batch == 1:
        return {}
    counts = (2, 3) if layout.batch is None else (layout.batch,)
    shapes = []
    for count in counts:
        outputs = _run_together(engine, inputs, [payload] * count)
        shapes.append({name: np.shape(outputs[name]) for name in inputs.outputs})
    return {
        name: next(
            (
                axis
                for axis in range(len(shapes[0][name]))
                if [shape[name][axis : axis + 1] for shape in shapes]
                == [(count,) for count in counts]
            ),
            None,
        )
        for name in inputs.outputs
    }


def _run_together(engine: Engine, inputs: RecordInputs, payloads: Sequence[Payload]) -> Arrays:
    try:
        return engine.run(next(inputs.batches(payloads)).feeds)
    except BadInput as exc:
        if len(payloads) == 1 or inputs.layout.batch is not None:
            raise
        engine.run(next(inputs.batches(payloads[:1])).feeds)  # what it cannot either is said so
        raise BadInput(
            f"source: the graph answers one request, and not {len(payloads)} at a time, though it "
            "declares a dynamic batch: give the inputs a first axis of 1 in "
            "input.tensors.NAME.shape"
        ) from exc


def require_repeatable(engine: Engine, inputs: RecordInputs, payloads: Sequence[Payload]) -> None:
    """Raise where a request is answered otherwise when it comes again.

    Raises:
        BadInput: The graph draws random numbers that its outputs show.
    """
    first, second = (run_records(engine, inputs, payloads[:1]) for _ in range(2))
    for before, after in zip(first, second, strict=True):
        changing = [name for name, value in before.items() if not _close(value, after[name])]
        if changing:
            raise BadInput(
                f"source: {changing[0]} of one request changes from run to run, for the graph "
                "draws random numbers: export it with model.eval() and without noise, or give the "
                "noise's factor as an input of value 0 in input.tensors"
            )


def require_independent_cases(
    engine: Engine, inputs: RecordInputs, payloads: Sequence[Payload]
) -> None:
    """Raise where a request is answered otherwise beside others than alone.

    Raises:
        BadInput: What is taken for the batch is another axis, such as steps in time.
    """
    batch = next((item for item in inputs.batches(payloads) if len(item.cases) > 1), None)
    if batch is None or inputs.layout.batch is not None:
        return
    together = run_records(engine, inputs, [payloads[case] for case in batch.cases.tolist()])
    for case, beside in zip(batch.cases.tolist(), together, strict=True):
        (alone,) = run_records(engine, inputs, [payloads[case]])
        for name, value in alone.items():
            if not _close(value, beside[name]):
                raise BadInput(
                    f"source: {name} of one request changes with the requests beside it in a "
                    "batch: give the inputs a first axis of 1 in input.tensors.NAME.shape, or "
                    "say batch: false there where the first axis is none; a BatchNormalization in "
                    "training mode does so too: export the model with model.eval()"
                )


def _close(alone: NDArray[np.generic], beside: NDArray[np.generic]) -> bool:
    if alone.shape != beside.shape:
        return False
    if not np.issubdtype(alone.dtype, np.floating) or not alone.size:
        return True  # a class may change with the last bit of what it is taken from
    largest = float(np.abs(alone).max(initial=0.0))
    return bool(
        np.allclose(alone, beside, rtol=0, atol=DEPENDENT * max(largest, 1e-6), equal_nan=True)
    )


def rows_of(
    name: str,
    outputs: Mapping[str, NDArray[np.generic]],
    cases: int,
    axis: int | None = 0,
) -> Sequence[NDArray[np.generic]]:
    """Return an output's part of each case, where `axis` is the batch's."""
    value = outputs.get(name)
    if value is None:
        raise BadInput(f"the engine gave {', '.join(outputs)}, and no output {name!r}")
    if axis is not None and value.ndim > axis and value.shape[axis] == cases:
        return [np.asarray(row) for row in np.moveaxis(value, axis, 0)]
    if cases == 1:
        return [value]  # such as boxes that one image has, [boxes, 6]
    raise BadInput(
        f"the output {name} has shape {list(value.shape)} for {cases} cases: one row a case is "
        "needed; give the inputs a first axis of 1 in input.tensors.NAME.shape"
    )
