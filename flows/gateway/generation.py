"""One engine that writes texts for many callers at once, from a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from infra.engines.port import Engine
from infra.gateway.batching import Overloaded
from tasks.models.decoding.continuous import DecodedText, DecodeGroup
from tasks.models.decoding.generation import Sampling
from tasks.models.language.inputs import LanguageInputs

MOST_TOGETHER = 16
"""Texts of one step."""
MOST_WAITING = 64
IDLE_S = 60.0
"""Seconds without work after which the thread ends; the next text begins another."""
_END = None


@dataclass(slots=True, eq=False)
class _Writing:
    prompt: Sequence[int]
    sampling: Sampling
    most: int  # tokens
    tokens: asyncio.Queue[int | Exception | None]
    loop: asyncio.AbstractEventLoop
    text: DecodedText | None = None
    written: int = 0
    given_up: threading.Event = field(default_factory=threading.Event)

    def tell(self, item: int | Exception | None) -> None:
        self.loop.call_soon_threadsafe(self.tokens.put_nowait, item)


class TextGenerator:
    """The texts that one release is writing, and those that wait for a place."""

    def __init__(self, model: str, engine: Engine, inputs: LanguageInputs) -> None:
        self._model, self._engine, self._inputs = model, engine, inputs
        self._waiting: deque[_Writing] = deque()
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    async def write(
        self, prompt: Sequence[int], sampling: Sampling, most: int
    ) -> AsyncGenerator[int]:
        """Yield tokens as they are written, up to a stop token, which is not one of them.

        Whoever stops to listen frees the place.

        Raises:
            Overloaded: Too many texts wait.
            BadInput: The engine refuses the prompt.
        """
        loop = asyncio.get_running_loop()
        writing = _Writing(prompt, sampling, most, asyncio.Queue(), loop)
        self._submit(writing)
        try:
            while (item := await writing.tokens.get()) is not _END:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            writing.given_up.set()

    def _submit(self, writing: _Writing) -> None:
        with self._wake:
            if len(self._waiting) >= MOST_WAITING:
                waiting = (each for each in self._waiting if not each.given_up.is_set())
                self._waiting = deque(waiting)
            if len(self._waiting) >= MOST_WAITING:
                raise Overloaded(self._model, len(self._waiting), 1)
            self._waiting.append(writing)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name=f"write-{self._model}", daemon=True
                )
                self._thread.start()
            self._wake.notify()

    def _work(self) -> None:
        group = DecodeGroup(self._engine, self._inputs.layout)
        active: dict[DecodedText, _Writing] = {}
        while True:
            writing = self._next(wait=not active, room=len(active) < MOST_TOGETHER)
            if writing is None and not active:
                return
            try:
                if writing is not None:
                    text = group.join(writing.prompt, writing.sampling)
                    active[text] = writing
                    self._take(group, active, [text])
                self._take(group, active, group.step())
            except Exception as error:  # each caller is told, and others are written on
                told = [writing] if writing and writing.text is None else []
                for each in told or active.values():
                    each.tell(error)
                if not told:
                    group, active = DecodeGroup(self._engine, self._inputs.layout), {}

    def _next(self, *, wait: bool, room: bool) -> _Writing | None:
        """Return the next text that waits; None where none does, or there is no room.

        With `wait`, for up to a minute; after that the thread is over.
        """
        with self._wake:
            if wait and not self._waiting:
                self._wake.wait(IDLE_S)
            while room and self._waiting:
                writing = self._waiting.popleft()
                if not writing.given_up.is_set():
                    return writing
            if wait:
                self._thread = None
            return None

    def _take(
        self,
        group: DecodeGroup,
        active: dict[DecodedText, _Writing],
        texts: Sequence[DecodedText],
    ) -> None:
        """Hand on the newest token of some texts, and let those go that are written."""
        ended = []
        for text in texts:
            writing = active[text]
            writing.text = text
            stops = text.last in self._inputs.layout.stops
            if not stops:
                writing.tell(text.last)
                writing.written += 1
            if stops or writing.written >= writing.most or writing.given_up.is_set():
                writing.tell(_END)
                ended.append(text)
        group.leave(ended)
        for text in ended:
            del active[text]
