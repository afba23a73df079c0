"""How soon a bad champion's traffic is answered by full precision, at a real gateway.

The digits reign in full precision, and eight clients ask them. Then a champion reigns whose answers
are far from full precision's; every request is compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from benchmarks.chaos.children import Child
from benchmarks.harness import subject
from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.serving.calls import as_json
from benchmarks.serving.load import TimedAnswers, ask
from benchmarks.serving.workspace import registered, release, serving
from tasks.promotion.acts.promoting import promote

MODEL, CLIENTS, SPAN_S = "digits", 8, 6.0
FALLBACK = {"errors": 0.05, "fidelity": 0.9, "shadow": 1.0}


@dataclass(frozen=True, slots=True)
class FallRow:
    """One bad champion."""

    answers: int = column("answers", "d")
    failed: int = column("failed", "d")
    bad: int = column("bad answers", "d")
    seconds: float = column("first bad answer to first of full precision, s", ".2f")


def measure(quick: bool) -> ResultTable:
    """Let a bad champion reign, and time until another tier answers."""
    model = subject.digits(quick)
    with registered(MODEL, serving={"fallback": FALLBACK}) as chosen:
        first = release(chosen, MODEL, model.source)
        bad = release(chosen, MODEL, _spoilt(model.source))
        promote(first, None, "benchmark", "it passed")
        with serving(chosen, REQUANT_GATEWAY_CAPTURE="0") as served:
            image = {"image": np.random.default_rng(0).random((1, 1, 8, 8), np.float32)}
            call = as_json(served.address, image, MODEL, served.headers)
            ask(call, 2, 1.0)
            acting = Child(lambda: promote(bad, first.version, "benchmark", "it passed"))
            answers = ask(call, CLIENTS, SPAN_S, _who)
            acting.end()
    row = _row(answers, bad.version)
    goal = Goal("first bad answer to first of the higher tier, s:", 2.0, row.seconds, "at most")
    return ResultTable(
        "falling-back", f"{MODEL} under {CLIENTS} clients, a bad champion", [row], (goal,), ()
    )


def _spoilt(plan: bytes) -> bytes:
    """Return a graph whose weights are noise for the most part."""
    model, rng = onnx.load_from_string(plan), np.random.default_rng(0)
    for item in model.graph.initializer:
        values = numpy_helper.to_array(item)
        if values.dtype == np.float32 and values.ndim > 1:
            noise = rng.normal(0, 3 * float(values.std()), values.shape).astype(np.float32)
            item.CopyFrom(numpy_helper.from_array(values + noise, item.name))
    return bytes(model.SerializeToString())


def _who(body: bytes) -> str:
    """Return the version that answered, or `fallback`."""
    if b'"routed":"fallback"' in body:
        return "fallback"
    _, _, rest = body.partition(b'"model_version":"')
    return rest.partition(b'"')[0].decode()


def _row(answers: TimedAnswers, bad: str) -> FallRow:
    marks = np.array(answers.marks)
    is_bad, fell = marks == bad, marks == "fallback"
    first_bad = float(answers.ends[is_bad].min(initial=np.inf))
    first_fallen = float(answers.ends[fell].min(initial=np.inf))
    return FallRow(len(marks), len(answers.failures), int(is_bad.sum()), first_fallen - first_bad)
