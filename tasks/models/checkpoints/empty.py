"""Models that are built without weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

_ONE_AT_A_TIME = Lock()


@contextmanager
def without_weights() -> Iterator[None]:
    """Let parameters of the modules that this thread builds have a shape and no memory.

    What else a module computes when it is built, such as the frequencies of positions, is there.
    """
    from torch import nn

    with _ONE_AT_A_TIME:
        own, builder = nn.Module.register_parameter, get_ident()

        def register(module: nn.Module, name: str, given: nn.Parameter | None) -> None:
            own(module, name, given)
            if given is not None and not given.is_meta and get_ident() == builder:
                module._parameters[name] = nn.Parameter(given.to("meta"), requires_grad=False)

        nn.Module.register_parameter = register  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = own  # type: ignore[method-assign]
