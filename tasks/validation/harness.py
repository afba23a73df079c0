"""EleutherAI's lm-evaluation-harness on an engine of ours.

This module alone knows the package `lm_eval`. It is an optional extra, takes seconds to import, and
is imported on first use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.engines.port import Engine
from infra.errors import BadInput, RequantError, Unavailable
from tasks.models.decoding.generation import Sampling, generate
from tasks.models.decoding.likelihood import Continuation, likelihoods
from tasks.models.language.inputs import LanguageInputs

_ERROR = "_stderr"


@dataclass(frozen=True, slots=True)
class Score:
    """One metric of one task."""

    task: str
    metric: str  # with its filter, where it has one: "exact_match", "exact_match/strict"
    value: float
    error: float | None  # standard error, where the harness gives one


def run_harness(
    engine: Engine,
    inputs: LanguageInputs,
    task: str,
    *,
    include: Path | None = None,
    limit: int | None = None,
) -> tuple[Score, ...]:
    """Measure every metric of a task, or of a group's tasks, by name.

    Args:
        engine: The model that is measured.
        inputs: What turns texts into the engine's inputs.
        task: The harness's name of a task or group.
        include: A folder with more task files.
        limit: The number of examples of each task; None for all.

    Raises:
        Unavailable: The package is missing.
        BadInput: The task is unknown, or raised an error of its own.
    """
    evaluate, tasks = _imported()
    manager = _manager_of(tasks, task, include)
    try:
        table = evaluate(
            model=adapter(engine, inputs),
            tasks=[task],
            task_manager=manager,
            limit=limit,
            bootstrap_iters=0,
        )
    except RequantError:
        raise
    except Exception as exc:  # tasks run code of their own: data sets, filters, metrics
        raise BadInput(
            f"lm-eval could not run {task} ({_line(exc)}): look at its data set and its task file"
        ) from exc
    return _scores(table["results"])


def _manager_of(tasks: Any, task: str, include: Path | None) -> Any:
    """Return a task manager that has the task.

    The harness's own thousands of files are read only where the folder has not.
    """
    try:
        for defaults in (False, True) if include else (True,):
            manager = tasks(
                include_path=None if include is None else str(include), include_defaults=defaults
            )
            if task in manager.all_tasks:
                return manager
    except Exception as exc:  # a task file can be wrong in any way
        raise BadInput(
            f"the task files in {include} cannot be read ({_line(exc)}): see lm-eval's task guide"
        ) from exc
    where = f" nor in {include}" if include else "; name a folder of your own with --include-path"
    raise BadInput(f"lm-eval has no task or group called {task!r}{where}")


def _imported() -> tuple[Any, Any]:
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as exc:
        raise Unavailable(
            f"the evaluation harness is missing ({exc}): pip install 'requant[evaluation]'"
        ) from exc
    return simple_evaluate, TaskManager


def adapter(engine: Engine, inputs: LanguageInputs) -> Any:
    """Wrap the engine as the harness wants a model: an `lm_eval.api.model.TemplateLM`.

    It tokenizes, truncates and cuts at stop sequences as the harness's own `HFLM` does. At most
    `max_length` + `new_tokens` tokens fit, of which a task may ask to generate all but one. Where
    it does not say, `new_tokens` are generated.
    """
    from lm_eval import utils
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import (
        handle_stop_sequences,
        normalize_gen_kwargs,
        postprocess_generated_text,
    )

    first, longest = _first(inputs), inputs.max_length + inputs.new_tokens

    class Adapter(TemplateLM):  # type: ignore[misc]  # the harness is not typed
        eot_token_id = next(iter(inputs.layout.stops), first)
        prefix_token_id = first
        tokenizer_name = ""

        def tok_encode(
            self, string: str, add_special_tokens: bool | None = None, **_: object
        ) -> list[int]:
            begun = add_special_tokens is None and string.startswith(
                inputs.decode([first], special=True)
            )
            return inputs.encode([string], special=not begun and add_special_tokens is not False)[0]

        def _loglikelihood_tokens(
            self, requests: Sequence[tuple[object, Sequence[int], Sequence[int]]], **_: object
        ) -> list[tuple[float, bool]]:
            pairs = [_cut(context, tokens, longest) for _, context, tokens in requests]
            return [
                (likelihood.logarithm, likelihood.greedy)
                for likelihood in likelihoods(engine, inputs.layout, pairs)
            ]

        def loglikelihood_rolling(
            self, requests: Sequence[Any], disable_tqdm: bool = False
        ) -> list[float]:
            totals = []
            for (text,) in (request.args for request in requests):
                windows = utils.get_rolling_token_windows(self.tok_encode(text), first, longest, 1)
                pairs = [("", *utils.make_disjoint_window(window)) for window in windows]
                totals.append(sum(logarithm for logarithm, _ in self._loglikelihood_tokens(pairs)))
            return totals

        def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
            texts = [""] * len(requests)
            groups: dict[str, list[int]] = {}
            for place, request in enumerate(requests):
                groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
            end = inputs.decode([self.eot_token_id], special=True)
            for places in groups.values():
                rules = normalize_gen_kwargs(requests[places[0]].args[1], inputs.new_tokens)
                stops = handle_stop_sequences(rules["until"], eos=end)
                answers = _answers(
                    engine, inputs, [requests[place].args[0] for place in places], rules, longest
                )
                for place, text in zip(places, answers, strict=True):
                    texts[place] = postprocess_generated_text(text, stops, None)
            return texts

    return Adapter()


def _first(inputs: LanguageInputs) -> int:
    if inputs.first is None:
        raise BadInput(
            "neither the tokenizer nor the model has a token that begins a text: lm-eval needs one"
        )
    return inputs.first


def _cut(context: Sequence[int], tokens: Sequence[int], longest: int) -> Continuation:
    """Keep the last tokens that fit; what is scored last is not read."""
    if len(tokens) > longest:
        raise BadInput(
            f"a continuation has {len(tokens)} tokens and {longest} fit: raise input.max_length"
        )
    text = (*context, *tokens)[-(longest + 1) :]
    return Continuation(text[: -len(tokens)], text[-len(tokens) :])


def _answers(
    engine: Engine,
    inputs: LanguageInputs,
    prompts: Sequence[str],
    rules: Mapping[str, Any],
    longest: int,
) -> list[str]:
    count = int(rules["max_gen_toks"])
    if count >= longest:
        raise BadInput(
            f"the task generates {count} tokens and {longest} fit with its prompt: "
            "set max_gen_toks in its generation_kwargs, or raise input.new_tokens"
        )
    sampling = Sampling(float(rules.get("temperature") or 0.0), float(rules.get("top_p") or 1.0))
    encoded = [ids[-(longest - count) :] for ids in inputs.encode(prompts)]
    return [
        inputs.decode(ids)
        for ids in generate(engine, inputs.layout, encoded, new_tokens=count, sampling=sampling)
    ]


def _scores(results: Mapping[str, Mapping[str, Any]]) -> tuple[Score, ...]:
    """Read the scores from the harness's table.

    It looks like {task: {"acc,none": 0.5, "acc_stderr,none": 0.01, "alias": ...}}.
    """
    scores = []
    for task, row in results.items():
        for key, value in row.items():
            name, _, filtered = key.partition(",")
            if not filtered or name.endswith(_ERROR) or not isinstance(value, int | float):
                continue
            error = row.get(f"{name}{_ERROR},{filtered}")
            metric = name if filtered == "none" else f"{name}/{filtered}"
            scores.append(
                Score(task, metric, float(value), error if isinstance(error, float) else None)
            )
    return tuple(scores)


def _line(exc: BaseException) -> str:
    return " ".join(str(exc).split())[:300] or type(exc).__name__
