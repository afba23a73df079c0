"""Pages as a person reads them: without a script, by keyboard, in the dark, in another zone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from benchmarks.orchestration.console import prepare
from infra.settings import Settings
from tests.browser.test_console import ARGUMENTS, CHROMIUM, NARROW

pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium: bash tests/services/packages.sh installs it"
    ),
]
MODEL = "/models/model-00"
PAGES = (
    "/",
    MODEL,
    f"{MODEL}/requantize",
    f"{MODEL}/rollback",
    f"{MODEL}/versions/1",
    f"{MODEL}/compare",
    "/runs",
    "/audit",
    "/health",
    "/?q=nothing-is-called-so",
    "/models/nobody",
)
"""Every page, one that is empty, and an error; no Prefect answers, and MLflow is empty."""


@pytest.fixture(scope="module")
def link(shared_workspace: Settings) -> Iterator[str]:
    """Start a console alone, on a model with decisions of weeks; return the link that opens it."""
    prepare(shared_workspace, 2, 40)
    started = subprocess.Popen(
        [sys.executable, "-m", "dashboards.console", "--port", "0"],
        env={**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert started.stdout is not None
    try:
        yield started.stdout.readline().strip()
    finally:
        started.terminate()
        started.wait(30)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def tab(chromium: Browser, link: str, **options: Any) -> Iterator[Page]:
    """Open a tab of its own that followed the link."""
    context = chromium.new_context(**options)
    page = context.new_page()
    page.goto(link)
    try:
        yield page
    finally:
        context.close()


def test_every_page_reads_the_same_without_a_script_in_utc(chromium: Browser, link: str) -> None:
    with tab(chromium, link, java_script_enabled=False) as page:
        for path in PAGES:
            page.goto(link.partition("/?")[0] + path)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            times = page.locator("time:visible").all_inner_texts()
            assert all(words.endswith("UTC") for words in times), path
            if path == MODEL:
                assert times
                page.get_by_text("Table of the 39 newest windows").click()
                expect(page.get_by_role("region", name="Windows")).to_be_visible()


def test_every_page_keeps_its_contrast_and_its_width_in_the_dark(
    chromium: Browser, link: str
) -> None:
    with tab(chromium, link, color_scheme="dark", viewport=NARROW) as page:
        for path in PAGES:
            page.goto(link.partition("/?")[0] + path)
            dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert dark == "rgb(17, 21, 28)"
            only = {"runOnly": ["color-contrast", "scrollable-region-focusable"]}
            assert Axe().run(page, options=only).response["violations"] == [], path
            wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert page.evaluate(wider) <= 0, path


def test_a_keyboard_alone_finds_and_opens_a_model(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        page.keyboard.press("Tab")
        skip = page.get_by_role("link", name="Skip to the content")
        expect(skip).to_be_focused()
        expect(skip).to_be_in_viewport()
        for _ in range(40):
            page.keyboard.press("Tab")
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
            if page.evaluate("document.activeElement.name") == "q":
                break
        page.keyboard.type("01")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=01**")
        expect(page.get_by_role("link", name="model-01")).to_be_visible()
        expect(page.get_by_role("link", name="model-00")).to_have_count(0)
        page.get_by_role("link", name="model-01").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=1)).to_have_text("model-01")


def test_times_are_the_viewers_and_utc_is_a_hover_away(chromium: Browser, link: str) -> None:
    with tab(chromium, link, timezone_id="Asia/Tokyo") as page:
        page.goto(link.partition("/?")[0] + MODEL)
        moment = page.locator("table time[data-local]").first
        shown = moment.evaluate("time => new Date(time.dateTime).toLocaleString('sv-SE')")
        assert moment.text_content() == shown
        title = str(moment.get_attribute("title"))
        assert title.endswith("UTC")
        assert shown not in title


def test_what_is_missing_is_said_and_what_holds_is_shown(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        expect(page.get_by_role("status")).to_contain_text("Prefect")
        expect(page.get_by_role("link", name="model-00")).to_be_visible()
        for path, words in (
            ("/?q=nothing-is-called-so", "No model"),
            ("/models/nobody", "nobody"),
            (f"{MODEL}/rollback", "nothing to roll back to"),
            (f"{MODEL}/versions/1", "keep no answers"),
            ("/audit?kind=refused", "No entry fits"),
        ):
            page.goto(link.partition("/?")[0] + path)
            expect(page.get_by_role("main")).to_contain_text(words)
