"""What ONNX Runtime's sessions share, on whichever device: options, failures, and what they run."""

import inspect
import json
import os
import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as state

from infra.engine_options.accuracy_level import OPTION, accuracy_level
from infra.engines.clock import wall_clock
from infra.engines.port import Arrays, Kernel, Profiles, each_profile, typed
from infra.errors import BadInput
from infra.settings import settings
from infra.weights.naming import weight_files

FAILURES: tuple[type[Exception], ...] = tuple(
    kind for _, kind in inspect.getmembers(state, inspect.isclass) if issubclass(kind, Exception)
)
"""One per status code of the runtime; they share no base of their own."""
RUN_FAILURES: tuple[type[Exception], ...] = (*FAILURES, ValueError, TypeError, RuntimeError)
"""What a run may raise besides: the bindings check arrays themselves."""
_WEIGHT = re.compile(r"(.+)\.weight\.(?:quantized|dequantized)")
_RESTORES = ("QuantizeLinear", "DequantizeLinear")
_TYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int8)": np.dtype(np.int8),
}
_FOLDER = "session.model_external_initializers_file_folder_path"
_OPTIMIZED_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_QUANTIZED = (
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
    onnx.TensorProto.INT4,
    onnx.TensorProto.UINT4,
)
_FOUR_BITS = (onnx.TensorProto.INT4, onnx.TensorProto.UINT4)


@dataclass(frozen=True, slots=True)
class RanNode:
    """What the runtime's own profile tells of one node that ran."""

    provider: str  # the runtime's name of what computed it
    floats: str  # the shortest float that it read: FP16, BF16 or FLOAT


class OnnxRuntimeEngine:
    """A session, with its failures translated."""

    def __init__(self, session: ort.InferenceSession, device: str = "cpu", index: int = 0) -> None:
        """Take a session, and the device by the runtime's name on which outputs are kept."""
        self._session, self._device, self._index = session, device, index
        self._inputs = {item.name: _TYPES.get(item.type) for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one inference over the feeds that the graph declares.

        The others are left out (an attention mask that the export folded away). An empty array has
        no values, so it takes the graph's type: a cache before the first token.
        """
        declared = {
            name: typed(value, self._inputs[name])
            for name, value in feeds.items()
            if name in self._inputs
        }
        try:
            values = self._session.run(self._outputs, declared)
        except RUN_FAILURES as exc:
            raise BadInput(f"the engine refused its inputs: {first_line(exc)}") from exc
        return dict(zip(self._outputs, values, strict=True))

    def run_keeping(self, feeds: Mapping[str, object], fetched: Collection[str]) -> dict[str, Any]:
        """Run one inference, and leave all but the fetched outputs where they were computed.

        What is kept is the runtime's own, and is fed again without a copy.
        """
        binding = self._session.io_binding()
        try:
            for name, value in feeds.items():
                if name in self._inputs:
                    _bind(binding, name, value, self._inputs[name])
            for name in self._outputs:
                device = "cpu" if name in fetched else self._device
                binding.bind_output(name, device, 0 if device == "cpu" else self._index)
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except RUN_FAILURES as exc:
            raise BadInput(f"the engine refused its inputs: {first_line(exc)}") from exc
        outputs = zip(self._outputs, binding.get_outputs(), strict=True)
        return {name: value.numpy() if name in fetched else value for name, value in outputs}

    def time_runs(self, feeds: Arrays, rounds: int) -> NDArray[np.float64]:
        """Measure the milliseconds of each run by the wall clock, [rounds]."""
        return wall_clock(lambda: self.run(feeds), rounds)

    def inspection(self) -> bytes | None:
        """Return None: a session tells nothing of its kernels.

        The optimized graph did, when it was built.
        """
        return None


def _bind(
    binding: ort.IOBinding, name: str, value: object, wanted: np.dtype[np.generic] | None
) -> None:
    if isinstance(value, ort.OrtValue):
        binding.bind_ortvalue_input(name, value)
    else:
        binding.bind_cpu_input(name, np.ascontiguousarray(typed(np.asarray(value), wanted)))


def session_options(graph: bytes, optimized: Path | None = None) -> ort.SessionOptions:
    """Return the options that a graph's session has on every device.

    Args:
        graph: The serialized graph; weights beside it are found in the store.
        optimized: Where the runtime writes what it makes of the graph; None: nowhere.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if sys.platform == "linux" and len(allowed := os.sched_getaffinity(0)) < (os.cpu_count() or 1):
        options.intra_op_num_threads = len(
            allowed
        )  # the default counts cores that this process may not use
    # Idle threads would spin on the cores that the next engine, or another process, needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not _has_vnni():
        # Without VNNI, x86 adds U8 x S8 products in 16 bits, which saturate.
        # The exact kernel costs half the speed.
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry(OPTION, accuracy_level(graph))
    beside = weight_files(graph)
    if beside:
        options.add_session_config_entry(_FOLDER, str(settings().weights().prepare(beside)))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        if beside:  # what is optimized is as large as they are
            options.add_session_config_entry(_OPTIMIZED_WEIGHTS, f"{optimized.name}.data")
    return options


@cache
def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def require_shapes(session: ort.InferenceSession, profiles: Profiles) -> None:
    """Raise `BadInput` naming an input for which a profile has no shapes; any shape is allowed."""
    missing = [
        item.name
        for profile in each_profile(profiles)
        for item in session.get_inputs()
        if item.name not in profile
    ]
    if missing:
        raise BadInput(
            f"the profile has no shapes for input {missing[0]!r}: give smallest, common and largest"
        )


def described(optimized: onnx.ModelProto, ran: Mapping[str, RanNode] | None = None) -> bytes:
    """Describe the graph as the runtime optimized it for a device.

    A layer has as many bits as the integers it reads; otherwise as the floats that it read when it
    `ran` (by node), where that was watched.
    """
    graph = optimized.graph
    narrow = {
        item.name: 4 if item.data_type in _FOUR_BITS else 8
        for item in graph.initializer
        if item.data_type in _QUANTIZED
    }
    layers = []
    for node in graph.node:
        read = [narrow[name] for name in node.input if name in narrow]
        if node.op_type.startswith(("QuantizeLinear", "QLinear")):
            narrow.update(dict.fromkeys(node.output, 8))
        bits = next((item.i for item in node.attribute if item.name == "bits"), min(read or [8]))
        watched = (ran or {}).get(node.name)
        floats = "FLOAT" if watched is None else watched.floats
        layer = {
            "name": node.name,
            "type": node.op_type,
            "precision": f"INT{bits}" if read else floats,
            "weights": [name for name in node.input if _WEIGHT.match(name)],
        }
        layers.append(layer if watched is None else layer | {"provider": watched.provider})
    return json.dumps({"version": ort.__version__, "layers": layers}).encode()


def kernel_of(layer: Mapping[str, Any]) -> Kernel:
    """Read a kernel with the nodes that it runs.

    Fusion renames nodes and keeps their weights, which are named for the node that read them in the
    Q/DQ graph.
    """
    named = [match.group(1) for name in layer.get("weights", ()) if (match := _WEIGHT.match(name))]
    # A node that only restores floats reads integers and multiplies nothing.
    nodes = frozenset() if layer["type"] in _RESTORES else frozenset([layer["name"], *named])
    return Kernel(layer["name"], layer["type"], layer["precision"], nodes)


def first_line(exc: BaseException) -> str:
    """Return the first line of the runtime's words, at most 300 characters."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
