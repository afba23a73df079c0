"""The gateway alone, until Ctrl-C: what `requant serve` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flows.orchestration.services import GATEWAY, listen, log_of, started
from infra.errors import NotFound, Unavailable
from infra.processes.interruption import Interrupted, raise_when_asked
from infra.settings import Settings
from tasks.specs.registration import model_names


@dataclass(frozen=True, slots=True)
class Serving:
    """What serves, and where."""

    address: str  # http://127.0.0.1:PORT
    models: tuple[str, ...]


def serve(settings: Settings, models: Sequence[str], ready: Callable[[Serving], None]) -> None:
    """Serve models, or all that are registered, tell the address, and wait.

    Raises:
        NotFound: One is not registered.
        Unavailable: The gateway did not start, or stopped.
    """
    raise_when_asked()
    registered = model_names(settings.store())
    missing = next((name for name in models if name not in registered), None)
    if missing is not None:
        raise NotFound(
            f"no model is called {missing!r}: registered are {', '.join(registered) or 'none'}"
        )
    chosen = {"REQUANT_GATEWAY_MODELS": ",".join(models)}
    try:
        with started(settings, {GATEWAY: listen(settings, GATEWAY)}, environment=chosen) as (
            gateway,
        ):
            ready(Serving(gateway.address, tuple(models or registered)))
            code = gateway.process.wait()
            raise Unavailable(
                f"the gateway stopped (exit {code}): see {log_of(settings, GATEWAY.name)}"
            )
    except Interrupted:
        return
