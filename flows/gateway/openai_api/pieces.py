"""A text as it is written, token by token, in pieces that nobody has to take back."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.models.language.inputs import LanguageInputs

_UNFINISHED = "\ufffd"
"""What a character of several tokens decodes to before its last one."""


class TextPieces:
    """Turns tokens into pieces of text, up to a stop string."""

    def __init__(self, inputs: LanguageInputs, stops: Sequence[str] = ()) -> None:
        self._inputs, self._stops = inputs, tuple(stops)
        self._held = max((len(stop) for stop in stops), default=1) - 1
        self._ids: list[int] = []
        self._context = self._read = 0
        self._text, self._given = "", 0
        self.stopped = False  # by a stop string

    @property
    def text(self) -> str:
        """Return all that was given."""
        return self._text[: self._given]

    def add(self, token: int) -> str:
        """Return the text that is certain now, and was not given yet."""
        self._ids.append(token)
        before = self._inputs.decode(self._ids[self._context : self._read])
        with_it = self._inputs.decode(self._ids[self._context :])
        if len(with_it) > len(before) and not with_it.endswith(_UNFINISHED):
            self._text += with_it[len(before) :]
            self._context, self._read = self._read, len(self._ids)
        return self._give(len(self._text) - self._held)

    def finish(self) -> str:
        """Return the rest."""
        if not self.stopped:
            self._text = self._inputs.decode(self._ids)
        return self._give(len(self._text))

    def _give(self, end: int) -> str:
        # The stop string that is complete first ends the text, however it came in tokens.
        places = [
            (place + len(stop), place)
            for stop in self._stops
            if (place := self._text.find(stop)) >= 0
        ]
        if places:
            self.stopped, end = True, min(places)[1]
            self._text = self._text[:end]
        start, self._given = self._given, max(self._given, end)
        return self._text[start : self._given]
