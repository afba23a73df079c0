"""The adapter: what `infra.engines.port.Target` promises, over `tensorrt` or `tensorrt_rtx`."""

from types import ModuleType
from typing import Any

from infra.engine_options.building import COMPUTE_CAPABILITY, BuildOptions
from infra.engines.nvidia.builder import Builder
from infra.engines.nvidia.execution import TensorRtEngine
from infra.engines.nvidia.host import device_capability, has_driver, read_host
from infra.engines.nvidia.inspection import kernels_of, parse_inspection
from infra.engines.nvidia.logger import Log, collector
from infra.engines.nvidia.metadata import parse_metadata, why_unfit
from infra.engines.port import Built, Engine, Kernel, Profiles
from infra.errors import BadInput, Refused, Unavailable
from infra.stores.port import ObjectStore

_NO_PLAN = (
    "this is not a {name} plan for this device and version ({why}): "
    "rebuild the release on such a host"
)


class TensorRt:
    """A target over `tensorrt` (>= 10.12, strongly typed; 11) or `tensorrt_rtx`."""

    form = "s8"
    has_fp16 = True
    on_device = False  # full precision would have to be built first

    def __init__(
        self,
        name: str,
        trt: ModuleType,
        *,
        ahead_of_time: bool,
        options: BuildOptions | None = None,
        store: ObjectStore | None = None,
        blindly_for: str = COMPUTE_CAPABILITY,
    ) -> None:
        """Keep the module and its options.

        `store` keeps the timing caches; without one every build measures anew. `blindly_for` is the
        compute capability that plans are built for where no device is visible.
        """
        self.name = name
        self._trt: Any = trt
        self._ahead_of_time = ahead_of_time
        self._options = options or BuildOptions()
        self._store = store
        self._blindly_for = blindly_for

    def why_not_executable(self) -> str | None:
        """Ask the CUDA driver; a machine without one cannot run engines."""
        invisible = (
            f"no CUDA device is visible, so {self.name} engines are built here but cannot run"
        )
        if not has_driver():  # torch would find that out too, and takes seconds to import
            return invisible
        try:
            import torch
        except ImportError:
            return "torch is not installed, and it carries the CUDA memory that the engine reads"
        if not torch.cuda.is_available():
            return invisible
        device = device_capability()
        if self._ahead_of_time and not hasattr(self._trt.ComputeCapability, device):
            return f"{self.name} does not support the visible device, which is {device}"
        return None

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Parse and compile; every sentence of the parser is kept in the refusal."""
        return self._builder().build(graph, profile)

    def attempt(self, graph: bytes, profile: Profiles) -> None:
        """Parse and compile, and describe nothing: that would import torch."""
        self._builder().attempt(graph, profile)

    def check(self, graph: bytes) -> None:
        """Parse the graph."""
        self._builder().check(graph)

    def is_current(self, metadata: bytes | None) -> bool:
        """Return whether a plan is of this version, for the device that plans are built for.

        It is asked of plans that are built ahead of time. Another is refused where it is loaded.
        """
        if metadata is None or not self._ahead_of_time:
            return True
        made = parse_metadata(metadata)
        here = (str(self._trt.__version__), self._builder().capability())
        return (made.module_version, made.capability) == here

    def load(self, plan: bytes, metadata: bytes | None = None) -> Engine:
        """Deserialize on the visible device, if the metadata fit it."""
        reason = self.why_not_executable()
        if reason is not None:
            raise Unavailable(f"the {self.name} engine cannot be loaded: {reason}")
        self._require_fit(plan, metadata)
        log = Log()
        runtime = self._trt.Runtime(collector(self._trt, log))
        # A version-compatible plan carries its own lean runtime, which is host code.
        # The plan was verified before.
        runtime.engine_host_code_allowed = (
            metadata is not None and parse_metadata(metadata).options.version_compatible
        )
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BadInput(_NO_PLAN.format(name=self.name, why=log.tail(300) or "no reason given"))
        return TensorRtEngine(self._trt, engine)

    def load_exact(self, graph: bytes, profile: Profiles) -> Engine:
        """Build without TF32, and load."""
        built = self._builder().build(graph, profile, exact=True)
        return self.load(built.plan, built.metadata)

    def kernels(self, layers: bytes, inspection: bytes | None) -> tuple[Kernel, ...] | None:
        """Parse the inspector's kernels, or else those that the builder printed.

        What the parser made of the graph does not tell which kernels the builder chose.
        """
        return kernels_of(layers) if inspection is None else parse_inspection(inspection)

    def _builder(self) -> Builder:
        executable = self.why_not_executable() is None
        return Builder(
            self.name,
            self._trt,
            self._ahead_of_time,
            executable,
            self._options,
            self._store,
            self._blindly_for,
        )

    def _require_fit(self, plan: bytes, metadata: bytes | None) -> None:
        if metadata is None:  # an older release
            return
        reason = why_unfit(parse_metadata(metadata), self.name, plan, read_host(self._trt))
        if reason is not None:
            raise Refused(
                f"the {self.name} plan does not fit this host: {reason}; rebuild the release here"
            )
