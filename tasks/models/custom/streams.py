"""Graphs that keep their state between chunks of one request: each output state is fed back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Engine
from infra.errors import BadInput
from tasks.records import Record
from tasks.specs.tensors import RecordLayout, StateLayout


def first_states(states: Mapping[str, StateLayout]) -> dict[str, NDArray[np.generic]]:
    """Return what the states are before the first chunk."""
    return {
        name: np.asarray(
            np.full(state.shape, state.initial[0])
            if len(state.initial) == 1
            else np.reshape(state.initial, state.shape),
            state.dtype,
        )
        for name, state in states.items()
    }


def chunk_feeds(layout: RecordLayout, record: Record) -> Iterator[dict[str, NDArray[np.generic]]]:
    """Yield a record's inputs chunk by chunk, as the graph wants them, without the states."""
    count = len(next(iter(record.values())))
    for place in range(count):
        yield {
            name: record[name][place : place + 1] if tensor.batched else record[name][place]
            for name, tensor in layout.tensors.items()
        }


def run_chunks(
    engine: Engine, layout: RecordLayout, record: Record
) -> Iterator[tuple[Arrays, Arrays]]:
    """Yield feeds and outputs of each chunk; the engine's own states are carried on.

    Raises:
        BadInput: A state comes out in another shape or type than it goes in.
    """
    states = first_states(layout.states)
    for chunk in chunk_feeds(layout, record):
        feeds = {**chunk, **states}
        outputs = engine.run(feeds)
        yield feeds, outputs
        states = {name: _next(name, state, outputs) for name, state in layout.states.items()}


def stacked_outputs(
    chunks: Sequence[Mapping[str, NDArray[np.generic]]], names: Sequence[str]
) -> dict[str, NDArray[np.generic]]:
    """Return each output of all chunks, [chunks, ...].

    Raises:
        BadInput: An output has another shape for another chunk.
    """
    stacked = {}
    for name in names:
        shapes = {chunk[name].shape for chunk in chunks}
        if len(shapes) > 1:
            raise BadInput(
                f"the output {name} has shapes {sorted(map(list, shapes))} for chunks of one "
                "request: leave it out of outputs, or export the graph with one"
            )
        stacked[name] = np.stack([chunk[name] for chunk in chunks])
    return stacked


def _next(name: str, state: StateLayout, outputs: Arrays) -> NDArray[np.generic]:
    value = np.asarray(outputs[state.output])
    if value.shape != state.shape or str(value.dtype) != state.dtype:
        raise BadInput(
            f"the output {state.output} is {value.dtype} of shape {list(value.shape)}, and the "
            f"input {name} that it comes back to {state.dtype} of {list(state.shape)}: correct "
            "input.states, or give the input's shape in input.tensors"
        )
    return value
