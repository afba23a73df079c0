"""What the OpenAPI document says of OpenAI's routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from flows.gateway.openai_api.completions import ChatRequest, CompletionRequest
from flows.gateway.openai_api.embeddings import EmbeddingsRequest
from flows.gateway.openai_api.transcriptions import FORMATS
from infra.gateway.openapi import PathItem, content, responses

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type"],
            "properties": {"message": {"type": "string"}, "type": {"type": "string"}},
        }
    },
}
_FORM = {
    "type": "object",
    "required": ["model", "file"],
    "properties": {
        "model": {"type": "string"},
        "file": {"type": "string", "format": "binary"},
        "response_format": {"type": "string", "enum": list(FORMATS)},
        "stream": {"type": "boolean"},
        "chunk_s": {"type": "number"},
    },
}


def described() -> dict[str, PathItem]:
    """Return the paths, whose bodies are described by what reads them."""
    events = content(_object("data"), "text/event-stream")
    listed = responses(content(_object("data")), codes=())
    heard = {**content(_object("text")), **content({"type": "string"}, "text/plain"), **events}
    return {
        "/v1/models": {"get": {"responses": listed}},
        "/v1/embeddings": _post(_body(EmbeddingsRequest), content(_object("data", "usage"))),
        "/v1/completions": _post(
            _body(CompletionRequest), {**content(_object("choices")), **events}
        ),
        "/v1/chat/completions": _post(
            _body(ChatRequest), {**content(_object("choices")), **events}
        ),
        "/v1/audio/transcriptions": _post(content(_FORM, "multipart/form-data"), heard),
    }


def _post(body: Mapping[str, Any], answer: Mapping[str, Any]) -> PathItem:
    request = {"required": True, "content": body}
    return {"post": {"requestBody": request, "responses": responses(answer, content(_ERROR))}}


def _body(kind: type[BaseModel]) -> dict[str, Any]:
    return content(_inlined(kind.model_json_schema()))


def _inlined(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schema of Pydantic's whose own definitions stand where they are used."""
    definitions = schema.get("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, dict):
            name = str(value.get("$ref", "")).rpartition("/")[2]
            if name:
                return inline(definitions[name])
            return {key: inline(item) for key, item in value.items() if key != "$defs"}
        return [inline(item) for item in value] if isinstance(value, list) else value

    inlined: dict[str, Any] = inline(schema)
    return inlined


def _object(*names: str) -> dict[str, Any]:
    return {"type": "object", "required": list(names)}
