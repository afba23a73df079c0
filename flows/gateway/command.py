"""The gateway alone, until Ctrl-C: what `requant serve` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flows.gateway.workers import working
from infra.errors import NotFound, Refused
from infra.processes.interruption import Interrupted, raise_when_asked
from infra.settings import Settings
from tasks.publishing.served_by import why_not_served
from tasks.specs.registration import model_names


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves, and where."""

    address: str  # http://127.0.0.1:PORT
    models: tuple[str, ...]


def serve(
    settings: Settings,
    models: Sequence[str],
    ready: Callable[[Serving], None],
    workers: int | None = None,
) -> None:
    """Serve models, or all that are registered, tell the address, and wait.

    Args:
        settings: Whose workspace.
        models: Their names; empty: all.
        ready: Is told the address.
        workers: Processes behind it; None: as many as the settings say.

    Raises:
        NotFound: One is not registered.
        Refused: One that is named, or each that there is, stays a checkpoint.
        Unavailable: The gateway did not start, or stopped.
    """
    raise_when_asked()
    registered = model_names(settings.store())
    missing = next((name for name in models if name not in registered), None)
    if missing is not None:
        raise NotFound(
            f"no model is called {missing!r}: registered are {', '.join(registered) or 'none'}"
        )
    unserved = {
        name: why for name in models or registered if (why := why_not_served(name)) is not None
    }
    if unserved and (models or len(unserved) == len(registered)):
        raise Refused(next(iter(unserved.values())))
    served = [name for name in models or registered if name not in unserved]
    chosen = {"REQUANT_GATEWAY_MODELS": ",".join(models)}
    try:
        with working(settings, workers or settings.gateway_workers, chosen) as gateway:
            ready(Serving(gateway.address, tuple(served)))
            gateway.wait()
    except Interrupted:
        return
