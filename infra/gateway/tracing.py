"""Spans of the gateway, by OpenTelemetry's own libraries and variables.

With `OTEL_EXPORTER_OTLP_ENDPOINT` set they are sent there; otherwise nothing is recorded. A
caller's `traceparent` (W3C Trace Context) is continued.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import propagate, trace
from starlette.types import ASGIApp

from infra.errors import Unavailable

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_tracer = trace.get_tracer("requant.gateway")


def traced(app: ASGIApp) -> ASGIApp:
    """Return the application with a span for each request, where an endpoint is set.

    Raises:
        Unavailable: The exporter is not installed.
    """
    if not os.environ.get(ENDPOINT):
        return app
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            f"{ENDPOINT} is set, and no exporter is installed: run pip install 'requant[tracing]'"
        ) from error
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "requant-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    wrapped: ASGIApp = OpenTelemetryMiddleware(
        app, exclude_spans=["receive", "send"], excluded_urls="/metrics,/v2/health"
    )
    return wrapped


@contextmanager
def calling(name: str, headers: Mapping[str, str], attributes: Mapping[str, str]) -> Iterator[None]:
    """Record a call that came by gRPC, which the ASGI application does not see."""
    named = {f"requant.{key}": value for key, value in attributes.items()}
    kind, parent = trace.SpanKind.SERVER, propagate.extract(headers)
    with _tracer.start_as_current_span(name, context=parent, kind=kind, attributes=named):
        yield


def note(attributes: Mapping[str, str]) -> None:
    """Add attributes to the span of the request that is at work."""
    trace.get_current_span().set_attributes({f"requant.{key}": v for key, v in attributes.items()})


@contextmanager
def span(name: str, attributes: Mapping[str, str]) -> Iterator[None]:
    """Record a part of a request."""
    named = {f"requant.{key}": value for key, value in attributes.items()}
    with _tracer.start_as_current_span(name, attributes=named):
        yield
