"""What every target can do; each adapter passes `tests/contract/test_engines.py`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes that one input may take: smallest, most common, largest."""

    smallest: tuple[int, ...]
    common: tuple[int, ...]
    largest: tuple[int, ...]


Profile = Mapping[str, Shapes]
"""Input name -> shapes."""
Profiles = Profile | Sequence[Profile]
"""One, or several of which each feed fits at least one: a language model's prefill and decode."""


def each_profile(profiles: Profiles) -> tuple[Profile, ...]:
    """Return the profiles one by one."""
    return (profiles,) if isinstance(profiles, Mapping) else tuple(profiles)


def typed(value: NDArray[np.generic], wanted: np.dtype[np.generic] | None) -> NDArray[np.generic]:
    """Return an empty array in the type that an engine wants; any other stays as it is."""
    # What is no array at all is the runtime's to refuse.
    return (
        value.astype(wanted)
        if wanted is not None and isinstance(value, np.ndarray) and not value.size
        else value
    )


@dataclass(frozen=True, slots=True)
class Built:
    """One engine, ready to be stored in a release."""

    plan: bytes
    layers: bytes  # JSON: what the target made of each layer, and in which precision
    metadata: bytes | None = (
        None  # JSON: the host and the options it was built with; None where any host will do
    )


UNKNOWN = "UNKNOWN"
"""The precision of a kernel that its runtime does not tell."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of an engine, as far as its runtime tells."""

    name: str
    kind: str  # the runtime's word for what it is
    precision: str  # of what it multiplies: INT8, FP8, INT4, FP4, FP16, BF16, FLOAT or UNKNOWN
    nodes: frozenset[str]  # of the ONNX graph, that became it


class Engine(Protocol):
    """A loaded engine."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Return the outputs by name.

        Raises:
            BadInput: The feeds do not fit.
        """
        ...

    def time_runs(self, feeds: Arrays, rounds: int) -> NDArray[np.float64]:
        """Measure the milliseconds of each of so many runs, [rounds].

        Copies to and from the device are included.
        """
        ...

    def inspection(self) -> bytes | None:
        """Return what the runtime tells of the engine that it loaded, in its own words.

        It is JSON, or None where the runtime tells nothing.
        """
        ...


@runtime_checkable
class KeepingEngine(Protocol):
    """An engine that can keep outputs where they were computed, to read them in the next run."""

    def run_keeping(self, feeds: Mapping[str, object], fetched: Collection[str]) -> dict[str, Any]:
        """Return the fetched outputs as arrays, and the others as the runtime has them.

        Nothing is copied of what is kept. Fed again by another name, it stays where it is.

        Args:
            feeds: Arrays, and what was kept of an earlier run.
            fetched: Names of outputs that the caller reads.

        Raises:
            BadInput: The feeds do not fit.
        """
        ...


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine that also takes and returns torch tensors on its device, without a copy."""

    @property
    def device(self) -> str:
        """The device as torch names it, such as "cuda:0"."""
        ...

    def run_on_device(self, feeds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the outputs by name, ready for work on torch's current stream.

        Raises:
            BadInput: The feeds do not fit.
        """
        ...


class Target(Protocol):
    """One runtime on one kind of hardware."""

    @property
    def name(self) -> str:
        """The name in a spec's `targets`."""
        ...

    @property
    def form(self) -> str:
        """The lowering of the Q/DQ graph that it wants: "s8", "u8" or "plain"."""
        ...

    @property
    def has_fp16(self) -> bool:
        """Whether it computes in FP16, so that an FP16 engine is what others have to beat."""
        ...

    @property
    def on_device(self) -> bool:
        """Whether it loads ONNX graphs onto a device: full precision is then measured there too.

        Memory is the device's.
        """
        ...

    def why_not_executable(self) -> str | None:
        """Say why engines cannot run here (no device, no module); None when they can."""
        ...

    def check(self, graph: bytes) -> None:
        """Check that the target can express an ONNX graph; nothing is built.

        Raises:
            Refused: The target cannot express the graph; it names the node.
        """
        ...

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Compile an ONNX graph.

        Raises:
            Refused: The target cannot express the graph; it names the reason.
        """
        ...

    def attempt(self, graph: bytes, profile: Profiles) -> None:
        """Compile an ONNX graph and keep nothing; raises what build raises."""
        ...

    def is_current(self, metadata: bytes | None) -> bool:
        """Return whether a plan with these metadata is what a build would make here now."""
        ...

    def load(self, plan: bytes, metadata: bytes | None = None) -> Engine:
        """Load a plan whose bytes were verified before.

        Raises:
            BadInput: The bytes are no plan.
            Unavailable: There is no device.
            Refused: The metadata do not fit this host; the plan was not touched.
        """
        ...

    def load_exact(self, graph: bytes, profile: Profiles) -> Engine:
        """Return an engine that computes a full-precision graph in full float32, to observe it.

        It raises what build and load raise.
        """
        ...

    def kernels(self, layers: bytes, inspection: bytes | None) -> tuple[Kernel, ...] | None:
        """Return what runs, from `Built.layers` and `Engine.inspection()`.

        It is None where that can be told only on the device.
        """
        ...
