"""Conversations are read as the model's own template writes them, and the reply alone counts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from infra.errors import BadInput
from tasks.models.decoding.comparison import compare, compare_cached
from tasks.models.decoding.generation import answer
from tasks.models.language.chat_template import parse_chat_template, read_chat_template
from tasks.models.language.inputs import LanguageInputs
from tests.language_folders import END, tokenizer
from tests.unit.tasks.models.conftest import MAX_LENGTH, NEW_TOKENS

CHATML = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
    "<{{ message['role'] }}>{{ message['content'] | trim }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
ASKED = "System: Be brief.\nUser: Hallo\nAssistant:"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hallo"}]


def folder(path: Path, **config: object) -> Path:
    """Write what a Hugging Face folder says of its tokenizer."""
    path.mkdir(exist_ok=True)
    tokens = {"bos_token": END, "eos_token": {"content": END, "lstrip": False}}
    document = {"chat_template": CHATML, **tokens, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(document))
    return path


def inputs_of(path: Path, small: Any, max_length: int = 64) -> LanguageInputs:
    data = read_chat_template(path)
    assert data is not None
    return LanguageInputs(
        tokenizer().to_str().encode(),
        small("llama").inputs.layout,
        max_length=max_length,
        new_tokens=NEW_TOKENS,
        template=parse_chat_template(data),
    )


def theirs(messages: list[dict[str, str]], *, prompt: bool) -> list[int]:
    """Ask transformers' own tokenizer."""
    kept = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer(), bos_token=END, eos_token=END, chat_template=CHATML
    )
    return list(kept.apply_chat_template(messages, add_generation_prompt=prompt, return_dict=False))


def test_tokens_are_those_of_transformers(tmp_path: Path, small: Any) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small)
    replied = [*MESSAGES, {"role": "assistant", "content": "Guten Tag"}]
    [asked, answered] = inputs.read([ASKED, f"{ASKED} Guten Tag"])
    assert asked.ids == theirs(MESSAGES, prompt=True)
    assert answered.ids == theirs(replied, prompt=False)
    assert inputs.prompts([ASKED]) == [asked.ids]


def test_the_tokens_of_the_reply_alone_count(tmp_path: Path, small: Any) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small)
    [reading] = inputs.read([f"{ASKED} Guten Tag"])
    assert reading.counted is not None
    predicted = [id for id, counts in zip(reading.ids[1:], reading.counted, strict=False) if counts]
    assert inputs.decode(predicted) == "Guten Tag"
    assert not reading.counted[-1]


def test_without_a_reply_what_was_said_counts_and_its_first_token(
    tmp_path: Path, small: Any
) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small)
    [reading] = inputs.read([ASKED])
    assert reading.counted is not None
    predicted = [id for id, counts in zip(reading.ids[1:], reading.counted, strict=False) if counts]
    assert inputs.decode(predicted) == "Be brief.Hallo"
    assert reading.counted[-1]


def test_a_template_that_is_easy_to_guess_hides_no_bad_answer(tmp_path: Path, small: Any) -> None:
    """Measured over all tokens a harm to the reply is diluted by the template's."""
    inputs, made = inputs_of(folder(tmp_path / "m"), small), small("llama")
    text = f"{ASKED} Guten Tag"
    compared = compare(made.engine, made.engine, inputs, [text, "no conversation"])
    [reading, plain] = inputs.read([text, "no conversation"])
    assert compared.tokens.tolist() == [sum(reading.counted or ()), len(plain.ids)]
    assert compared.reference_loss[0] == pytest.approx(_loss_of_reply(made, reading), rel=1e-4)
    assert compare_cached(made.engine, made.engine, inputs, [text]) is None  # it caches floats


def _loss_of_reply(made: Any, reading: Any) -> float:
    import torch

    ids = torch.tensor([reading.ids])
    with torch.no_grad():
        logits = made.model(input_ids=ids).logits[0].log_softmax(-1)
    places = [place for place, counts in enumerate(reading.counted) if counts]
    return float(np.mean([-float(logits[place, reading.ids[place + 1]]) for place in places]))


def test_answers_are_written_after_the_template(tmp_path: Path, small: Any) -> None:
    import torch

    inputs, made = inputs_of(folder(tmp_path / "m"), small, MAX_LENGTH), small("llama")
    ids = torch.tensor([theirs(MESSAGES, prompt=True)[-MAX_LENGTH:]])
    written = made.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
    )
    assert answer(made.engine, inputs, [ASKED]) == [
        inputs.decode(written[0, ids.shape[1] :].tolist())
    ]


def test_a_long_conversation_keeps_its_end(tmp_path: Path, small: Any) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small, max_length=8)
    [reading] = inputs.read([f"User: {'word ' * 40}\nAssistant: yes"])
    assert len(reading.ids) == len(reading.counted or ()) == 8
    assert inputs.decode(reading.ids).endswith("yes\n")


def test_a_right_reply_joins_its_conversation(tmp_path: Path, small: Any) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small)
    assert inputs.answered(ASKED, "Tag") == f"{ASKED} Tag"
    assert inputs.answered("Say it.", "Tag") == "Say it."
    assert inputs.answered(f"{ASKED} Da", "Tag") == f"{ASKED} Da"


def test_a_file_of_its_own_comes_first(tmp_path: Path) -> None:
    path = folder(tmp_path / "m")
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    data = read_chat_template(path)
    assert data is not None
    assert parse_chat_template(data).source == "{{ messages[0].content }}"
    assert parse_chat_template(data).tokens == {"bos_token": END, "eos_token": END}


def test_of_several_templates_the_default_is_taken(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    data = read_chat_template(folder(tmp_path / "m", chat_template=named))
    assert data is not None
    assert parse_chat_template(data).source == "a"
    with pytest.raises(BadInput, match="tool_use and no default: write the one to use"):
        read_chat_template(folder(tmp_path / "n", chat_template=named[1:]))


def test_a_folder_without_one_has_none(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) is None
    assert read_chat_template(folder(tmp_path / "m", chat_template=None)) is None


def test_a_broken_configuration_is_told(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(BadInput, match="is not readable JSON"):
        read_chat_template(tmp_path)


def test_what_the_template_refuses_is_told(tmp_path: Path, small: Any) -> None:
    inputs = inputs_of(folder(tmp_path / "m"), small)
    with pytest.raises(BadInput, match=r"refuses a conversation \(no tools here\)"):
        inputs.read(["User: hi\nTool: 3\nAssistant:"])
