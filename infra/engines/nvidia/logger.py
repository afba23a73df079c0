"""What the module says while it works, kept for the refusal or the diagnostic, not printed."""

from dataclasses import dataclass, field
from typing import Any

ENGINE_LAYERS = "Layers:"
"""How the message begins in which a builder prints the layers of an engine that it made."""


@dataclass(frozen=True, slots=True)
class Log:
    """Sentences in the order in which they came."""

    errors: list[str] = field(default_factory=list)
    cache_complaints: list[str] = field(default_factory=list)  # warnings about the timing cache
    engine_layers: list[str] = field(default_factory=list)  # what the builder prints of an engine

    def tail(self, characters: int) -> str:
        """Return the end of the errors."""
        return "; ".join(self.errors)[-characters:]


def collector(trt: Any, log: Log) -> Any:
    """Return a logger of the module that writes into the log."""

    class Collector(trt.ILogger):  # type: ignore[misc]  # the base comes with the module
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                log.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING and "timing cache" in message.lower():
                log.cache_complaints.append(message)
            elif message.startswith(ENGINE_LAYERS):
                log.engine_layers.append(message)

    return Collector()
