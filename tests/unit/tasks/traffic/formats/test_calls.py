"""The inputs of Python calls, as the installed MLflow writes them into its traces."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.specs.spec import Task
from tasks.traffic.formats.bodies.calls import rows_of_call
from tasks.traffic.formats.raw import Bad
from tasks.traffic.imports import Accepted, Taken, judge_traces
from tasks.traffic.rejects import Reject

TEXT, IMAGE = Task.TEXT_EMBEDDING, Task.IMAGE_CLASSIFICATION
TURNS = [{"role": "user", "content": "hello"}]
CONVERSATION = "User: hello\nAssistant:"


def texts(inputs: object) -> list[object]:
    return [row["text"] for row in rows_of_call(inputs, TEXT, None)]


@pytest.mark.parametrize(
    ("inputs", "wanted"),
    [
        ({"model_input": ["first", "second"], "params": None}, ["first", "second"]),
        ({"context": None, "model_input": {"messages": TURNS}, "params": None}, [CONVERSATION]),
        ({"messages": TURNS, "params": {"temperature": 0.5}}, [CONVERSATION]),
        ({"request": {"input": TURNS, "custom_inputs": None, "context": None}}, [CONVERSATION]),
        ({"model_input": [{"text": "a", "lang": "en"}, {"text": "b"}]}, ["a", "b"]),
        ({"model_input": {"dataframe_split": {"columns": ["t"], "data": [["a"], ["b"]]}}}, None),
        ({"dataframe_records": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]),
        ({"inputs": {"text": ["a", "b"]}}, ["a", "b"]),
        ({"inputs": ["a", "b"]}, ["a", "b"]),
        ({"instances": [{"text": "a"}, "b"]}, ["a", "b"]),
        ({"prompt": ["a", "b"], "id": [1, 2]}, ["a", "b"]),
        ({"model_input": [TURNS, TURNS]}, [CONVERSATION, CONVERSATION]),
        ({"question": "a", "top_k": 5}, ["a"]),
        ({"args": ["a"], "kwargs": {}}, ["a"]),
        ({"args": [], "kwargs": {"text": "a"}}, ["a"]),
        ({"messages": [[{"type": "human", "content": "hello"}]]}, [CONVERSATION]),
        (["a", "b"], ["a", "b"]),
        ("a", ["a"]),
    ],
)
def test_the_text_is_found_wherever_a_model_class_takes_it(
    inputs: object, wanted: list[str] | None
) -> None:
    assert texts(inputs) == (wanted or ["a", "b"])


def test_who_asks_is_told_beside_the_input() -> None:
    (row,) = rows_of_call(
        {"messages": TURNS, "context": {"user_id": "acme"}, "custom_inputs": {"language": "en"}},
        TEXT,
        None,
    )
    assert row == {"text": CONVERSATION, "tenant": "acme", "language": "en"}


def test_a_batch_of_tensors_has_an_axis_more() -> None:
    single = np.zeros((1, 2)).tolist()
    assert rows_of_call({"model_input": single}, IMAGE, (1, 2)) == [{"tensor": single}]
    batch = rows_of_call({"model_input": [single, single]}, IMAGE, (1, 2))
    assert batch == [{"tensor": single}, {"tensor": single}]


def test_rows_of_a_frame_of_numbers_are_tensors_and_of_named_inputs_records() -> None:
    frame = {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2], [3, 4]]}}
    assert rows_of_call(frame, IMAGE, (2,)) == [{"tensor": [1, 2]}, {"tensor": [3, 4]}]
    records = {"model_input": [{"a": [1]}, {"a": [2]}]}
    assert [row["tensors"] for row in rows_of_call(records, Task.CUSTOM, None)] == [
        {"a": [1]},
        {"a": [2]},
    ]


def test_objects_nested_without_end_are_refused() -> None:
    value: object = "a"
    for _ in range(20):
        value = {"request": value}
    with pytest.raises(Bad, match="nested too deeply"):
        rows_of_call(value, TEXT, None)


def test_models_of_the_installed_mlflow_are_read_and_what_it_printed_is_refused(
    tmp_path: Path,
) -> None:
    import mlflow
    from mlflow.pyfunc import ResponsesAgent  # type: ignore[attr-defined, unused-ignore]
    from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse

    @mlflow.trace
    def predict(context: object, model_input: object, params: object = None) -> list[str]:
        return ["x"]

    class Agent(ResponsesAgent):  # type: ignore[misc]
        def predict(self, request: Any) -> Any:
            return ResponsesAgentResponse(output=[])

    def taken(call: Callable[[], object]) -> Taken:
        call()
        mlflow.flush_trace_async_logging()
        trace = mlflow.get_trace(mlflow.get_last_active_trace_id())
        (record,) = judge_traces([trace.to_json()], task=TEXT, now=later)
        return record

    before, later = mlflow.get_tracking_uri(), datetime.now(UTC) + timedelta(minutes=5)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("calls", artifact_location=(tmp_path / "artifacts").as_uri())
    mlflow.set_experiment("calls")
    try:
        agent = taken(lambda: Agent().predict(ResponsesAgentRequest(input=TURNS)))
        assert isinstance(agent, Accepted)
        assert agent.request.payload == CONVERSATION
        for value, kind in (
            (pd.DataFrame({"text": ["first", "second"]}), "a table"),
            (pd.Series(["a", "b"], name="text"), "a table"),
            (np.array(["a", "b"]), "an array"),
            (object(), "an object"),
        ):
            record = taken(lambda value=value: predict(None, value))  # type: ignore[misc]
            assert isinstance(record, Reject)
            assert f"text is the printout of {kind}, not what was sent" in record.reason
    finally:
        mlflow.set_tracking_uri(before)


def test_a_trace_is_told_by_its_root_span_alone() -> None:
    trace = {"info": {"trace_id": "t", "state": "OK"}, "data": {"spans": []}}
    (record,) = judge_traces([json.dumps(trace)], task=TEXT)
    assert isinstance(record, Reject)
    assert "0 root spans" in record.reason
