"""The canonical graph held against the untouched file, in ONNX Runtime, on real inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.engines import open_target
from infra.engines.port import Arrays
from infra.errors import BadInput
from tasks.graphs.canonical.given import Value, fixed_values
from tasks.graphs.canonical.half import is_half
from tasks.graphs.files import read_untouched

TOLERANCE = 1e-3
"""Largest difference, of the largest magnitude of an output: two ways of rounding float32."""
SMALLEST = 1e-6
"""A difference that is none: a probability next to 0 says little about the rounding before it."""
HALF_TOLERANCE = 3e-2
"""The same, where the file computes in 16 bits."""


def require_same(
    untouched: Path,
    canonical: bytes,
    batches: Sequence[Arrays],
    fixed: Mapping[str, Value] | None = None,
) -> None:
    """Raise where the canonical graph returns something else than the file that it was made from.

    Args:
        untouched: The file.
        canonical: The graph.
        batches: Inputs by name, as the canonical graph wants them.
        fixed: Inputs that always have one value, and are constants of the canonical graph.

    Raises:
        BadInput: They differ by more than rounding, on any output; or the file does not run.
    """
    file = read_untouched(untouched)
    cpu = open_target("onnxruntime-cpu")
    try:
        original = cpu.load(file.SerializeToString())
        constants = fixed_values(file, fixed or {})
        expected = [original.run(_typed(file, feeds) | constants) for feeds in batches]
    except BadInput as exc:
        raise BadInput(
            f"source: ONNX Runtime cannot run {untouched} as it is ({exc}), so nothing can be held "
            "against it: export it again"
        ) from exc
    changed = cpu.load(canonical)
    tolerance = HALF_TOLERANCE if is_half(file) else TOLERANCE
    for feeds, wanted in zip(batches, expected, strict=True):
        now = changed.run(feeds)
        for name, values in wanted.items():
            _require_close(name, values, now[name], tolerance)


def _typed(file: onnx.ModelProto, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
    """Return the inputs in the types that the file declares."""
    types = {item.name: item.type.tensor_type.elem_type for item in file.graph.input}
    return {
        name: np.asarray(values, onnx.helper.tensor_dtype_to_np_dtype(types[name]))
        for name, values in feeds.items()
        if name in types
    }


def _require_close(name: str, wanted: object, now: object, tolerance: float) -> None:
    if not isinstance(wanted, np.ndarray) or not isinstance(now, np.ndarray):
        return  # sequences and maps: no layer is in them
    if wanted.shape != now.shape:
        raise BadInput(
            f"source: made canonical, the graph returns {name} in shape {now.shape}, the file in "
            f"{wanted.shape}: it cannot be taken; export it again"
        )
    if not np.issubdtype(wanted.dtype, np.number) or not wanted.size:
        return
    expected, given = wanted.astype(np.float64), now.astype(np.float64)
    same = np.isclose(expected, given, equal_nan=True)
    difference = float(np.abs(np.where(same, 0.0, expected - given)).max())
    finite = np.abs(expected[np.isfinite(expected)])
    largest = float(finite.max()) if finite.size else 0.0
    if not difference <= max(SMALLEST, tolerance * largest):
        raise BadInput(
            f"source: made canonical, the graph differs from the file by {difference:.2g} in "
            f"{name}, whose largest value is {largest:.2g}: it cannot be taken; export it again"
        )
