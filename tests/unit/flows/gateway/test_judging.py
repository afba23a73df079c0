"""Safety decisions of models, as guards ask for them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flows.gateway.guards import open_guards
from flows.gateway.judging import FollowedJudge, model_judge
from infra.errors import BadInput, Unavailable
from tasks.models.inputs import TextInputs
from tasks.specs.serving import GuardSpec
from tests.language_folders import tokenizer

LONGEST = 16
WORDS = tokenizer()
BAD = WORDS.encode("!").ids[1]


class CountsBad:
    """Embeds a text by how often the bad token is in it."""

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        counts = (feeds["input_ids"] == BAD).sum(axis=1).astype(np.float32)
        return {"sentence_embedding": np.stack([counts, np.ones_like(counts)], axis=1)}


def judging(weight: Any) -> Any:
    return SimpleNamespace(
        name="watch",
        inputs=TextInputs(WORDS.to_str().encode(), LONGEST),
        golden=SimpleNamespace(safety_weight=weight, safety_bias=-0.5),
        spec=SimpleNamespace(input=SimpleNamespace(max_length=LONGEST)),
    )


HEAD = np.asarray([1.0, 0.0], np.float32)
ENGINE: Any = CountsBad()


def test_a_safety_head_decides_on_what_was_said_not_on_who_said_it() -> None:
    judge = model_judge(judging(HEAD), ENGINE, "{text}")
    assert judge("User: strike!\nAssistant:")
    assert not judge("User: be calm\nAssistant:")


@pytest.mark.parametrize("place", [0, 20, 55, 99])
def test_no_place_of_a_text_that_is_longer_than_is_read_escapes(place: int) -> None:
    text = "".join("!" if at == place else "x" for at in range(100))
    assert model_judge(judging(HEAD), ENGINE, "{text}")(text)
    assert not model_judge(judging(HEAD), ENGINE, "{text}")("x" * 100)


def test_what_is_too_long_or_has_no_judge_does_not_pass() -> None:
    spec = GuardSpec(name="safe", on="input", model="watch")  # type: ignore[arg-type]
    for registered, text in ((judging(HEAD), "x" * 100_000), (judging(None), "x")):
        with pytest.raises(BadInput):
            model_judge(registered, ENGINE, "{text}")(text)
        guards = open_guards([spec], lambda *_, it=registered: model_judge(it, ENGINE, "{text}"))
        assert guards.stopping("input", text) is not None


def test_a_followed_model_that_cannot_be_opened_lets_nothing_pass() -> None:
    def gone(_: Any) -> Any:
        raise Unavailable("no engine")

    spec = GuardSpec(name="safe", on="input", model="watch")  # type: ignore[arg-type]
    guards = open_guards([spec], lambda *_: FollowedJudge(gone, "{text}"))
    assert guards.stopping("input", "calm") is not None


@pytest.mark.parametrize(
    "ways", [{}, {"model": "a", "pattern": "b"}, {"model": "a", "prompt": "no place for it"}]
)
def test_a_guard_that_judges_no_way_two_ways_or_nothing_is_none(ways: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="guard safe"):
        GuardSpec.model_validate({"name": "safe", "on": "input", **ways})
