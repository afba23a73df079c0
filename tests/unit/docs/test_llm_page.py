"""The page about language models names every field that a spec can have."""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from tasks.specs.drift import DriftSpec
from tasks.specs.spec import ModelSpec
from tasks.specs.traits import METRICS, Task

PAGE = (Path(__file__).parents[3] / "docs" / "llm.md").read_text(encoding="utf-8")
WHOLE = {
    "serving.guards",
    *("control", "sources", "metrics"),
    *(f"input.{name}" for name in ("preprocess", "tensors", "dimensions", "states")),
}
"""Fields whose own are told elsewhere."""


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every field that holds no others."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        inner = _model_of(field.annotation)
        if inner is None or path in WHOLE or model is DriftSpec:
            yield path
        else:
            yield from fields(inner, f"{path}.")


def _model_of(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((item for item in map(_model_of, get_args(annotation)) if item), None)


@pytest.mark.parametrize(
    "path", [path for path in fields(ModelSpec) if not path.startswith("budgets.quality.")]
)
def test_every_field_of_the_spec_is_named(path: str) -> None:
    assert f"`{path}`" in PAGE


@pytest.mark.parametrize("metric", sorted(METRICS[Task.CAUSAL_LM]))
def test_every_metric_of_a_language_model_is_named(metric: str) -> None:
    assert f"`{metric}`" in PAGE
