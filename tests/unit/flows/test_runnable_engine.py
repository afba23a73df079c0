"""`requant evaluate` takes the first engine that runs here, past targets that are not installed."""

from types import SimpleNamespace
from typing import Any

import pytest

from flows import evaluate
from infra.errors import Refused, Unavailable
from tasks.specs.form import Form
from tasks.validation.forms import graph

MODEL: Any = SimpleNamespace(name="m", form=Form.GRAPH)


def opened(name: str) -> Any:
    if name == "onnxruntime-cuda":
        raise Unavailable("no provider")
    reason = None if name == "onnxruntime-cpu" else "no device"
    return SimpleNamespace(why_not_executable=lambda: reason)


def test_a_target_that_is_not_installed_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "open_target", opened)
    targets = ["onnxruntime-cuda", "tensorrt-rtx", "onnxruntime-cpu"]
    assert evaluate._runnable(MODEL, targets) == "onnxruntime-cpu"
    with pytest.raises(Refused, match="none of the engines built for m"):
        evaluate._runnable(MODEL, targets[:2])
