"""The evaluation harness on an engine finds what its own adapter finds in PyTorch."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from infra.engines import open_target
from infra.errors import BadInput, Unavailable
from tasks.models.decoding.likelihood import Continuation, likelihoods
from tasks.models.export import export
from tasks.models.language.inputs import LanguageInputs
from tasks.models.language.layout import read_layout
from tasks.specs.spec import InputSpec, ModelSpec, Task
from tasks.validation import harness
from tests.language_folders import END, VOCABULARY, write_folder

TASKS = Path(__file__).parents[3] / "harness_tasks"
MAX_LENGTH, NEW_TOKENS = 32, 16


class Pair:
    """One exported model and the model of transformers that it came from."""

    def __init__(self, folder: Path) -> None:
        rules = InputSpec(tokenizer="tokenizer.json", max_length=MAX_LENGTH, new_tokens=NEW_TOKENS)
        graph = export(ModelSpec.model_construct(task=Task.CAUSAL_LM, input=rules), folder)
        tokenizer = (folder / "tokenizer.json").read_bytes()
        self.inputs = LanguageInputs(
            tokenizer, read_layout(graph), max_length=MAX_LENGTH, new_tokens=NEW_TOKENS
        )
        self.engine = open_target("onnxruntime-cpu").load(graph.SerializeToString())
        self.model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        self.folder = folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(write_folder(tmp_path_factory.mktemp("harness"), "llama"))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched, and the task files' data lie beside them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.chdir(TASKS)


@pytest.mark.parametrize("task", ["requant_choice", "requant_words", "requant_say"])
def test_a_task_scores_on_the_engine_what_the_harness_own_model_scores_in_torch(
    pair: Pair, task: str
) -> None:
    ours, peer = (
        _answers(model, task) for model in (harness.adapter(pair.engine, pair.inputs), _peer(pair))
    )
    assert ours["scores"] == pytest.approx(peer["scores"], rel=1e-4)
    assert len(ours["said"]) == len(peer["said"]) >= 6
    for mine, other in zip(ours["said"], peer["said"], strict=True):
        assert mine == (other if isinstance(other, str) else pytest.approx(other, abs=2e-3))
    assert len({str(one) for one in ours["said"]}) > 2, "the cases must make a difference"


def test_the_scores_of_a_task_come_with_their_names(pair: Pair) -> None:
    found = harness.run_harness(pair.engine, pair.inputs, "requant_choice", include=TASKS, limit=4)
    assert [(one.task, one.metric) for one in found] == [
        ("requant_choice", "acc"),
        ("requant_choice", "acc_norm"),
    ]
    assert all(one.value * 4 == int(one.value * 4) for one in found), "four cases give quarters"


def test_likelihoods_over_the_cache_are_those_of_torch_in_any_company(pair: Pair) -> None:
    rng = np.random.default_rng(0)
    asked = [
        Continuation(
            tuple(rng.integers(1, VOCABULARY, rng.integers(1, 20)).tolist()),
            tuple(rng.integers(1, VOCABULARY, rng.integers(1, 9)).tolist()),
        )
        for _ in range(70)
    ]
    together = likelihoods(pair.engine, pair.inputs.layout, asked)
    for one, found in zip(asked, together, strict=True):
        assert found.logarithm == pytest.approx(_by_torch(pair.model, one), abs=2e-3)
    alone = [likelihoods(pair.engine, pair.inputs.layout, [one])[0] for one in asked[:8]]
    assert [one.logarithm for one in alone] == pytest.approx(
        [one.logarithm for one in together[:8]], abs=1e-3
    )


def test_a_continuation_of_nothing_is_refused(pair: Pair) -> None:
    with pytest.raises(BadInput, match="has no tokens"):
        likelihoods(pair.engine, pair.inputs.layout, [Continuation((1,), ())])


def test_an_unknown_task_is_refused_by_name(pair: Pair) -> None:
    with pytest.raises(BadInput, match="no task or group called 'requant_none' nor in"):
        harness.run_harness(pair.engine, pair.inputs, "requant_none", include=TASKS)


def test_a_task_that_asks_for_more_tokens_than_fit_is_refused(pair: Pair, tmp_path: Path) -> None:
    text = (TASKS / "say.yaml").read_text().replace("max_gen_toks: 8", "max_gen_toks: 48")
    (tmp_path / "say.yaml").write_text(text.replace("requant_say", "requant_endless"))
    with pytest.raises(BadInput, match="generates 48 tokens and 48 fit"):
        harness.run_harness(pair.engine, pair.inputs, "requant_endless", include=tmp_path)


def test_a_task_without_its_data_is_refused_in_one_sentence(pair: Pair, tmp_path: Path) -> None:
    text = (TASKS / "say.yaml").read_text().replace("sentences.json", "absent.json")
    (tmp_path / "say.yaml").write_text(text.replace("requant_say", "requant_absent"))
    with pytest.raises(BadInput, match="could not run requant_absent"):
        harness.run_harness(pair.engine, pair.inputs, "requant_absent", include=tmp_path)


def test_a_missing_harness_says_what_to_install(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("lm_eval"):
            raise ImportError("No module named 'lm_eval'")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Unavailable, match=r"pip install 'requant\[evaluation\]'"):
        harness.run_harness(pair.engine, pair.inputs, "requant_choice")


def _peer(pair: Pair) -> Any:
    from lm_eval.models.huggingface import HFLM

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(pair.folder / "tokenizer.json"),
        bos_token=END,
        eos_token=END,
        pad_token=END,
    )
    return HFLM(
        pretrained=pair.model,
        tokenizer=tokenizer,
        max_length=MAX_LENGTH + NEW_TOKENS,
        device="cpu",
        batch_size=1,
    )


def _answers(model: Any, task: str) -> dict[str, Any]:
    """Return the harness's figures, and what the model said to each case."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    own = TaskManager(include_path=str(TASKS), include_defaults=False)
    found = simple_evaluate(model=model, tasks=[task], task_manager=own, bootstrap_iters=0)
    said = [one for case in found["samples"][task] for one in _flat(case["filtered_resps"])]
    scores = {
        key: value for key, value in found["results"][task].items() if isinstance(value, float)
    }
    return {"scores": scores, "said": said}


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple):
        return [one for item in value for one in _flat(item)]
    return [value]


def _by_torch(model: Any, asked: Continuation) -> float:
    ids = torch.tensor([[*asked.context, *asked.tokens]])
    with torch.no_grad():
        logs = torch.log_softmax(model(ids).logits[0].double(), dim=-1)
    start = len(asked.context) - 1
    return float(sum(logs[start + place, token] for place, token in enumerate(asked.tokens)))
