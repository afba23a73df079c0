"""What OpenAI's clients may send, beside what its own client does."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel, ValidationError

from flows.gateway.openai_api.completions import MOST_STOPS, ChatRequest
from flows.gateway.openai_api.embeddings import EmbeddingsRequest
from flows.gateway.openai_api.routes import read_body
from infra.errors import BadInput
from infra.gateway.wire.bodies import MOST_NESTED

CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "a"}], %s}'
NULLS = b'"n": null, "temperature": null, "stream": null, "stream_options": null, "top_p": null'


def test_null_is_the_same_as_nothing() -> None:
    left_out = read_body(ChatRequest, CHAT % b'"max_tokens": null')
    assert read_body(ChatRequest, CHAT % NULLS) == left_out
    body = b'{"model": "m", "input": "a", "encoding_format": null}'
    assert read_body(EmbeddingsRequest, body).encoding_format == "float"


def test_more_stop_texts_than_are_looked_for_are_refused() -> None:
    stops = b'"stop": [%s]' % b", ".join([b'"a"'] * (MOST_STOPS + 1))
    with pytest.raises(BadInput, match="stop"):
        read_body(ChatRequest, CHAT % stops)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatRequest, b'{"model": "m", "messages": [%s]}'),
        (ChatRequest, b'{"model": "m", "messages": [{"role": "user", "content": [%s]}]}'),
        (EmbeddingsRequest, b'{"model": "m", "input": [%s]}'),
    ],
)
def test_of_a_long_list_the_first_fault_is_enough(kind: type[BaseModel], body: bytes) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(body % b", ".join([b"{}"] * 1000))
    assert refused.value.error_count() < 10
    with pytest.raises(BadInput, match="lists and objects"):
        read_body(kind, body % b", ".join([b"{}"] * MOST_NESTED))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ('"frequency_penalty": 0.5', "frequency_penalty"),
        ('"logprobs": true', "logprobs"),
        ('"logprobs": 0', "logprobs"),  # of completions: those of the chosen tokens
        ('"tools": [{}]', "tools"),
        ('"tool_choice": "required"', "tool_choice"),
        ('"response_format": {"type": "json_object"}', "response_format"),
        ('"store": true', "store"),
        ('"reasoning_effort": "high"', "reasoning_effort"),
        ('"top_k": 4', "top_k"),
        ('"stream_options": {"include_usage": true}', "stream_options want stream"),
        ('"max_tokens": 3, "max_completion_tokens": 4', "give one of them"),
        ('"messages": [{"role": "user", "content": "a", "name": "Jo"}]', "messages.0.name"),
        (
            '"messages": [{"role": "assistant", "content": "a", "tool_calls": [{}]}]',
            "messages.0.tool_calls",
        ),
    ],
)
def test_what_would_be_left_out_is_refused_by_its_name(field: str, name: str) -> None:
    with pytest.raises(BadInput, match=re.escape(name)):
        read_body(ChatRequest, CHAT % field.encode()).require_known()


@pytest.mark.parametrize("field", ['"max_tokens": 0', '"seed": -1', '"n": 2', '"top_p": NaN'])
def test_what_has_no_meaning_is_refused(field: str) -> None:
    with pytest.raises(BadInput):
        read_body(ChatRequest, CHAT % field.encode())


@pytest.mark.parametrize(
    "fields",
    [
        '"tools": [], "tool_choice": "auto", "parallel_tool_calls": true, "store": false',
        '"presence_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"}',
        '"metadata": {"a": "b"}, "service_tier": "auto", "logprobs": false, "x": null',
        '"stream": true, "stream_options": {"include_usage": true, "include_obfuscation": false}',
        '"messages": [{"role": "assistant", "content": "a", "tool_calls": null, "refusal": null}]',
    ],
)
def test_what_says_what_is_done_anyway_is_let_pass(fields: str) -> None:
    asked = read_body(ChatRequest, CHAT % fields.encode())
    asked.require_known()
    assert asked.messages
