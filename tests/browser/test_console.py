"""One person's afternoon, with a real Prefect server, deployments, MLflow, engines and browser."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, Route, ViewportSize, expect, sync_playwright

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images, serve

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 390, "height": 844}
RUN_S = 90
"""A run's longest time: its process alone takes seconds to start, on a busy machine many."""

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        CHROMIUM is None, reason="no chromium: bash tests/services/packages.sh installs it"
    ),
]


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """One of our modules as a process, ended by its id."""
    started = subprocess.Popen(
        [sys.executable, *command],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


@pytest.fixture(scope="module")
def digits(shared_workspace: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Register the model with a day of traffic.

    Latency is left to the benchmarks, because this machine is busy with us.
    """
    from tasks.models.catalog import register

    folder = tmp_path_factory.mktemp("spec") / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    spec = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(spec.replace("latency_ratio: 10.0", "latency_ratio: 100.0"))
    register(folder / "model.yaml")
    serve(shared_workspace, "digits", 0, images(0.5, 1.0))
    return shared_workspace


@pytest.fixture(scope="module")
def prefect(digits: Settings) -> Iterator[str]:
    """Start a server with its scheduler."""
    from flows.orchestration.runtime import server, using

    with server(digits, services=True) as address, using(address, digits.secret().basic):
        yield address


@pytest.fixture(scope="module")
def console(prefect: str, digits: Settings) -> Iterator[str]:
    """Return the link that opens the console.

    Deployments are served, and there is a first champion.
    """
    deployments = process("-m", "flows.commands.serving", PREFECT_RUNNER_POLL_FREQUENCY="1")
    page = process(
        "-m",
        "dashboards.console",
        "--port",
        "0",
        REQUANT_ACTOR="<b>Ada</b>",
        **reached(prefect, digits),
    )
    with deployments, page as started:
        from flows.requantize import requantize

        outcome = requantize("digits", recipe="int8-smooth", reason="the first champion")
        assert outcome.version == "1", outcome.reason
        assert started.stdout is not None
        yield started.stdout.readline().strip()


@pytest.fixture
def page(console: str, tmp_path: Path) -> Iterator[Page]:
    """Open a tab that has logged in, and leave a picture of how it ended.

    Complaints of the browser fail the test.
    """
    complaints: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        tab = browser.new_page()
        tab.on("console", lambda message: complaints.append(f"{message.text} {message.location}"))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(console)
        try:
            yield tab
        finally:
            tab.screenshot(path=tmp_path / "console.png", full_page=True)
            print(f"{tab.url} at the end: {tmp_path / 'console.png'}")
            browser.close()
    cut_off = ("/events", "/progress")  # by us: `without_events`
    assert [text for text in complaints if not any(part in text for part in cut_off)] == []


def test_a_person_requantizes_approves_and_rolls_back(
    page: Page, digits: Settings, prefect: str
) -> None:
    assert "login" not in page.url
    held_to_the_rules(page)
    page.get_by_role("link", name="digits").click()
    expect(page.locator(".plot svg").first).to_be_visible()
    held_to_the_rules(page)
    page.get_by_role("link", name="Re-quantize").click()
    ask_for_a_candidate(page)
    assert "waits for approval" in watched(page)
    assert runs_of(prefect, digits, "requantize") == 2, (
        "the first champion's, and one for the form that was posted three times"
    )
    assert digits.registry().aliases("digits") == {"champion": "1", "challenger": "2"}

    held_to_the_rules(page)
    expect(page.get_by_role("table").first).to_contain_text("int8-percentile")

    page.get_by_role("link", name="Open digits").click()
    waiting = page.get_by_role("region", name="Waiting candidate")
    waiting.get_by_role("link", name="version 2").click()
    expect(page.get_by_role("table").first).to_contain_text("accuracy-drop")
    held_to_the_rules(page)
    page.get_by_label("Reason").fill("the gates convince me")
    page.get_by_role("button", name="Approve").click()
    watched(page)
    assert digits.registry().aliases("digits") == {"champion": "2", "previous": "1"}

    page.get_by_role("link", name="Open digits").click()
    expect(page.get_by_role("region", name="Champion")).to_contain_text("version 2")
    page.get_by_role("link", name="Roll back").click()
    held_to_the_rules(page)
    form = page.get_by_role("form", name="Roll back")
    form.get_by_label("Reason").fill("users complain")
    asked = without_events(page)
    form.get_by_role("button").click()
    watched(page)
    assert asked == {"events": 1, "refused": 1}, "it asked on, though the first answer was an error"
    assert digits.registry().aliases("digits") == {"champion": "1", "previous": "2"}

    page.get_by_role("link", name="Open digits").click()
    expect(page.get_by_role("region", name="Champion")).to_contain_text("version 1")
    history = page.get_by_role("table").last
    for words in ("rolled-back", "users complain", "the gates convince me", "<b>Ada</b>"):
        expect(history).to_contain_text(words)

    for name in ("Runs", "Audit", "Health"):
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        held_to_the_rules(page)
    expect(page.get_by_role("region", name="Workers")).to_contain_text("online")


def held_to_the_rules(page: Page) -> None:
    """No rule of axe-core is broken, and no page is wider than its window, wide or narrow."""
    for size in (NARROW, WIDE):
        page.set_viewport_size(size)
        broken = [
            (found["id"], [node["target"] for node in found["nodes"]])
            for found in Axe().run(page).response["violations"]
        ]
        assert not broken, page.url
        wider = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wider) <= 0, page.url


def without_events(page: Page) -> dict[str, int]:
    """Let no run's stream through from now on, and fail the first question asked instead of it."""
    asked = {"events": 0, "refused": 0}

    def cut(route: Route) -> None:
        asked["events"] += 1
        route.abort()

    def refuse_once(route: Route) -> None:
        if asked["refused"]:
            route.continue_()
            return
        asked["refused"] = 1
        route.fulfill(status=503, body="<p data-state=Failed data-finished=true>a proxy's page</p>")

    page.route("**/runs/*/events", cut)
    page.route("**/runs/*/progress", refuse_once)
    return asked


def ask_for_a_candidate(page: Page) -> None:
    """Fill the form in, and post it three times.

    Twice it goes at once behind the page's back, then by its button.
    """
    form = page.get_by_role("form", name="Re-quantize now")
    form.get_by_label("Recipe").select_option("int8-percentile")
    form.get_by_label("Reason").fill("to see another recipe")
    form.get_by_label("waits for approval").check()
    filled = "new FormData(form, form.querySelector('[name=form_id]'))"
    post = f"fetch(form.action, {{method: 'POST', body: {filled}, redirect: 'manual'}})"
    form.evaluate(f"form => Promise.all([{post}, {post}])")
    form.get_by_role("button", name="Re-quantize now").click()


def watched(page: Page) -> str:
    """Watch a run to its end without a reload, as its page refreshes itself.

    The last sentence is returned.
    """
    page.wait_for_url("**/runs/*")
    page.evaluate("window.loaded = 'once'")
    page.wait_for_selector("[data-state=Running]", timeout=RUN_S * 1000)
    page.wait_for_selector("[data-finished=true]", timeout=RUN_S * 1000)
    assert page.evaluate("window.loaded") == "once"
    assert page.locator("[data-state]").get_attribute("data-state") == "Completed", page.inner_text(
        "main"
    )
    return page.inner_text(".doing")


def reached(prefect: str, digits: Settings) -> dict[str, str]:
    """Return what tells a process where Prefect is."""
    return {"PREFECT_API_URL": prefect, "PREFECT_API_AUTH_STRING": digits.secret().basic}


def runs_of(prefect: str, digits: Settings, flow: str) -> int:
    """Return how often a flow was started, as Prefect counts."""
    known = {"Authorization": f"Bearer {digits.secret().key}"}
    named = {"flows": {"name": {"any_": [flow]}}}
    answer = httpx.post(f"{prefect}/flow_runs/count", json=named, headers=known)
    return int(answer.raise_for_status().json())
