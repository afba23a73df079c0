"""Requests that a gateway's OpenAPI document allows, and that it does not, sent to every route."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


def ask_as_described(
    address: str, headers: Mapping[str, str], models: Sequence[str], examples: int
) -> Counter[tuple[str, int]]:
    """Ask every route so often in each way; count answers by route and status.

    Raises:
        FailureGroup: An answer is not what the document says, or a 500.
    """
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json", headers=dict(headers))
    answers: Counter[tuple[str, int]] = Counter()
    for operation in (each.ok() for each in schema.get_all_operations()):
        takes = operation.body or operation.path_parameters
        modes = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE) if takes else ()
        for mode in modes or (GenerationMode.POSITIVE,):
            _ask(operation, mode, headers, models, examples if takes else 1, answers)
    return answers


def _ask(
    operation: Any,
    mode: GenerationMode,
    headers: Mapping[str, str],
    models: Sequence[str],
    examples: int,
    answers: Counter[tuple[str, int]],
) -> None:
    @given(
        case=operation.as_strategy(generation_mode=mode),
        model=st.sampled_from([*models, "nobody"]),
    )
    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def holds(case: Any, model: str) -> None:
        if "model" in (case.path_parameters or {}):
            case.path_parameters["model"] = model
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = model
        response = case.call_and_validate(headers=dict(headers), checks=CHECKS)
        answers[operation.label, response.status_code] += 1

    holds()
