"""Texts as windows of token ids, all of one length and without padding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.errors import BadInput
from tasks.transcripts import read_transcript

if TYPE_CHECKING:
    import torch

FLOOR = 16
"""Every group keeps a window in so many: a rare language too decides about its own ranges."""


def windows_by_group(
    folder: Path, texts: Iterable[tuple[str, str]], tokens: int, most: int
) -> Mapping[str, torch.Tensor]:
    """Return windows [windows, tokens] by group, at most so many in all.

    Texts of a group are joined in their order, conversations as the chat template writes them.

    Args:
        folder: Of the checkpoint, with its tokenizer.
        texts: Pairs of a group, such as a language, and a text.
        tokens: Of a window.
        most: Windows of all groups together; each gets its share of the tokens, and its floor.

    Raises:
        BadInput: There is no tokenizer, or no group has the tokens of one window.
    """
    import torch

    tokenizer = _tokenizer(folder)
    ids: dict[str, list[int]] = {}
    for group, text in texts:
        ids.setdefault(group, []).extend(tokenizer(_written(tokenizer, text))["input_ids"])
    whole = {group: len(found) // tokens for group, found in ids.items()}
    total = sum(whole.values())
    if not total:
        raise BadInput(
            f"the texts have {sum(map(len, ids.values()))} tokens in all, and no group fills a "
            f"window of {tokens}: bring more, or ask for shorter windows"
        )
    floor = max(most // FLOOR, 1)
    shares = {group: max(most * count // total, floor) for group, count in whole.items()}
    return {
        group: torch.tensor(ids[group][: count * tokens]).view(count, tokens)
        for group in ids
        if (count := min(whole[group], shares[group]))
    }


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise BadInput(
            f"{folder} has no tokenizer that can be read ({' '.join(str(exc).split())[:150]}): put "
            "tokenizer.json beside the weights"
        ) from exc


def _written(tokenizer: Any, text: str) -> str:
    """Return a conversation as the chat template writes it, and any other text as it is."""
    turns = read_transcript(text)
    if not turns or not getattr(tokenizer, "chat_template", None):
        return text
    said = [{"role": turn.role, "content": turn.text} for turn in turns if turn.text]
    found: str = tokenizer.apply_chat_template(said, tokenize=False)
    return found
