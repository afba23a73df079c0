"""Pieces of a text join to the text, whole characters each, and end at a stop string."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.gateway.openai_api.pieces import TextPieces
from tests.language_folders import tokenizer

TOKENIZER = tokenizer()


class Tokens:
    """What decodes, of a language model's inputs."""

    def decode(self, ids: list[int]) -> str:
        return str(TOKENIZER.decode(ids, skip_special_tokens=True))


INPUTS: Any = Tokens()


def written(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], TextPieces]:
    pieces, given_out = TextPieces(INPUTS, stops), []
    for token in TOKENIZER.encode(text, add_special_tokens=False).ids:
        given_out.append(pieces.add(token))
        if pieces.stopped:
            break
    return [*given_out, pieces.finish()], pieces


@given(st.text(max_size=40))
def test_pieces_join_to_the_text_and_hold_whole_characters(text: str) -> None:
    pieces, whole = written(text)
    assert "".join(pieces) == text == whole.text
    assert all("\ufffd" not in piece for piece in pieces) or "\ufffd" in text


@given(st.text("abモ ", max_size=30), st.lists(st.text("abモ", min_size=1, max_size=3), max_size=2))
@example("aモa", ["モ", "aモa"])
def test_a_text_ends_before_the_stop_string_that_is_complete_first(
    text: str, stops: list[str]
) -> None:
    pieces, whole = written(text, tuple(stops))
    places = [(place + len(stop), place) for stop in stops if (place := text.find(stop)) >= 0]
    assert "".join(pieces) == (text[: min(places)[1]] if places else text)
    assert whole.stopped == bool(places)


@pytest.mark.parametrize("stop", ["lo w", "world"])
def test_a_stop_string_over_several_tokens_is_never_given_out_in_part(stop: str) -> None:
    pieces, _ = written("hello world", (stop,))
    assert "".join(pieces) == "hello world".partition(stop)[0]
