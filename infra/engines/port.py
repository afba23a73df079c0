"""What every target can do; each adapter passes `tests/contract/test_engines.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Shapes:
    """The shapes one input may take: smallest, most common, largest."""

    smallest: tuple[int, ...]
    common: tuple[int, ...]
    largest: tuple[int, ...]


Profile = Mapping[str, Shapes]
"""Input name -> shapes."""
Profiles = Profile | Sequence[Profile]
"""One, or several of which each feed fits at least one: a language model's prefill and decode."""


def each_profile(profiles: Profiles) -> tuple[Profile, ...]:
    """The profiles one by one."""
    return (profiles,) if isinstance(profiles, Mapping) else tuple(profiles)


def typed(value: NDArray[np.generic], wanted: np.dtype[np.generic] | None) -> NDArray[np.generic]:
    """An empty array in the type that an engine wants; any other stays as it is."""
    return value if wanted is None or value.size else value.astype(wanted)


@dataclass(frozen=True, slots=True)
class Built:
    """One engine, ready to be stored in a release."""

    plan: bytes
    layers: bytes  # JSON: what the target made of each layer, and in which precision


class Engine(Protocol):
    """A loaded engine."""

    def run(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Outputs by name; raises `BadInput` when the feeds do not fit."""
        ...


class Target(Protocol):
    """One runtime on one kind of hardware."""

    @property
    def name(self) -> str:
        """As in a spec's `targets`."""
        ...

    @property
    def form(self) -> str:
        """Which lowering of the Q/DQ graph it wants: "s8" or "u8"."""
        ...

    def why_not_executable(self) -> str | None:
        """Why engines cannot run here (no device, no module), or None when they can."""
        ...

    def check(self, graph: bytes) -> None:
        """Raise `Refused` when the target cannot express an ONNX graph, naming the node; nothing is built."""
        ...

    def build(self, graph: bytes, profile: Profiles) -> Built:
        """Compile an ONNX graph; raises `Refused` when the target cannot express it, naming its reason."""
        ...

    def load(self, plan: bytes) -> Engine:
        """Load a plan whose bytes were verified before; raises `BadInput` (no plan), `Unavailable` (no device)."""
        ...
