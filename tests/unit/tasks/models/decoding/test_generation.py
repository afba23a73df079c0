"""The engine continues a prompt with the very tokens that torch does."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from infra.errors import BadInput
from tasks.models.decoding.generation import Sampling, answer, choose, generate
from tasks.models.golden import read_golden
from tasks.models.language.decoder import CachedDecoder
from tests.language_folders import VOCABULARY
from tests.unit.tasks.models.conftest import NEW_TOKENS, SHIPPED

PROMPTS, FEW = 200, 40


class TorchEngine:
    """The same feeds through torch."""

    def __init__(self, model: Any) -> None:
        self._model = CachedDecoder(model)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        given = {name: torch.from_numpy(np.asarray(array)) for name, array in feeds.items()}
        past = [tensor for name, tensor in given.items() if name.startswith("past.")]
        names = [name for name in given if name.startswith("past.")]
        with torch.no_grad():
            logits, *present = self._model(
                **{k: v for k, v in given.items() if k not in names}, past=past
            )
        found = {
            name.replace("past.", "present."): one.numpy()
            for name, one in zip(names, present, strict=True)
        }
        return {"logits": logits.numpy(), **found}


def prompts(count: int = PROMPTS) -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(1, VOCABULARY, rng.integers(1, 12)).tolist() for _ in range(count)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("count", [FEW, pytest.param(PROMPTS, marks=pytest.mark.soak)])
def test_greedy_tokens_are_those_of_transformers(small: Any, family: str, count: int) -> None:
    made, asked = small(family), prompts(count)
    found = generate(made.engine, made.inputs.layout, asked, new_tokens=NEW_TOKENS)
    assert len({tuple(one) for one in found}) > count // 2, "the prompts must make a difference"
    assert found == _by_transformers(made.model, asked)


@pytest.mark.soak
def test_the_shipped_model_writes_the_tokens_of_transformers_for_200_golden_prompts(
    small: Any,
) -> None:
    made = small(SHIPPED)
    cases = read_golden(
        (made.folder / "golden.parquet").read_bytes(), None, where="its golden set"
    ).cases
    tokenizer = Tokenizer.from_file(str(made.folder / "tokenizer.json"))
    asked = [
        tokenizer.encode(str(case.payload)).ids[:24]
        for case in cases[:: len(cases) // PROMPTS][:PROMPTS]
    ]
    found = generate(made.engine, made.inputs.layout, asked, new_tokens=NEW_TOKENS)
    assert len(asked) == PROMPTS
    assert len({tuple(one) for one in found}) > PROMPTS // 2
    assert found == _by_transformers(made.model, asked)


@pytest.mark.parametrize("count", [FEW, pytest.param(PROMPTS, marks=pytest.mark.soak)])
def test_sampled_tokens_are_those_of_torch(small: Any, count: int) -> None:
    made, asked = small("llama"), prompts(count)
    sampling = Sampling(temperature=0.8, top_p=0.9, seed=3)
    layout = made.inputs.layout
    found = generate(made.engine, layout, asked, new_tokens=8, sampling=sampling)
    assert found == generate(
        TorchEngine(made.model), layout, asked, new_tokens=8, sampling=sampling
    )
    other = Sampling(temperature=0.8, top_p=0.9, seed=4)
    assert found != generate(made.engine, layout, asked, new_tokens=8, sampling=other)


def test_what_shares_a_batch_with_a_prompt_does_not_change_its_tokens(small: Any) -> None:
    made = small("gpt2")
    asked = prompts(40)
    together = generate(made.engine, made.inputs.layout, asked, new_tokens=6)
    assert together == [
        generate(made.engine, made.inputs.layout, [one], new_tokens=6)[0] for one in asked
    ]


class OnlyRuns:
    """An engine that hands out its cache as arrays."""

    def __init__(self, engine: Any) -> None:
        self.run = engine.run


class Watched:
    """An engine that notes what it fetches, and what of its cache it is given back."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.steps: list[tuple[tuple[str, ...], bool]] = []

    def run_keeping(self, feeds: Mapping[str, Any], fetched: tuple[str, ...]) -> dict[str, Any]:
        cache = [value for name, value in feeds.items() if name.startswith("past.")]
        self.steps.append((fetched, any(isinstance(value, np.ndarray) for value in cache)))
        return dict(self._engine.run_keeping(feeds, fetched))

    def run(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("the cache would be copied")


def test_a_cache_that_stays_with_the_engine_gives_the_same_tokens(small: Any) -> None:
    made, asked = small("llama"), prompts(40)
    watched = Watched(made.engine)
    layout = made.inputs.layout
    texts = generate(watched, layout, asked, new_tokens=NEW_TOKENS)  # type: ignore[arg-type]
    assert texts == generate(
        OnlyRuns(made.engine),  # type: ignore[arg-type]
        layout,
        asked,
        new_tokens=NEW_TOKENS,
    )
    assert {fetched for fetched, _ in watched.steps} == {("logits",)}
    assert [fed for _, fed in watched.steps[:NEW_TOKENS]] == [True] + [False] * (NEW_TOKENS - 1)


def test_a_stop_token_ends_a_text_and_is_not_part_of_it(small: Any) -> None:
    made = small("llama")
    layout = made.inputs.layout
    first = generate(made.engine, layout, [[5, 6, 7]], new_tokens=6)[0]
    stopped = type(layout)(layout.layers, (first[3],))
    assert generate(made.engine, stopped, [[5, 6, 7]], new_tokens=6) == [
        first[: first.index(first[3])]
    ]


def test_an_answer_is_text_and_an_empty_prompt_is_refused(small: Any) -> None:
    made = small("llama")
    assert isinstance(answer(made.engine, made.inputs, ["Hello"])[0], str)
    assert answer(made.engine, made.inputs, []) == []
    with pytest.raises(BadInput, match="no tokens"):
        generate(made.engine, made.inputs.layout, [[]], new_tokens=1)


def test_nucleus_sampling_never_leaves_the_nucleus() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05]], np.float32))
    dice = np.random.default_rng(0)
    drawn = [int(choose(logits, Sampling(1.0, 0.75), [dice])[0]) for _ in range(400)]
    assert set(drawn) == {0, 1}
    assert np.mean(drawn) == pytest.approx(0.3 / 0.8, abs=0.08)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_sampling_outside_its_limits_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadInput, match="temperature must be 0 or more"):
        Sampling(**wrong)


def test_logits_that_are_not_finite_choose_nothing() -> None:
    with pytest.raises(BadInput, match="NaN or infinity"):
        choose(np.array([[np.nan, 0]], np.float32), Sampling(), [np.random.default_rng(0)])


def _by_transformers(model: Any, asked: list[list[int]]) -> list[list[int]]:
    """Run prompts of one length at a time, so that nothing is padded."""
    groups: dict[int, list[int]] = defaultdict(list)
    for case, ids in enumerate(asked):
        groups[len(ids)].append(case)
    found: dict[int, list[int]] = {}
    for length, cases in groups.items():
        ids = torch.tensor([asked[case] for case in cases])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
        for case, row in zip(cases, out[:, length:].tolist(), strict=True):
            found[case] = row[: row.index(0)] if 0 in row else row
    return [found[case] for case in range(len(asked))]


@pytest.mark.parametrize("temperature", [1e-300, 5e-324, 1e-9])
def test_next_to_no_temperature_takes_the_likeliest_token(temperature: float) -> None:
    logits = np.array([[-3.0, 30.0, 29.5, -40.0]], np.float32)
    die = np.random.default_rng(0)
    assert choose(logits, Sampling(temperature, 1.0, 0), [die]).tolist() == [1]
