"""Faults inside a process: killed before or after its n-th call outwards, or that call failing."""

from __future__ import annotations

import functools
import os
import resource
import signal
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from infra import chain
from infra.errors import Unavailable
from infra.settings import settings

WRITES = ("put", "create", "delete")
_WRITING = ("create_", "log_", "set_", "delete_", "update_", "rename_", "transition_")


class Boundaries:
    """Counts this process's writes to store and registry, and acts before or after the n-th."""

    def __init__(self, strike: Callable[[], None], number: int = 0, *, after: bool = False) -> None:
        """Strike at write `number`, counted from 1; 0 only counts."""
        self.count = 0
        self._strike = strike
        self._number = number
        self._after = after

    def watch(self) -> Boundaries:
        """Wrap what writes; for the rest of this process's life."""
        from mlflow.tracking import MlflowClient

        store = type(settings().store())
        for name in WRITES:
            setattr(store, name, self._wrapped(getattr(store, name)))
        for name in dir(MlflowClient):
            if name.startswith(_WRITING):
                setattr(MlflowClient, name, self._wrapped(getattr(MlflowClient, name)))
        return self

    def _wrapped(self, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.count += 1
            mine = self.count == self._number
            if mine and not self._after:
                self._strike()
            result = call(*args, **kwargs)
            if mine and self._after:
                self._strike()
            return result

        return counted


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def no_space() -> None:
    """Fail as a store does whose disk is full."""
    raise Unavailable("The store could not write (No space left on device): free space.")


def small_files(most: int) -> None:
    """Let no file of this process grow beyond so many bytes: a disk that is full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def turn_back(span: timedelta) -> None:
    """Set the ledger's clock back."""
    original = chain.Chain.__init__

    def opened(self: chain.Chain, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **{"clock": lambda: _back(span), **kwargs})

    chain.Chain.__init__ = opened  # type: ignore[method-assign]


def _back(span: timedelta) -> datetime:
    return chain.now() - span
