"""Texts that join and leave one decode are written as each would be alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.models.decoding.continuous import DecodedText, DecodeGroup
from tasks.models.decoding.generation import GREEDY, Sampling, generate
from tests.language_folders import VOCABULARY

COUNT, MOST = 24, 8


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.9, 0.95, 7)], ids=["greedy", "sampled"])
def test_texts_that_come_and_go_are_written_as_alone(
    small: Any, family: str, sampling: Sampling
) -> None:
    made, rng = small(family), np.random.default_rng(1)
    layout = made.inputs.layout
    prompts = [rng.integers(1, VOCABULARY, rng.integers(1, 14)).tolist() for _ in range(COUNT)]
    alone = [
        generate(made.engine, layout, [prompt], new_tokens=MOST, sampling=sampling)[0]
        for prompt in prompts
    ]
    group, written = DecodeGroup(made.engine, layout), list[list[int]]([] for _ in prompts)
    active: dict[DecodedText, int] = {}
    waiting = list(range(COUNT))
    together = 0
    while waiting or active:
        for _ in range(min(len(waiting), int(rng.integers(0, 4)))):
            case = waiting.pop(0)
            text = group.join(prompts[case], sampling)
            active[text] = case
            take(group, active, [text], written, layout.stops)
        together = max(together, len(group))
        take(group, active, group.step(), written, layout.stops)
    assert written == alone
    assert together > 4
    assert len(group) == 0


def take(
    group: DecodeGroup,
    active: dict[DecodedText, int],
    texts: Any,
    written: list[list[int]],
    stops: tuple[int, ...],
) -> None:
    """Note each text's newest token, and let those go that are written."""
    ended = []
    for text in texts:
        case = active[text]
        if text.last in stops:
            ended.append(text)
            continue
        written[case].append(text.last)
        if len(written[case]) == MOST:
            ended.append(text)
    group.leave(ended)
    for text in ended:
        del active[text]


def test_an_empty_prompt_is_refused_and_others_are_written_on(small: Any) -> None:
    made = small("llama")
    group = DecodeGroup(made.engine, made.inputs.layout)
    text = group.join([5, 6], GREEDY)
    with pytest.raises(BadInput, match="nothing to continue"):
        group.join([], GREEDY)
    first = text.last
    group.step()
    wanted = generate(made.engine, made.inputs.layout, [[5, 6]], new_tokens=2)[0]
    assert [first, text.last][: len(wanted)] == wanted
