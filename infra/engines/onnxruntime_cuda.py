"""ONNX Runtime on a CUDA device: the graph is the plan, and each build is watched as it runs.

The package `onnxruntime-gpu` takes the place of `onnxruntime`: both are the module `onnxruntime`,
and where it cannot load its CUDA provider it computes on the CPU without a word. So every session
is asked what it runs on.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper

from infra.engines.clock import wall_clock
from infra.engines.nvidia.host import has_driver
from infra.engines.onnx_sessions import (
    FAILURES,
    RUN_FAILURES,
    OnnxRuntimeEngine,
    RanNode,
    described,
    first_line,
    kernel_of,
    require_shapes,
    session_options,
)
from infra.engines.port import Arrays, Built, Engine, Kernel, Profile, Profiles, each_profile
from infra.errors import BadInput, Refused, Unavailable

if TYPE_CHECKING:
    import torch

_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
_DEVICE_FAILED = re.compile(r"CUDA failure|CUBLAS|CUDNN|[Ff]ailed to allocate|out of memory")
_RAN = "_kernel_time"  # the profile's name of a node's own event ends so
_FLOATS = {"float16": "FP16", "bfloat16": "BF16"}
_TYPES: Mapping[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeCuda:
    """The target whose plan is the graph, which ONNX Runtime optimizes for the loading device.

    INT8 Q/DQ is not fused there: what asks for it is refused by the kernels that ran.
    """

    name = "onnxruntime-cuda"
    form = "plain"
    has_fp16 = True
    on_device = True

    def __init__(self) -> None:
        """Raise `Unavailable` where nothing can run: no provider, no device, or no libraries."""
        reason = _why_not()
        if reason is not None:
            raise Unavailable(f"target {self.name} cannot be used here: {reason}")

    def why_not_executable(self) -> str | None:
        """Return None: a target that opens has its device."""
        return None

    def check(self, graph: bytes) -> None:
        """Load the graph, and forget it."""
        _session(graph)

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Run the graph once on each common shape, and note what ran where and in which floats.

        Any shape is allowed, so the profile has only to name every input.
        """
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            session = _session(graph, optimized=optimized)
            require_shapes(session, profile)
            ran = _watched(session, profile)
            layers = described(onnx.load(optimized, load_external_data=False), ran)
        return Built(graph, layers)

    def attempt(self, graph: bytes, profile: Profiles) -> None:
        """Check what build does."""
        self.build(graph, profile)

    def is_current(self, metadata: bytes | None) -> bool:
        """Return True: a plan is the graph itself, which any such host takes."""
        return True

    def load(self, plan: bytes, metadata: bytes | None = None) -> Engine:
        """Open a session over the plan; products of float32 may run in TF32, as is its default."""
        return self._load(plan, exact=False)

    def load_exact(self, graph: bytes, profile: Profiles) -> Engine:
        """Open a session without TF32."""
        return self._load(graph, exact=True)

    def kernels(self, layers: bytes, inspection: bytes | None) -> tuple[Kernel, ...] | None:
        """Parse what ran when the plan was built; what ran on the CPU says so."""
        return tuple(_kernel(layer) for layer in json.loads(layers)["layers"])

    def _load(self, graph: bytes, *, exact: bool) -> Engine:
        try:
            return CudaEngine(_session(graph, exact=exact))
        except Refused as exc:
            raise BadInput(
                f"this is not an ONNX Runtime plan ({first_line(exc)}): rebuild the release"
            ) from exc


class CudaEngine:
    """A session on the device; its runs return once the device is done."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._types = {item.name: item.type for item in session.get_inputs()}
        self._outputs = [item.name for item in session.get_outputs()]
        self._index = _device()
        self._synchronous = OnnxRuntimeEngine(session, "cuda", self._index)
        self.device = f"cuda:{self._index}"

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run one inference; feeds and outputs are copied, and the stream is waited for."""
        with _failures_of_the_device():
            return self._synchronous.run(feeds)

    def run_keeping(self, feeds: Mapping[str, object], fetched: Collection[str]) -> dict[str, Any]:
        """Run one inference; arrays are copied to the device, and fetched outputs from it."""
        with _failures_of_the_device():
            return self._synchronous.run_keeping(feeds, fetched)

    def time_runs(self, feeds: Arrays, rounds: int) -> NDArray[np.float64]:
        """Measure the milliseconds until the outputs are in host memory, [rounds]."""
        return wall_clock(lambda: self.run(feeds), rounds)

    def run_on_device(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Run one inference over tensors on the device, and leave its outputs there."""
        import torch

        binding = self._session.io_binding()
        tensors = {name: self._checked(name, feeds) for name in self._types}
        torch.cuda.current_stream().synchronize()  # the session has a stream of its own
        for name, tensor in tensors.items():
            kind = _TYPES[self._types[name]]
            shape, address = tuple(tensor.shape), tensor.data_ptr()
            binding.bind_input(name, "cuda", self._index, kind, shape, address)
        for name in self._outputs:
            binding.bind_output(name, "cuda", self._index)
        try:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except RUN_FAILURES as exc:
            words = first_line(exc)
            if _DEVICE_FAILED.search(str(exc)):
                raise Unavailable(f"the device failed while running the engine: {words}") from exc
            raise BadInput(f"the engine refused its inputs: {words}") from exc
        outputs = zip(self._outputs, binding.get_outputs(), strict=True)
        return {name: _tensor(value, self.device) for name, value in outputs}

    def inspection(self) -> bytes | None:
        """Return None: the build was watched, and a session that serves is not."""
        return None

    def _checked(self, name: str, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if name not in feeds:
            raise BadInput(f"the engine wants an input called {name!r}")
        tensor, kind = feeds[name], _TYPES.get(self._types[name])
        if (
            kind is None
            or str(tensor.device) != self.device
            or _numpy_name(tensor) != np.dtype(kind).name
        ):
            raise BadInput(
                f"input {name!r} is {tensor.dtype} on {tensor.device}, and the engine wants "
                f"{self._types[name]} on {self.device}"
            )
        return tensor.contiguous()


@contextmanager
def _failures_of_the_device() -> Iterator[None]:
    """Tell what the device did wrong from what the feeds did."""
    try:
        yield
    except BadInput as exc:
        if _DEVICE_FAILED.search(str(exc.__cause__)):
            raise Unavailable(f"the device failed while running the engine: {exc}") from exc
        raise


class _DeviceArray:
    """An output that the runtime owns, as torch reads it; it lives as long as the tensor."""

    def __init__(self, value: Any, kind: np.dtype[np.generic]) -> None:
        self._value = value
        self.__cuda_array_interface__ = {
            "shape": tuple(value.shape()),
            "typestr": kind.str,
            "data": (value.data_ptr(), False),
            "version": 3,
        }


def _tensor(value: Any, device: str) -> torch.Tensor:
    import torch

    kind = _TYPES.get(value.data_type())
    if value.device_name() != "cuda" or kind is None or 0 in value.shape():
        return torch.from_numpy(np.array(value.numpy())).to(device)
    return torch.as_tensor(_DeviceArray(value, np.dtype(kind)), device=device)


def _numpy_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _session(
    graph: bytes, *, exact: bool = False, optimized: Path | None = None
) -> ort.InferenceSession:
    """Open a session on the current device, which is watched where `optimized` is written.

    Raises:
        Refused: The runtime does not take the graph.
        Unavailable: The device failed, or the session would compute on the CPU.
    """
    options = session_options(graph, optimized)
    if optimized is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(optimized.with_name("profile"))
    cuda = {
        "device_id": str(_device()),
        "use_tf32": "0" if exact else "1",
        # What an engine takes is measured: a pool that doubles would show powers of two.
        "arena_extend_strategy": "kSameAsRequested",
        # Kernels of convolutions chosen by timing would differ from one load to the next.
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    try:
        session = ort.InferenceSession(graph, options, providers=[(_CUDA, cuda), _CPU])
    except FAILURES as exc:
        if _DEVICE_FAILED.search(str(exc)):
            raise Unavailable(f"the device cannot hold the engine: {first_line(exc)}") from exc
        raise Refused(f"ONNX Runtime cannot load the graph: {first_line(exc)}") from exc
    if _CUDA not in session.get_providers():
        raise Unavailable("ONNX Runtime left its CUDA provider out of the session")
    return session


def _device() -> int:
    import torch

    return torch.cuda.current_device()


@cache
def _why_not() -> str | None:
    """Say in one sentence why sessions cannot run on a device here; None where they can."""
    if _CUDA not in ort.get_available_providers():
        return (
            f"onnxruntime {ort.__version__} here has no CUDA provider; on a GPU host put "
            "onnxruntime-gpu in its place (docs/gpu.md)"
        )
    if not has_driver():
        return "no CUDA device is visible here"
    import torch

    if not torch.cuda.is_available():
        return f"no CUDA device is visible to torch {torch.__version__}"
    ort.set_default_logger_severity(3)  # 1.30 warns at each session that CUDA is no plug-in
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()  # CUDA and cuDNN of torch or of their own packages
    try:
        _session(_nothing())
    except (Refused, Unavailable) as exc:
        return (
            f"its CUDA provider does not load ({exc}): install the CUDA and cuDNN packages that "
            f"onnxruntime-gpu {ort.__version__} names"
        )
    return None


def _nothing() -> bytes:
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "nothing")],
        "nothing",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("y", onnx.TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _watched(session: ort.InferenceSession, profiles: Profiles) -> Mapping[str, RanNode]:
    """Run the session on each profile's common shapes, and read the runtime's own profile.

    Raises:
        Refused: It runs on no such feeds.
    """
    for profile in each_profile(profiles):
        try:
            _run_once(session, profile)
        except RUN_FAILURES as exc:
            session.end_profiling()
            if _DEVICE_FAILED.search(str(exc)):
                raise Unavailable(f"the device cannot run the engine: {first_line(exc)}") from exc
            raise Refused(f"ONNX Runtime cannot run the graph: {first_line(exc)}") from exc
    return _read_profile(Path(session.end_profiling()).read_bytes())


def _run_once(session: ort.InferenceSession, profile: Profile) -> None:
    """Run on ones, or on zeros where those are out of an index's range."""
    for number in (1, 0):
        feeds = {
            item.name: np.full(profile[item.name].common, number, _TYPES[item.type])
            for item in session.get_inputs()
        }
        try:
            session.run(None, feeds)
        except RUN_FAILURES:
            if number == 0:
                raise
        else:
            return


def _read_profile(data: bytes) -> dict[str, RanNode]:
    """Return what ran, by node; of several runs the last."""
    ran = {}
    for event in json.loads(data):
        if event.get("cat") != "Node" or not event["name"].endswith(_RAN):
            continue
        arguments = event["args"]
        types = [kind for read in arguments.get("input_type_shape", ()) for kind in read]
        floats = next((_FLOATS[kind] for kind in types if kind in _FLOATS), "FLOAT")
        ran[event["name"].removesuffix(_RAN)] = RanNode(arguments["provider"], floats)
    return ran


def _kernel(layer: Mapping[str, Any]) -> Kernel:
    kernel = kernel_of(layer)
    if layer.get("provider", _CUDA) == _CUDA:
        return kernel
    return Kernel(f"{kernel.name} on the CPU", kernel.kind, kernel.precision, kernel.nodes)
