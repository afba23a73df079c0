"""A chatbot over the gateway: it finds passages, and says what they tell.

`python -m examples.chatbot.bot QUESTION...` asks the workspace's gateway, whose key it reads from
`REQUANT_KEY` (`requant key`). The gateway's guards stop texts before and after the model; a
question whose nearest passage is of health, money or law is answered in full precision.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openai
from numpy.typing import NDArray

ADDRESS = "http://127.0.0.1:8500"
PASSAGES = Path(__file__).with_name("passages.jsonl")
HIGH_STAKES = frozenset({"health", "money", "law"})
"""Topics; `serving.routing.domains` of the model's spec names them too."""
SYSTEM = "Answer shortly, only from this:\n"
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> embeddings [N, width]."""


@dataclass(frozen=True, slots=True)
class Passage:
    """What the chatbot may answer from."""

    id: str
    topic: str
    text: str


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and how it came about."""

    text: str
    topic: str  # of the nearest passage
    passages: tuple[str, ...]  # ids, the nearest first
    tier: str  # routine, or higher: full precision
    blocked: bool  # by a guard, in whose words the text is


class Retriever:
    """Passages, the nearest first, by the cosine of embeddings."""

    def __init__(self, passages: Sequence[Passage], embed: Embed) -> None:
        self._passages, self._embed = tuple(passages), embed
        self._rows = _unit(embed([passage.text for passage in passages]))

    def nearest(self, question: str, count: int = 2) -> list[Passage]:
        """Return the passages that are closest to a question."""
        likeness = self._rows @ _unit(self._embed([question]))[0]
        return [self._passages[place] for place in np.argsort(-likeness)[:count]]


class Chatbot:
    """A language model behind the gateway, and what it may answer from."""

    def __init__(self, client: openai.OpenAI, model: str, retriever: Retriever) -> None:
        self._client, self._model, self._retriever = client, model, retriever

    def answer(self, question: str, **options: Any) -> Reply:
        """Answer one question; options go to the model, such as `max_tokens`."""
        passages = self._retriever.nearest(question)
        topic = passages[0].topic
        messages: Any = [
            {"role": "system", "content": SYSTEM + "\n".join(each.text for each in passages)},
            {"role": "user", "content": question},
        ]
        said = self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            temperature=0,
            extra_headers={"X-Domain": topic},
            **options,
        )
        (choice,) = said.choices
        release = (said.model_extra or {}).get("release", {})
        return Reply(
            choice.message.content or "",
            topic,
            tuple(each.id for each in passages),
            str(release.get("tier", "")),
            choice.finish_reason == "content_filter",
        )


def read_passages(path: Path = PASSAGES) -> tuple[Passage, ...]:
    """Return the shipped passages."""
    return tuple(Passage(**json.loads(line)) for line in path.read_text("utf-8").splitlines())


def embedding_with(client: openai.OpenAI, model: str = "minilm") -> Embed:
    """Return what embeds texts by a model behind the gateway."""

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        answer = client.embeddings.create(model=model, input=list(texts), encoding_format="float")
        return np.asarray([row.embedding for row in answer.data], np.float32)

    return embed


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(norms, 1e-12), np.float32)


def main(questions: Sequence[str]) -> None:
    """Answer questions, each with what it rests on."""
    client = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key=os.environ["REQUANT_KEY"])
    bot = Chatbot(client, "chatbot", Retriever(read_passages(), embedding_with(client)))
    for question in questions:
        reply = bot.answer(question)
        sys.stdout.write(f"{reply.text}\n  [{reply.tier}; {', '.join(reply.passages)}]\n")


if __name__ == "__main__":
    main(sys.argv[1:])
