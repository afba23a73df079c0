"""What OpenAI's clients may send, beside what its own client does."""

from __future__ import annotations

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
