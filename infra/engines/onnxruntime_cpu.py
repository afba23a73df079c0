"""ONNX Runtime on the CPU: built, validated and served on any machine."""

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
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
from infra.engines.port import Arrays, Built, Engine, Kernel, Profiles, each_profile, typed
from infra.errors import BadInput, Refused
from infra.settings import settings
from infra.weights.naming import weight_files

_FAILURES: tuple[type[Exception], ...] = tuple(
    kind for _, kind in inspect.getmembers(state, inspect.isclass) if issubclass(kind, Exception)
)  # one per status code of the runtime; they share no base of their own
_RUN_FAILURES: tuple[type[Exception], ...] = (*_FAILURES, ValueError, TypeError, RuntimeError)
_WEIGHT = re.compile(r"(.+)\.weight\.(?:quantized|dequantized)")
_RESTORES = ("QuantizeLinear", "DequantizeLinear")
_TYPES: dict[str, np.dtype[np.generic]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int8)": np.dtype(np.int8),
}
_FOLDER = "session.model_external_initializers_file_folder_path"
_OPTIMIZED_WEIGHTS = "session.optimized_model_external_initializers_file_name"
_QUANTIZED = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)


class OnnxRuntimeCpu:
    """The target whose plan is the graph in the form that ONNX Runtime fuses.

    It is optimized again for the loading CPU.
    """

    name = "onnxruntime-cpu"
    form = "u8"
    has_fp16 = False  # products and most operators are widened to float32 again

    def why_not_executable(self) -> str | None:
        """Return None: the CPU is always there."""
        return None

    def check(self, graph: bytes) -> None:
        """Load the graph, and forget it."""
        try:
            _session(graph, packed=False)
        except _FAILURES as exc:
            raise Refused(f"ONNX Runtime cannot load the graph: {_first_line(exc)}") from exc

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Check that the runtime accepts the graph and note what it makes of it on this CPU.

        Any shape is allowed, so the profile has only to name every input.
        """
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            try:
                session = _session(graph, optimized)
            except _FAILURES as exc:
                raise Refused(f"ONNX Runtime cannot load the graph: {_first_line(exc)}") from exc
            layers = _describe(onnx.load(optimized, load_external_data=False))
        _require_shapes(session, profile)
        return Built(graph, layers)

    def attempt(self, graph: bytes, profile: Profiles) -> None:
        """Check what build does."""
        self.build(graph, profile)

    def is_current(self, metadata: bytes | None) -> bool:
        """Return True: a plan is the graph itself, which any host takes."""
        return True

    def load(self, plan: bytes, metadata: bytes | None = None) -> Engine:
        """Open a session over the plan.

        Any host optimizes the plan for itself, so no metadata can speak against it.
        """
        return self._load(plan)

    def _load(self, plan: bytes, *, packed: bool = True) -> Engine:
        try:
            return OnnxRuntimeEngine(_session(plan, packed=packed))
        except _FAILURES as exc:
            raise BadInput(
                f"this is not an ONNX Runtime plan ({_first_line(exc)}): rebuild the release"
            ) from exc

    def load_exact(self, graph: bytes, profile: Profiles) -> Engine:
        """Load the graph: the CPU knows no shorter float32.

        Weights beside it are multiplied where they are mapped, so that no copy is packed.
        """
        return self._load(graph, packed=not weight_files(graph))

    def kernels(self, layers: bytes, inspection: bytes | None) -> tuple[Kernel, ...] | None:
        """Parse what the runtime made of the graph on the CPU that built it."""
        return tuple(_kernel(layer) for layer in json.loads(layers)["layers"])


class OnnxRuntimeEngine:
    """A session, with its failures translated."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
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
        except _RUN_FAILURES as exc:
            raise BadInput(f"the engine refused its inputs: {_first_line(exc)}") from exc
        return dict(zip(self._outputs, values, strict=True))

    def time_runs(self, feeds: Arrays, rounds: int) -> NDArray[np.float64]:
        """Measure the milliseconds of each run by the wall clock, [rounds]."""
        return wall_clock(lambda: self.run(feeds), rounds)

    def inspection(self) -> bytes | None:
        """Return None: a session tells nothing of its kernels.

        The optimized graph did, when it was built.
        """
        return None


def _session(
    graph: bytes, optimized: Path | None = None, *, packed: bool = True
) -> ort.InferenceSession:
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
    if not packed:
        options.enable_cpu_mem_arena = False  # it would keep twice what the largest batch takes
        options.add_session_config_entry("session.disable_prepacking", "1")
    beside = weight_files(graph)
    if beside:
        options.add_session_config_entry(_FOLDER, str(settings().weights().prepare(beside)))
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        if beside:  # what is optimized is as large as they are
            options.add_session_config_entry(_OPTIMIZED_WEIGHTS, f"{optimized.name}.data")
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


@cache
def _has_vnni() -> bool:
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _require_shapes(session: ort.InferenceSession, profiles: Profiles) -> None:
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


def _describe(optimized: onnx.ModelProto) -> bytes:
    """Describe the graph as the runtime optimized it for this CPU.

    A layer has as many bits as the integers it reads.
    """
    graph = optimized.graph
    narrow = {item.name for item in graph.initializer if item.data_type in _QUANTIZED}
    layers = []
    for node in graph.node:
        reads = any(name in narrow for name in node.input)
        if node.op_type.startswith(("QuantizeLinear", "QLinear")):
            narrow.update(node.output)
        bits = next((item.i for item in node.attribute if item.name == "bits"), 8)  # of MatMulNBits
        precision = f"INT{bits}" if reads else "FLOAT"
        weights = [name for name in node.input if _WEIGHT.match(name)]
        layers.append(
            {"name": node.name, "type": node.op_type, "precision": precision, "weights": weights}
        )
    return json.dumps({"version": ort.__version__, "layers": layers}).encode()


def _kernel(layer: Mapping[str, Any]) -> Kernel:
    """Read a kernel with the nodes that it runs.

    Fusion renames nodes and keeps their weights, which are named for the node that read them in the
    Q/DQ graph.
    """
    named = [match.group(1) for name in layer.get("weights", ()) if (match := _WEIGHT.match(name))]
    # A node that only restores floats reads integers and multiplies nothing.
    nodes = frozenset() if layer["type"] in _RESTORES else frozenset([layer["name"], *named])
    return Kernel(layer["name"], layer["type"], layer["precision"], nodes)


def _first_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
