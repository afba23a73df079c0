"""Pages for people: they hold what was seen, escape it, and load nothing from elsewhere."""

import os
import re
from datetime import UTC, datetime

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.drift.decision import decide
from tasks.drift.report import drift_report, lens_page
from tasks.records import Finding, Health, LensReading, Payload, Request

LOADED = re.compile(rb"""<(?:script|link|img|iframe)[^>]+(?:src|href)\s*=\s*["']https?://""")


def requests(payloads: list[Payload]) -> list[Request]:
    time = datetime(2026, 3, 1, tzinfo=UTC)
    return [Request(f"r{i}", time, "t", "docs", "en" if i % 3 else "ja", one) for i, one in enumerate(payloads)]


TEXTS: list[Payload] = [f"text {'long ' * (i % 7)}{i}" for i in range(60)]
IMAGES: list[Payload] = list(np.random.default_rng(0).random((60, 1, 4, 4), np.float32))


@pytest.mark.parametrize(("payloads", "column"), [(TEXTS, b"punctuation"), (IMAGES, b"standard deviation")])
def test_evidently_reports_on_texts_and_on_tensors(payloads: list[Payload], column: bytes) -> None:
    page = drift_report(requests(payloads[:30]), requests(payloads[30:])).html
    assert page.lstrip()[:100].lower().startswith((b"<!doctype", b"<html"))
    assert column in page
    assert not LOADED.search(page)
    assert os.environ["DO_NOT_TRACK"]


def test_a_report_on_nothing_is_refused() -> None:
    with pytest.raises(BadInput, match="0 current requests"):
        drift_report(requests(TEXTS), [])


def test_the_lens_page_shows_decision_reasons_and_findings() -> None:
    finding = Finding("layer conv2", 0.31, 0.02, True, "conv2: 12 % above amax")
    readings = [LensReading("range", Health.DEGRADED, (finding,), 256), LensReading("safety", Health.FINE, (), 0)]
    page = lens_page(decide(readings, window_digest="abc123")).decode()
    for shown in ("Decision: recalibrate", "abc123", "conv2: 12 % above amax", "layer conv2", "0.31", "No figures."):
        assert shown in page
    assert not LOADED.search(page.encode())


def test_what_users_sent_is_escaped() -> None:
    finding = Finding("language=<script>", 1, 0, True, "<script>alert(1)</script>")
    page = lens_page(decide([LensReading("input", Health.DEGRADED, (finding,), 1)], window_digest="<b>")).decode()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)" in page
