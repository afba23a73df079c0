"""Targets that engines are built for; `open_target` alone knows which module drives which."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from infra.errors import BadInput, Unavailable

if TYPE_CHECKING:
    from infra.engines.port import Target  # brings numpy, which settings need not

TARGETS = ("onnxruntime-cpu", "onnxruntime-cuda", "tensorrt-rtx", "tensorrt")


def open_target(name: str) -> Target:
    """Return the adapter of a target.

    Raises:
        BadInput: The target is unknown.
        Unavailable: Its module is not installed, or has no device where it builds on one alone.
    """
    if name == "onnxruntime-cpu":
        from infra.engines.onnxruntime_cpu import OnnxRuntimeCpu

        return OnnxRuntimeCpu()
    if name == "onnxruntime-cuda":
        from infra.engines.onnxruntime_cuda import OnnxRuntimeCuda

        return OnnxRuntimeCuda()
    if name not in TARGETS:
        raise BadInput(f"no target is called {name!r}: allowed are {', '.join(TARGETS)}")
    module = name.replace("-", "_")
    try:
        loaded = import_module(module)
    except (
        ImportError,
        OSError,
    ) as exc:  # OSError: the module is there, and its shared libraries are not
        raise Unavailable(
            f"target {name} needs the module {module} ({exc}): pip install 'requant[{name}]'"
        ) from exc
    from infra.engines.nvidia.target import TensorRt
    from infra.settings import settings

    chosen = settings()
    if name == "tensorrt-rtx":
        return TensorRt(
            name, loaded, ahead_of_time=True, blindly_for=chosen.tensorrt_rtx_capability
        )
    store = chosen.store() if chosen.tensorrt_timing_cache else None
    return TensorRt(
        name, loaded, ahead_of_time=False, options=chosen.tensorrt_options(), store=store
    )


def open_watching(names: Sequence[str]) -> Target:
    """Return the target to observe full precision with.

    It is the first of the named targets that runs on a device here, otherwise the CPU's.
    """
    for name in names:
        if name == "onnxruntime-cpu":
            continue
        try:
            target = open_target(name)
        except Unavailable:
            continue
        if target.why_not_executable() is None:
            return target
    return open_target("onnxruntime-cpu")
