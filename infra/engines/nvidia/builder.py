"""From an ONNX graph to a plan: strongly typed, with explicit options and a warm timing cache."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from infra.canonical import sha256
from infra.engine_options.building import COMPUTE_CAPABILITY, BuildOptions, apply
from infra.engines.nvidia.host import device_capability, read_host
from infra.engines.nvidia.importable import require_importable
from infra.engines.nvidia.inspection import describe
from infra.engines.nvidia.logger import Log, collector
from infra.engines.nvidia.metadata import PlanMetadata, dump_metadata
from infra.engines.nvidia.timing_cache import WarmCache, attach, cache_key
from infra.engines.port import Built, Profile, Profiles, each_profile
from infra.errors import BadInput, Refused, Unavailable
from infra.settings import settings
from infra.stores.port import ObjectStore
from infra.weights.naming import weight_files


@dataclass(frozen=True, slots=True)
class Builder:
    """One module with its options; `store` holds the timing caches, None for none."""

    name: str
    trt: Any
    ahead_of_time: (
        bool  # TensorRT-RTX: for a named compute capability, without options and timing cache
    )
    executable: bool
    options: BuildOptions
    store: ObjectStore | None
    blindly_for: str = COMPUTE_CAPABILITY  # the device of plans that are built without one

    def check(self, graph: bytes) -> None:
        """Parse the graph.

        Raises:
            Refused: The parser rejects the graph; it carries every sentence of the parser.
        """
        log = Log()
        with _translated(self.name, log):
            self._parse(graph, self.trt.Builder(logger := collector(self.trt, log)), logger, log)

    def build(self, graph: bytes, profiles: Profiles, *, exact: bool = False) -> Built:
        """Parse and compile the graph.

        `exact` forbids TF32, whose products round their operands to 10 bits.
        """
        log = Log()
        with _translated(self.name, log):
            return self._compile(graph, profiles, exact, log)

    def attempt(self, graph: bytes, profiles: Profiles) -> None:
        """Parse and compile the graph, and keep nothing."""
        log = Log()
        with _translated(self.name, log):
            logger = collector(self.trt, log)
            self._planned(self.trt.Builder(logger), logger, graph, profiles, False, log)

    def _planned(
        self,
        builder: Any,
        logger: Any,
        graph: bytes,
        profiles: Profiles,
        exact: bool,
        log: Log,
    ) -> tuple[bytes, Any, WarmCache | None]:
        """Return the plan, the network that it was made of, and the timing cache.

        The builder has to outlive the network.
        """
        network = self._parse(graph, builder, logger, log)
        config = self._config(builder, network, profiles)
        if exact:
            config.clear_flag(self.trt.BuilderFlag.TF32)
        warm = self._warm(config, log)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise Refused(f"{self.name} could not build the engine: {log.tail(600)}")
        if warm is not None:
            warm.keep(config)
        return bytes(plan), network, warm

    def _compile(self, graph: bytes, profiles: Profiles, exact: bool, log: Log) -> Built:
        started = time.perf_counter()
        logger = collector(self.trt, log)
        builder = self.trt.Builder(logger)
        built, network, warm = self._planned(builder, logger, graph, profiles, exact, log)
        metadata = self._metadata(
            built, time.perf_counter() - started, () if warm is None else warm.diagnostics
        )
        layers = describe(self.trt, network, log.engine_layers)
        return Built(built, layers, dump_metadata(metadata))

    def _warm(self, config: Any, log: Log) -> WarmCache | None:
        if self.store is None or self.ahead_of_time:
            return None
        return attach(config, self.store, cache_key(read_host(self.trt)), log.cache_complaints)

    def _metadata(self, plan: bytes, seconds: float, diagnostics: tuple[str, ...]) -> PlanMetadata:
        host = read_host(self.trt)
        return PlanMetadata(
            target=self.name,
            module=host.module,
            module_version=host.version,
            capability=self.capability() if self.ahead_of_time else str(host.capability),
            device=host.device,
            driver=host.driver,
            cuda=host.cuda,
            options=self.options,
            build_seconds=round(seconds, 3),
            plan_sha256=sha256(plan),
            diagnostics=diagnostics,
        )

    def _parse(self, graph: bytes, builder: Any, logger: Any, log: Log) -> Any:
        require_importable(self.name, graph)
        network = builder.create_network(self._network_flags())
        parser = self.trt.OnnxParser(network, logger)
        if not _parsed(parser, graph):
            errors = [
                _sentence(parser.get_error(i)) for i in range(parser.num_errors)
            ] or log.errors
            raise Refused(f"{self.name} cannot express the graph: {'; '.join(errors)[:600]}")
        if not network.num_outputs:  # no bytes at all parse as an empty graph
            raise Refused(f"{self.name} cannot express the graph: it has no output")
        return network

    def _network_flags(self) -> int:
        flags = self.trt.NetworkDefinitionCreationFlag
        strongly_typed = getattr(flags, "STRONGLY_TYPED", None)
        # TensorRT 11 ignores the flag and TensorRT-RTX needs none: both know only strong typing.
        return 0 if strongly_typed is None or self.ahead_of_time else 1 << int(strongly_typed)

    def _config(self, builder: Any, network: Any, profiles: Profiles) -> Any:
        config = builder.create_builder_config()
        config.profiling_verbosity = self.trt.ProfilingVerbosity.DETAILED
        if self.ahead_of_time:
            config.num_compute_capabilities = 1
            config.set_compute_capability(self._known_capability(), 0)
        else:
            apply(self.options, self.trt, config)
        for profile in each_profile(profiles):
            optimization = builder.create_optimization_profile()
            for index in range(network.num_inputs):
                tensor = network.get_input(index)
                _set_shapes(optimization, tensor.name, tuple(tensor.shape), profile)
            config.add_optimization_profile(optimization)
        return config

    def capability(self) -> str:
        """Return the visible device's capability, where the target supports it.

        Without a supported device it is the one that plans are built for blindly.
        """
        return device_capability() if self.executable else self.blindly_for

    def _known_capability(self) -> Any:
        known = self.trt.ComputeCapability
        if not hasattr(known, self.capability()):
            names = ", ".join(sorted(name for name in dir(known) if name.startswith("SM")))
            raise BadInput(
                f"REQUANT_TENSORRT_RTX_CAPABILITY is {self.capability()}, which {self.name} does "
                f"not build for: use one of {names}"
            )
        return getattr(known, self.capability())


@contextmanager
def _translated(name: str, log: Log) -> Iterator[None]:
    try:
        yield
    except (
        RuntimeError,
        TypeError,
        ValueError,
    ) as exc:  # its bindings raise these for arguments and absent drivers
        raise Unavailable(f"{name} failed ({exc}; {log.tail(300)}): look at its driver") from exc


def _parsed(parser: Any, graph: bytes) -> bool:
    """Let the parser read a graph, and the weights beside it from the folder where they lie."""
    files = weight_files(graph)
    if not files:
        return bool(parser.parse(graph))
    folder = settings().weights().prepare(files)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".graph-", suffix=".onnx") as file:
        file.write(graph)
        file.flush()
        return bool(parser.parse_from_file(file.name))


def _set_shapes(optimization: Any, name: str, declared: Sequence[int], profile: Profile) -> None:
    """Check a profile and set its shapes.

    The check stands here because the bindings answer a wrong profile with anything from a log line
    to a RuntimeError.
    """
    if name not in profile:
        raise BadInput(
            f"the profile has no shapes for input {name!r}: give smallest, common and largest"
        )
    shapes = profile[name]
    triples = list(zip(shapes.smallest, shapes.common, shapes.largest, strict=False))
    fits = {len(shapes.smallest), len(shapes.common), len(shapes.largest)} == {
        len(declared)
    } and all(
        0 <= low <= common <= high and fixed in (-1, low) and fixed in (-1, high)
        for (low, common, high), fixed in zip(triples, declared, strict=True)
    )
    if not fits:
        raise BadInput(
            f"the profile of input {name!r} does not fit its shape {declared}: "
            f"give {len(declared)} dimensions with smallest <= common <= largest, "
            f"not {shapes.smallest}, {shapes.common}, {shapes.largest}"
        )
    optimization.set_shape(name, shapes.smallest, shapes.common, shapes.largest)


def _sentence(error: Any) -> str:
    """Return a sentence of the parser, with the node that it is about."""
    return (
        f"{error.desc()} (node {error.node_name()}, {error.node_operator()})"
        if error.node_name()
        else error.desc()
    )
