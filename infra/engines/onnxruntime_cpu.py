"""ONNX Runtime on the CPU: built, validated and served on any machine."""

import json
import tempfile
from pathlib import Path

import onnx
import onnxruntime as ort

from infra.engines.memory_file import as_file
from infra.engines.onnx_sessions import (
    FAILURES,
    OnnxRuntimeEngine,
    described,
    first_line,
    kernel_of,
    require_shapes,
    session_options,
)
from infra.engines.port import Built, Engine, Kernel, Profiles
from infra.errors import BadInput, Refused
from infra.weights.naming import weight_files


class OnnxRuntimeCpu:
    """The target whose plan is the graph in the form that ONNX Runtime fuses.

    It is optimized again for the loading CPU.
    """

    name = "onnxruntime-cpu"
    form = "u8"
    has_fp16 = False  # products and most operators are widened to float32 again
    on_device = False

    def why_not_executable(self) -> str | None:
        """Return None: the CPU is always there."""
        return None

    def check(self, graph: bytes) -> None:
        """Load the graph, and forget it."""
        try:
            _session(graph, packed=False)
        except FAILURES as exc:
            raise Refused(f"ONNX Runtime cannot load the graph: {first_line(exc)}") from exc

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Check that the runtime accepts the graph and note what it makes of it on this CPU.

        Any shape is allowed, so the profile has only to name every input.
        """
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            try:
                session = _session(graph, optimized)
            except FAILURES as exc:
                raise Refused(f"ONNX Runtime cannot load the graph: {first_line(exc)}") from exc
            layers = described(onnx.load(optimized, load_external_data=False))
        require_shapes(session, profile)
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
        except FAILURES as exc:
            raise BadInput(
                f"this is not an ONNX Runtime plan ({first_line(exc)}): rebuild the release"
            ) from exc

    def load_exact(self, graph: bytes, profile: Profiles) -> Engine:
        """Load the graph: the CPU knows no shorter float32.

        Weights beside it are multiplied where they are mapped, so that no copy is packed.
        """
        return self._load(graph, packed=not weight_files(graph))

    def kernels(self, layers: bytes, inspection: bytes | None) -> tuple[Kernel, ...] | None:
        """Parse what the runtime made of the graph on the CPU that built it."""
        return tuple(kernel_of(layer) for layer in json.loads(layers)["layers"])


def _session(
    graph: bytes, optimized: Path | None = None, *, packed: bool = True
) -> ort.InferenceSession:
    options = session_options(graph, optimized)
    if not packed:
        options.enable_cpu_mem_arena = False  # it would keep twice what the largest batch takes
        options.add_session_config_entry("session.disable_prepacking", "1")
    with as_file(graph) as path:
        return ort.InferenceSession(path or graph, options, providers=["CPUExecutionProvider"])
