"""The chat template of a model: how a conversation is written for it, and which of it is said.

Templates are Jinja, as Hugging Face's tokenizers have them
(https://huggingface.co/docs/transformers/chat_templating), and are rendered by transformers, in its
sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from infra.errors import BadInput
from tasks.transcripts import Turn

FILE = "chat_template.json"
"""What a registration keeps of it."""
_JINJA, _CONFIG = "chat_template.jinja", "tokenizer_config.json"
_TOKENS = ("bos_token", "eos_token", "pad_token", "unk_token")


@dataclass(frozen=True, slots=True)
class RenderedChat:
    """A conversation as the model reads it."""

    text: str
    said: tuple[tuple[int, int], ...]  # (start, end) in the text of what counts
    reply_to_come: bool


@dataclass(frozen=True)
class ChatTemplate:
    """One template, and the special tokens that it may name."""

    source: str  # Jinja
    tokens: Mapping[str, str]

    def render(self, turns: Sequence[Turn]) -> RenderedChat:
        """Write a conversation whose last turn is the reply, or is empty where that is to come.

        What counts is the reply's text, or where there is none yet what was said in all turns; the
        template's own words never do.

        Raises:
            BadInput: where the template refuses the conversation.
        """
        *before, reply = turns
        asked = [{"role": turn.role, "content": turn.text} for turn in before]
        given = {"role": reply.role, "content": reply.text}
        try:
            text = (
                self._render([*asked, given], prompt=False)
                if reply.text
                else self._render(asked, prompt=True)
            )
        except self._refusals as exc:
            raise BadInput(
                "the model's chat template refuses a conversation "
                f"({' '.join(str(exc).split())[:200]}): send it as the template wants it, or set "
                "input.chat_template to false"
            ) from exc
        spans = _spans(text, [turn.text for turn in turns])
        return RenderedChat(text, spans[-1:] if reply.text else spans, not reply.text)

    def _render(self, messages: list[dict[str, str]], *, prompt: bool) -> str:
        texts, _ = self._renderer(
            [messages],
            chat_template=self.source,
            add_generation_prompt=prompt,
            **self.tokens,
        )
        return str(texts[0])

    @cached_property
    def _refusals(self) -> tuple[type[Exception], ...]:
        """Return what a template may raise of its own accord, or stumble over."""
        from jinja2 import TemplateError

        stumbles = (ArithmeticError, AttributeError, LookupError, RecursionError)
        return (TemplateError, TypeError, ValueError, *stumbles)

    @cached_property
    def _renderer(self) -> Any:
        from transformers.utils.chat_template_utils import render_jinja_template

        return render_jinja_template


def read_chat_template(folder: Path) -> bytes | None:
    """Return what a Hugging Face folder says of its chat template, to be kept; None without one.

    Of several named ones, `default` is taken.

    Raises:
        BadInput: for a tokenizer_config.json that cannot be read, and for templates without a
            default.
    """
    config = _config(folder / _CONFIG)
    source = config.get("chat_template")
    if isinstance(source, list):
        named = {item.get("name"): item.get("template") for item in source}
        if "default" not in named:
            raise BadInput(
                f"{folder / _CONFIG} has the chat templates {', '.join(map(str, named))} and no "
                "default: write the one to use to chat_template.jinja beside it"
            )
        source = named["default"]
    if (folder / _JINJA).is_file():
        source = (folder / _JINJA).read_text(encoding="utf-8")
    if not isinstance(source, str) or not source:
        return None
    return dump_chat_template(source, config)


def dump_chat_template(source: str, tokens: Mapping[str, Any]) -> bytes:
    """Return what is kept: the template, and of the special tokens those that it may name."""
    named = {name: text for name in _TOKENS if (text := _token(tokens.get(name)))}
    kept = {"version": 1, "template": source, "tokens": named}
    return json.dumps(kept, sort_keys=True, ensure_ascii=False).encode()


def parse_chat_template(data: bytes) -> ChatTemplate:
    """Return what `read_chat_template` kept."""
    document = json.loads(data)
    return ChatTemplate(document["template"], document["tokens"])


def _config(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as exc:
        raise BadInput(f"{path} is not readable JSON ({exc}): copy it again") from exc
    return document if isinstance(document, Mapping) else {}


def _token(value: object) -> str | None:
    """Return a special token, which may stand there with its settings."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _spans(text: str, contents: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Return where each turn's text stands, in order; templates may strip it or leave it out."""
    spans, cursor = [], 0
    for content in contents:
        stripped = content.strip()
        start = text.find(stripped, cursor) if stripped else -1
        if start >= 0:
            cursor = start + len(stripped)
            spans.append((start, cursor))
    return tuple(spans)
