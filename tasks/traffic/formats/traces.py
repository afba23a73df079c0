"""MLflow 3 traces, as `Trace.to_json` writes them, one or many in a file.

The input is that of the root span; `tenant`, `domain`, `language` and `label` are taken from the
trace's tags. Source: https://mlflow.org/docs/latest/genai/tracing
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tasks.traffic.formats.bodies.calls import rows_of_call
from tasks.traffic.formats.bodies.inference import CONTEXT
from tasks.traffic.formats.documents import Document, read_documents
from tasks.traffic.formats.raw import Bad, Raw, Source, failing, ready


def read_traces(source: Source) -> Iterator[Raw]:
    """Read the inputs of traces that ended well."""
    for document in read_documents(source):
        yield from requests_of(document, source)


def requests_of(document: Document, source: Source) -> Iterator[Raw]:
    """Yield the requests of one trace, several where its input is a batch."""
    try:
        trace = document.fields()
        info, inputs = _info(trace), _inputs(trace)
        rows, shared = rows_of_call(inputs, source.task, source.shape), _shared(info)
    except Bad as bad:
        yield failing(document.number, document.excerpt, bad)
        return
    name = str(info.get("client_request_id") or info.get("trace_id"))
    for place, row in enumerate(rows):
        record = {**shared, **row, "request_id": name if len(rows) == 1 else f"{name}/{place}"}
        yield ready(document.number, document.excerpt, record)


def _info(trace: Mapping[str, Any]) -> Mapping[str, Any]:
    info = trace.get("info")
    if (
        not isinstance(info, Mapping)
        or "trace_id" not in info
        or not isinstance(trace.get("data"), Mapping)
    ):
        raise Bad("it is no MLflow 3 trace, which has info with a trace_id, and data")
    if info.get("state") != "OK":
        raise Bad(f"the trace ended in the state {info.get('state')}: nothing was served")
    return info


def _inputs(trace: Mapping[str, Any]) -> object:
    spans = trace["data"].get("spans")
    roots = (
        [span for span in spans if not span.get("parent_span_id")]
        if isinstance(spans, list)
        else []
    )
    if len(roots) != 1:
        raise Bad(f"the trace has {len(roots)} root spans: one is wanted, export it with its spans")
    inputs = (roots[0].get("attributes") or {}).get("mlflow.spanInputs")
    if inputs is None:
        raise Bad("the root span has no inputs")
    if not isinstance(inputs, str):
        return inputs
    try:
        return json.loads(inputs)
    except (ValueError, RecursionError):
        raise Bad("the root span's inputs are not JSON") from None


def _shared(info: Mapping[str, Any]) -> dict[str, object]:
    tags, metadata = info.get("tags") or {}, info.get("trace_metadata") or {}
    context = {name: tags.get(name) or metadata.get(name) for name in CONTEXT}
    context["tenant"] = context["tenant"] or metadata.get("mlflow.trace.user")
    spent = info.get("execution_duration_ms")
    return {
        **{name: value for name, value in context.items() if value},
        "time": info.get("request_time"),
        "latency_ms": float(spent) if isinstance(spent, (int, float)) else None,
        "model_version": tags.get("model_version") or metadata.get("mlflow.modelId"),
    }
