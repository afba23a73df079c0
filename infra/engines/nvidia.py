"""TensorRT and TensorRT for RTX: one adapter, because one API drives both; the module is passed in.

TensorRT-RTX builds ahead of time for a named compute capability and needs no GPU for that; running needs one.
"""

import json
import threading
from collections.abc import Iterable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Built, Engine, Profile, Profiles, each_profile, typed
from infra.errors import BadInput, Refused, Unavailable

COMPUTE_CAPABILITY = "SM89"
"""Ada, the newest that inference hosts commonly have; TensorRT-RTX plans are built for it without a device."""
_NO_PLAN = "this is not a {name} plan for this device and version ({why}): rebuild the release on such a host"


class TensorRt:
    """A builder over `tensorrt` (>= 10.12, strongly typed) or `tensorrt_rtx`."""

    form = "s8"

    def __init__(self, name: str, trt: ModuleType, *, ahead_of_time: bool) -> None:
        self.name = name
        self._trt: Any = trt
        self._ahead_of_time = ahead_of_time

    def why_not_executable(self) -> str | None:
        """Asks the CUDA driver; a machine without one cannot run engines."""
        try:
            import torch
        except ImportError:
            return "torch is not installed, and it carries the CUDA memory that the engine reads"
        if not torch.cuda.is_available():
            return f"no CUDA device is visible, so {self.name} engines are built here but cannot run"
        device = _device_capability()
        if self._ahead_of_time and not hasattr(self._trt.ComputeCapability, device):
            return f"{self.name} does not support the visible device, which is {device}"
        return None

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Parse and compile; every sentence of the parser is kept in the refusal."""
        messages: list[str] = []
        logger = _collector(self._trt, messages)
        try:
            return self._compile(graph, profile, logger, messages)
        except (
            RuntimeError,
            TypeError,
            ValueError,
        ) as exc:  # its bindings raise these for arguments and absent drivers
            raise Unavailable(f"{self.name} failed ({exc}; {'; '.join(messages)[-300:]}): look at its driver") from exc

    def check(self, graph: bytes) -> None:
        """Parse the graph."""
        messages: list[str] = []
        logger = _collector(self._trt, messages)
        try:
            self._parse(graph, self._trt.Builder(logger), logger, messages)
        except (RuntimeError, TypeError, ValueError) as exc:  # as of `build`
            raise Unavailable(f"{self.name} failed ({exc}; {'; '.join(messages)[-300:]}): look at its driver") from exc

    def load(self, plan: bytes) -> Engine:
        """Deserialize on the visible device."""
        reason = self.why_not_executable()
        if reason is not None:
            raise Unavailable(f"the {self.name} engine cannot be loaded: {reason}")
        messages: list[str] = []
        engine = self._trt.Runtime(_collector(self._trt, messages)).deserialize_cuda_engine(plan)
        if engine is None:
            raise BadInput(_NO_PLAN.format(name=self.name, why="; ".join(messages)[:300] or "no reason given"))
        return TensorRtEngine(self._trt, engine)

    def _compile(self, graph: bytes, profile: Profiles, logger: Any, messages: list[str]) -> Built:
        builder = self._trt.Builder(logger)
        network = self._parse(graph, builder, logger, messages)
        config = self._config(builder, network, profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refused(f"{self.name} could not build the engine: {'; '.join(messages)[-600:]}")
        return Built(bytes(plan), _describe(self._trt, network))

    def _parse(self, graph: bytes, builder: Any, logger: Any, messages: list[str]) -> Any:
        network = builder.create_network(self._network_flags())
        parser = self._trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            errors = [_told(parser.get_error(i)) for i in range(parser.num_errors)] or messages
            raise Refused(f"{self.name} cannot express the graph: {'; '.join(errors)[:600]}")
        if not network.num_outputs:  # no bytes at all parse as an empty graph
            raise Refused(f"{self.name} cannot express the graph: it has no output")
        return network

    def _network_flags(self) -> int:
        flags = self._trt.NetworkDefinitionCreationFlag
        strongly_typed = getattr(flags, "STRONGLY_TYPED", None)
        # TensorRT 11 and TensorRT-RTX know nothing but strong typing.
        return 0 if strongly_typed is None or self._ahead_of_time else 1 << int(strongly_typed)

    def _config(self, builder: Any, network: Any, profiles: Profiles) -> Any:
        config = builder.create_builder_config()
        config.profiling_verbosity = self._trt.ProfilingVerbosity.DETAILED
        if self._ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(self._trt.ComputeCapability, self._capability()), 0)
        for profile in each_profile(profiles):
            optimization = builder.create_optimization_profile()
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                _set_shapes(optimization, tensor.name, tuple(tensor.shape), profile)
            config.add_optimization_profile(optimization)
        return config

    def _capability(self) -> str:
        """The visible device's, where the target supports it; otherwise the one that plans are built for blindly."""
        return COMPUTE_CAPABILITY if self.why_not_executable() else _device_capability()


class TensorRtEngine:
    """An engine on the device; inputs and outputs travel as torch CUDA tensors.

    An execution context serves one inference at a time, so concurrent callers wait for each other.
    """

    def __init__(self, trt: ModuleType, engine: Any) -> None:
        import torch

        self._trt: Any = trt
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise Unavailable("the device has no memory left for the engine: free some and load it again")
        self._nowhere = torch.empty(16, dtype=torch.uint8, device="cuda")
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self._alone = threading.Lock()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._outputs = [name for name in names if name not in self._inputs]

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """One synchronous inference."""
        import torch

        checked = {name: self._checked(name, feeds) for name in self._inputs}
        try:
            # Copies and kernels share one stream: torch's default stream would not wait for this one.
            with self._alone, torch.cuda.stream(self._stream):
                return self._execute(checked)
        except RuntimeError as exc:
            raise Unavailable(f"the device failed while running the engine ({exc}): look at the driver's log") from exc

    def _checked(self, name: str, feeds: Arrays) -> NDArray[np.generic]:
        if name not in feeds:
            raise BadInput(f"the engine wants an input called {name!r}")
        wanted = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        found = np.ascontiguousarray(typed(feeds[name], wanted))
        if found.dtype != wanted:
            raise BadInput(f"input {name!r} is {found.dtype}, and the engine wants {wanted}")
        return found

    def _execute(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        import torch

        held = {name: torch.from_numpy(array).cuda() for name, array in feeds.items()}
        self._choose_profile(feeds)
        for name, tensor in held.items():
            if not self._context.set_input_shape(name, tuple(tensor.shape)):
                raise BadInput(f"input {name!r} of shape {tuple(tensor.shape)} is outside the engine's profile")
        for name in self._outputs:
            wanted = self._trt.nptype(self._engine.get_tensor_dtype(name))
            kind = torch.from_numpy(np.zeros(0, wanted)).dtype
            held[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=kind, device="cuda")
        for name, tensor in held.items():
            # An empty tensor has no address, and TensorRT wants one nevertheless.
            self._context.set_tensor_address(name, tensor.data_ptr() or self._nowhere.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise Unavailable("the device failed while running the engine: look at the driver's log")
        self._stream.synchronize()
        return {name: held[name].cpu().numpy() for name in self._outputs}

    def _choose_profile(self, feeds: Arrays) -> None:
        """Switch to the first profile that holds the feeds' shapes; where none does, the runtime says which input."""
        for index in range(self._engine.num_optimization_profiles):
            ranges = {name: self._engine.get_tensor_profile_shape(name, index) for name in feeds}
            if all(_within(feeds[name].shape, low, high) for name, (low, _, high) in ranges.items()):
                if self._context.active_optimization_profile != index:
                    self._context.set_optimization_profile_async(index, self._stream.cuda_stream)
                return


def _set_shapes(optimization: Any, name: str, declared: tuple[int, ...], profile: Profile) -> None:
    """Checked here, because the bindings answer a wrong profile with anything from a log line to a RuntimeError."""
    if name not in profile:
        raise BadInput(f"the profile has no shapes for input {name!r}: give smallest, common and largest")
    shapes = profile[name]
    triples = list(zip(shapes.smallest, shapes.common, shapes.largest, strict=False))
    fits = {len(shapes.smallest), len(shapes.common), len(shapes.largest)} == {len(declared)} and all(
        0 <= low <= common <= high and fixed in (-1, low) and fixed in (-1, high)
        for (low, common, high), fixed in zip(triples, declared, strict=True)
    )
    if not fits:
        raise BadInput(
            f"the profile of input {name!r} does not fit its shape {declared}: give {len(declared)} dimensions with "
            f"smallest <= common <= largest, not {shapes.smallest}, {shapes.common}, {shapes.largest}"
        )
    optimization.set_shape(name, shapes.smallest, shapes.common, shapes.largest)


def _within(shape: tuple[int, ...], low: Iterable[int], high: Iterable[int]) -> bool:
    return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))


def _told(error: Any) -> str:
    """A sentence of the parser, with the node that it is about."""
    return f"{error.desc()} (node {error.node_name()}, {error.node_operator()})" if error.node_name() else error.desc()


def _device_capability() -> str:
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"SM{major}{minor}"


def _collector(trt: Any, messages: list[str]) -> Any:
    """A logger that keeps errors instead of printing them."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the base comes with the module
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                messages.append(message)

    return Collector()


def _describe(trt: Any, network: Any) -> bytes:
    """The parsed network, layer by layer, with the precision of what each returns.

    Fusion is the builder's and only its inspector tells it, which needs the device; strong typing already fixes the
    precision of every tensor here.
    """
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        precision = "/".join(str(layer.get_output(i).dtype).rsplit(".", 1)[-1] for i in range(layer.num_outputs))
        layers.append({"name": layer.name, "type": str(layer.type).rsplit(".", 1)[-1], "precision": precision})
    return json.dumps({"version": str(trt.__version__), "layers": layers}).encode()
