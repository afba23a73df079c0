"""Texts that may not pass a model, on their way in or out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import regex

from infra.errors import BadInput
from infra.settings import settings
from tasks.specs.serving import GuardSpec
from tasks.trusted_code import load_function, trusted_places

On = Literal["input", "output"]
Judge = Callable[[str], bool]
"""From a text to whether it is blocked."""
ModelJudges = Callable[[str, str], Judge]
"""From a model's name, and what it is asked, to its safety decisions."""
SEARCH_S = 0.5
"""Seconds that a pattern may search one text; some patterns take ages with some texts."""
_log = logging.getLogger(__name__)


class BlockedText(BadInput):
    """A text was blocked."""


@dataclass(frozen=True, slots=True)
class TextGuard:
    """One guard."""

    name: str
    on: On
    answer: str
    blocks: Judge

    def stops(self, text: str) -> bool:
        """Return whether a text is blocked; a guard that breaks lets nothing pass."""
        try:
            return self.blocks(text)
        except Exception:  # whatever it is, what was not judged does not pass
            _log.exception("the guard %s broke", self.name)
            return True


class Guards:
    """The guards of one model, asked in their order."""

    def __init__(self, guards: Sequence[TextGuard] = ()) -> None:
        self._guards = tuple(guards)

    def stopping(self, on: On, text: str) -> TextGuard | None:
        """Return the first guard that blocks a text; None where it passes."""
        return next((guard for guard in self.of(on) if guard.stops(text)), None)

    def of(self, on: On) -> tuple[TextGuard, ...]:
        """Return the guards of one direction."""
        return tuple(guard for guard in self._guards if guard.on == on)

    def require(self, texts: Sequence[str], tell: Callable[[str], object]) -> None:
        """Raise `BlockedText` for a text that may not be read; `tell` takes each one's guard."""
        for text in texts if self.of("input") else ():
            guard = self.stopping("input", text)
            tell(guard.name if guard else "")
            if guard is not None:
                raise BlockedText(f"the guard {guard.name} blocks a text: {guard.answer}")


def open_guards(specs: Sequence[GuardSpec], models: ModelJudges) -> Guards:
    """Return the guards of a spec.

    Args:
        specs: What the spec says of them.
        models: Opens the models that they ask.

    Raises:
        Refused: A function lies in no trusted package or folder.
        BadInput: There is no such function.
    """
    return Guards(
        [TextGuard(spec.name, spec.on, spec.answer, _judging(spec, models)) for spec in specs]
    )


def _judging(spec: GuardSpec, models: ModelJudges) -> Judge:
    if spec.model is not None:
        return models(spec.model, spec.prompt)
    if spec.function is not None:
        function = load_function(spec.function, trusted_places(settings().trusted_metrics))
        return lambda text: bool(function(text))
    pattern = regex.compile(spec.pattern or "")
    # Others are answered while it searches; what takes too long raises, and lets nothing pass.
    return lambda text: pattern.search(text, timeout=SEARCH_S, concurrent=True) is not None
