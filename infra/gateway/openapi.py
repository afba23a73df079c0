"""The OpenAPI document of the gateway: what its routes take and answer.

Source: https://spec.openapis.org/oas/v3.1.0, and the Open Inference Protocol's own description.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from infra.access.problems import PROBLEM
from infra.gateway.wire.datatypes import BYTES, LITTLE_ENDIAN, MOST_DIMENSIONS
from infra.gateway.wire.open_inference import HEADER_LENGTH

PathItem = Mapping[str, Any]
JSON = "application/json"
REFUSALS = (400, 403, 404, 408, 413, 429, 503, 504)
"""What a request that wants an answer of a model may be told."""
_UNKNOWN = (403, 404, 503)
_NO_KEY = {
    "description": "No key, or another one, was shown.",
    "content": {kind: {"schema": {}} for kind in ("text/html", PROBLEM)},
}
_TEXT = {"type": "string"}
_PARAMETERS = {"type": "object", "additionalProperties": True}
_SIZES = {
    "type": "array",
    "maxItems": MOST_DIMENSIONS,
    "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
}
_DATATYPE = {"type": "string", "enum": [*LITTLE_ENDIAN, BYTES]}
_DESCRIBED = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": _TEXT,
            "datatype": _DATATYPE,
            "shape": {"type": "array", "items": {"type": "integer", "minimum": -1}},
        },
    },
}
_TENSOR = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _TEXT,
        "shape": _SIZES,
        "datatype": _DATATYPE,
        "parameters": _PARAMETERS,
        "data": {"type": "array"},
    },
}
_SCHEMAS: Mapping[str, Any] = {
    "Problem": {
        "type": "object",
        "required": ["type", "title", "status", "detail", "error"],
        "properties": {
            "type": _TEXT,
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "error": _TEXT,
        },
    },
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": _TEXT,
            "parameters": _PARAMETERS,
            "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {"name": _TEXT, "parameters": _PARAMETERS},
                },
            },
        },
    },
    "InferResponse": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "id": _TEXT,
            "model_name": _TEXT,
            "model_version": _TEXT,
            "parameters": _PARAMETERS,
            "outputs": {"type": "array", "items": _TENSOR},
        },
    },
    "Model": {
        "type": "object",
        "required": ["name", "versions", "platform", "inputs", "outputs"],
        "properties": {
            "name": _TEXT,
            "versions": {"type": "array", "items": _TEXT},
            "platform": _TEXT,
            "inputs": _DESCRIBED,
            "outputs": _DESCRIBED,
        },
    },
    "Server": {
        "type": "object",
        "required": ["name", "version", "extensions"],
        "properties": {
            "name": _TEXT,
            "version": _TEXT,
            "extensions": {"type": "array", "items": _TEXT},
        },
    },
    "Index": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name", "state", "reason"],
            "properties": {"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT},
        },
    },
}


def document(version: str, paths: Mapping[str, PathItem]) -> dict[str, Any]:
    """Return the document of the protocol's routes, and of further ones."""
    return {
        "openapi": "3.1.0",
        "info": {"title": "Requant's gateway", "version": version},
        "security": [{"key": []}],
        "paths": {**_open_inference(), **paths},
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def content(schema: Mapping[str, Any] | str, media_type: str = JSON) -> dict[str, Any]:
    """Return the content of a body: a schema, or the name of one of the document's own."""
    named = {"$ref": f"#/components/schemas/{schema}"} if isinstance(schema, str) else schema
    return {media_type: {"schema": named}}


def responses(
    answer: Mapping[str, Any] | None,
    refused: Mapping[str, Any] | None = None,
    codes: tuple[int, ...] = REFUSALS,
) -> dict[str, Any]:
    """Return what a route answers: its content, and what refusals hold."""
    refusal = content("Problem", PROBLEM) if refused is None else refused
    answered = {"description": "The answer."}
    return {
        "200": answered if answer is None else {**answered, "content": answer},
        "401": _NO_KEY,
        **{
            str(code): {"description": HTTPStatus(code).phrase, "content": refusal}
            for code in codes
        },
    }


def _open_inference() -> dict[str, PathItem]:
    state = content({"type": "object", "additionalProperties": {"type": "boolean"}})
    fixed: dict[str, PathItem] = {
        "/v2": {"get": {"responses": responses(content("Server"), codes=())}},
        "/v2/health/live": {"get": {"responses": responses(state, codes=())}},
        "/v2/health/ready": {"get": {"responses": responses(state, state, (503,))}},
        "/v2/repository/index": {"post": {"responses": responses(content("Index"), codes=())}},
        "/metrics": {"get": {"responses": responses(None, codes=())}},
    }
    one = {"parameters": [_in_path("model")]}
    versioned = {"parameters": [_in_path("model"), _in_path("version")]}
    for path, known in (
        ("/v2/models/{model}", one),
        ("/v2/models/{model}/versions/{version}", versioned),
    ):
        described = responses(content("Model"), codes=_UNKNOWN)
        fixed[path] = {**known, "get": {"responses": described}}
        fixed[f"{path}/ready"] = {**known, "get": {"responses": responses(None, codes=_UNKNOWN)}}
        fixed[f"{path}/infer"] = {**known, "post": _infer()}
    return fixed


def _infer() -> dict[str, Any]:
    raw = content({"type": "string", "format": "binary"}, "application/octet-stream")
    length = {
        "name": HEADER_LENGTH,
        "in": "header",
        "required": False,
        "description": "Bytes of the JSON, where tensors follow it in bytes.",
        "schema": {"type": "integer", "minimum": 1},
    }
    return {
        "parameters": [length],
        "requestBody": {"required": True, "content": {**content("InferRequest"), **raw}},
        "responses": responses({**content("InferResponse"), **raw}),
    }


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
