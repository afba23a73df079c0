"""TensorRT and TensorRT for RTX: one adapter, because one API drives both; the module is passed in.

TensorRT-RTX builds ahead of time for a named compute capability and needs no GPU for that; running needs one.
"""

import json
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.engines.port import Arrays, Built, Engine, Profile
from infra.errors import BadInput, Refused, Unavailable

COMPUTE_CAPABILITY = "SM89"
"""Ada, the newest that inference hosts commonly have; TensorRT-RTX plans are built for it without a device."""


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
        return None

    def build(self, graph: bytes, profile: Profile) -> Built:
        """Parse and compile; every sentence of the parser is kept in the refusal."""
        trt = self._trt
        messages: list[str] = []
        logger = _collector(trt, messages)
        builder = trt.Builder(logger)
        network = builder.create_network(self._network_flags())
        parser = trt.OnnxParser(network, logger)
        if not parser.parse(graph):
            errors = [parser.get_error(i).desc() for i in range(parser.num_errors)] or messages
            raise Refused(f"{self.name} cannot express the graph: {'; '.join(errors)[:600]}")
        config = self._config(builder, network, profile)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refused(f"{self.name} could not build the engine: {'; '.join(messages)[-600:]}")
        return Built(bytes(plan), _describe(trt, network))

    def load(self, plan: bytes) -> Engine:
        """Deserialize on the visible device."""
        reason = self.why_not_executable()
        if reason is not None:
            raise Unavailable(f"the {self.name} engine cannot be loaded: {reason}")
        engine = self._trt.Runtime(_collector(self._trt, [])).deserialize_cuda_engine(plan)
        if engine is None:
            raise BadInput(f"this is not a {self.name} plan for this device and version: rebuild the release")
        return TensorRtEngine(self._trt, engine)

    def _network_flags(self) -> int:
        flags = self._trt.NetworkDefinitionCreationFlag
        strongly_typed = getattr(flags, "STRONGLY_TYPED", None)
        # TensorRT 11 and TensorRT-RTX know nothing but strong typing.
        return 0 if strongly_typed is None or self._ahead_of_time else 1 << int(strongly_typed)

    def _config(self, builder: Any, network: Any, profile: Profile) -> Any:
        trt = self._trt
        config = builder.create_builder_config()
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self._ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(trt.ComputeCapability, COMPUTE_CAPABILITY), 0)
        optimization = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            if name not in profile:
                raise BadInput(f"the profile has no shapes for input {name!r}: give smallest, common and largest")
            shapes = profile[name]
            optimization.set_shape(name, shapes.smallest, shapes.common, shapes.largest)
        config.add_optimization_profile(optimization)
        return config


class TensorRtEngine:
    """An engine on the device; inputs and outputs travel as torch CUDA tensors."""

    def __init__(self, trt: ModuleType, engine: Any) -> None:
        self._trt: Any = trt
        self._engine = engine
        self._context = engine.create_execution_context()

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """One synchronous inference."""
        import torch

        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT]
        held: dict[str, torch.Tensor] = {}
        for name in inputs:
            if name not in feeds:
                raise BadInput(f"the engine wants an input called {name!r}")
            held[name] = torch.from_numpy(np.ascontiguousarray(feeds[name])).cuda()
            if not self._context.set_input_shape(name, tuple(held[name].shape)):
                raise BadInput(f"input {name!r} of shape {tuple(held[name].shape)} is outside the engine's profile")
        outputs = [name for name in names if name not in inputs]
        for name in outputs:
            held[name] = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=torch.float32, device="cuda")
        for name, tensor in held.items():
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise Unavailable("the device failed while running the engine: look at the driver's log")
        stream.synchronize()
        return {name: held[name].cpu().numpy() for name in outputs}


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
    """The parsed network, layer by layer: name, type and the precision of what it returns."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [str(layer.get_output(i).dtype).rsplit(".", 1)[-1] for i in range(layer.num_outputs)]
        layers.append({"name": layer.name, "type": str(layer.type).rsplit(".", 1)[-1], "outputs": outputs})
    return json.dumps({"version": str(trt.__version__), "layers": layers}).encode()
