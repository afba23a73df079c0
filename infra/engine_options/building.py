"""What a build may be told; the defaults are TensorRT's own."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from infra.errors import Unavailable

COMPUTE_CAPABILITY = "SM89"
"""Ada, the newest that inference hosts commonly have.

TensorRT-RTX plans are built for it without a device, where nothing else is set.
"""


class HardwareCompatibility(StrEnum):
    """Which devices a plan may run on besides the kind that it was built on."""

    NONE = "none"
    AMPERE_PLUS = "ampere-plus"
    SAME_COMPUTE_CAPABILITY = "same-compute-capability"  # TensorRT >= 10.12


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """Options of `tensorrt` builds.

    TensorRT-RTX compiles on the device that it runs on, and has none of them.
    """

    version_compatible: bool = False  # plans also run on newer TensorRT of the same major version
    hardware: HardwareCompatibility = HardwareCompatibility.NONE
    optimization_level: int | None = (
        None  # 0 to 5; TensorRT's own is 3, and 0 heeds no timing cache
    )
    workspace_bytes: int | None = (
        None  # device memory that a kernel may scratch in; None: all of it
    )
    max_aux_streams: int | None = None  # None: TensorRT's heuristics


def apply(options: BuildOptions, trt: Any, config: Any) -> None:
    """Set a builder's config.

    Raises:
        Unavailable: This version of the module does not know an option, which it names.
    """
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware is not HardwareCompatibility.NONE:
        config.hardware_compatibility_level = _level(options.hardware, trt)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams


def _level(hardware: HardwareCompatibility, trt: Any) -> Any:
    name = hardware.name
    level = getattr(trt.HardwareCompatibilityLevel, name, None)
    if level is None:
        raise Unavailable(
            f"{trt.__name__} {trt.__version__} knows no hardware compatibility called {hardware}: "
            "unset REQUANT_TENSORRT_HARDWARE_COMPATIBILITY, or install 10.12 or newer"
        )
    return level
