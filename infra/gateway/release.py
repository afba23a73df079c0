"""A release that answers, loaded after every byte of it was verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from infra.engines.port import Engine
from infra.gateway.wire.signature import GraphSignature


class Front(Protocol):
    """What stands between a model's users and its graph."""

    @property
    def takes_long(self) -> bool:
        """Return whether `admit` is to be called from a thread, as somebody judges there."""
        ...

    def feeds(self, tensors: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Return the graph's feeds; tensors that the graph reads as they are pass.

        Raises:
            BadInput: They are neither.
        """
        ...

    def admit(self, tensors: Mapping[str, NDArray[Any]], tell: Callable[[str], object]) -> None:
        """Let this release's guards judge the texts among the tensors.

        Args:
            tensors: What was sent.
            tell: Takes, of each text that was judged, the guard that blocks it; "": it passes.

        Raises:
            BadInput: A text may not be read.
        """
        ...

    def payloads(self, tensors: Mapping[str, NDArray[Any]]) -> Sequence[object] | None:
        """Return what traffic keeps of each request in the batch; None where it can keep none."""
        ...


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class ServedRelease:
    """One release, ready to answer."""

    model: str
    version: str
    digest: str
    target: str
    engine: Engine
    signature: GraphSignature
    front: Front
