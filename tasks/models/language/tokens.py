"""A language model's tokenizer, and what neither it nor the chat template can read."""

from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from infra.errors import BadInput
from tasks.models.language.chat_template import ChatTemplate
from tasks.transcripts import read_transcript

_LOOKED_AT = 256
"""Characters of a text in which a token is looked for first: most texts begin with one."""


def open_tokenizer(data: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json, which neither pads nor cuts.

    Raises:
        BadInput: where it is none.
    """
    try:
        tokenizer = Tokenizer.from_str(data.decode())
    except Exception as exc:  # the library raises bare Exception
        raise BadInput(f"input.tokenizer is not a tokenizers JSON file: {exc}") from exc
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def encodings(tokenizer: Tokenizer, texts: Sequence[str], *, special: bool) -> list[Encoding]:
    """Return the tokens of each text, with the tokenizer's own around them or without.

    Raises:
        BadInput: for a text that has no token.
    """
    try:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=special)
    # the library raises bare Exception; a lone surrogate, UnicodeEncodeError or TypeError
    except Exception as exc:
        raise BadInput(
            f"the tokenizer could not read a text ({exc}); look at the traffic's `text` column"
        ) from exc
    if not all(encoding.ids for encoding in encoded):
        raise BadInput(
            "the tokenizer makes nothing of a text: a language model needs at least one token"
        )
    return list(encoded)


def require_readable(tokenizer: Tokenizer, template: ChatTemplate | None, text: str) -> None:
    """Refuse a text that would end the run which meets it.

    Raises:
        BadInput: for a conversation that the chat template refuses, and a text without a token.
    """
    turns = None if template is None else read_transcript(text)
    if turns is not None and template is not None:
        text = template.render(turns).text
    special = turns is None  # a template writes them itself
    try:
        encodings(tokenizer, [text[:_LOOKED_AT]], special=special)
    except BadInput:
        encodings(tokenizer, [text], special=special)
