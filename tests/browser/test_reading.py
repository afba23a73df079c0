"""Pages as a person reads them: without a script, by keyboard, in the dark, in another zone."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import combinations, product
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from benchmarks.orchestration.console import prepare
from flows.orchestration.services import announced
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


def test_a_neighbour_that_starts_is_waited_for_on_a_page_that_goes_on_by_itself(
    chromium: Browser, link: str, shared_workspace: Settings
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, tab(chromium, link) as page:
        port = door.getsockname()[1]
        with announced(shared_workspace, {"mlflow": f"http://127.0.0.1:{port}"}):
            waits = link.partition("/?")[0] + "/beside/MLflow"
            assert "MLflow is starting" in page.request.get(waits).text()
            page.goto(waits, wait_until="commit")
        threading.Thread(target=answer_all, args=[door], daemon=True).start()
        expect(page.get_by_text("MLflow answers")).to_be_visible()
        assert page.url == f"http://127.0.0.1:{port}/"


def answer_all(door: socket.socket) -> None:
    """Answer everybody who waits at a door, until it is closed."""
    words = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\nMLflow answers"
    with suppress(OSError):
        while True:
            caller, _ = door.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(words)


PLOT = "[data-plot=over-time]"
AXES = f"document.querySelector('{PLOT}')._fullLayout"
FIGURE = re.compile(r"^(\S+) of \S+, all$")


def until(condition: Callable[[], bool]) -> None:
    """Wait until it holds: the page's policy lets no driver wait by a script of its own."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def drawn(page: Page, link: str) -> Page:
    """Open the model, and wait until its plot of windows is drawn."""
    page.goto(link.partition("/?")[0] + MODEL)
    expect(page.locator(f"{PLOT} .cartesianlayer")).to_be_visible()
    return page


def span(page: Page) -> list[float]:
    """Return where the time axis begins and ends, in milliseconds."""
    return [float(end) for end in page.evaluate(f"{AXES}.xaxis.range.map(end => +new Date(end))")]


def test_a_plot_zooms_all_its_rows_at_once_and_back(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        drawn(page, link)
        rows = page.evaluate(f"Object.keys({AXES}).filter(name => /^yaxis/.test(name)).length")
        assert rows > 1
        traces = f"document.querySelector('{PLOT}')._fullData"
        assert page.evaluate(f"[...new Set({traces}.map(trace => trace.xaxis))]") == ["x"]
        whole = span(page)
        area = page.locator(f"{PLOT} .nsewdrag").first
        area.scroll_into_view_if_needed()
        box = area.bounding_box()
        assert box is not None
        middle = box["y"] + box["height"] / 2
        page.mouse.move(box["x"] + box["width"] * 0.4, middle)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * 0.6, middle, steps=5)
        page.mouse.up()
        width = whole[1] - whole[0]
        until(lambda: span(page)[0] > whole[0] + 0.2 * width)
        zoomed = span(page)
        assert 0.1 < (zoomed[1] - zoomed[0]) / width < 0.3
        page.mouse.dblclick(box["x"] + box["width"] * 0.5, middle)
        until(lambda: span(page) == pytest.approx(whole, abs=width / 100))


def test_a_plot_stays_whole_when_its_window_changes(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        drawn(page, link)
        shown = page.locator(PLOT)
        for size in (NARROW, {"width": 1440, "height": 900}):
            page.set_viewport_size(size)
            until(lambda wide=size["width"]: shown.evaluate("e => e.clientWidth") > 0.7 * wide)
            page.wait_for_timeout(500)  # Plotly waits for the last of several changes
            boxes = shown.evaluate("e => [e.clientHeight, e.querySelector('svg').clientHeight]")
            assert boxes[0] >= boxes[1] > 400


def test_a_plot_tells_under_the_pointer_what_its_table_says(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        drawn(page, link)
        point = page.locator(f"{PLOT} .scatterlayer .points path").first
        point.hover(force=True)
        told = page.locator(f"{PLOT} .hoverlayer")
        expect(told).to_contain_text("of all (limit 0.9500)")
        page.get_by_text("Table of the 39 newest windows").click()
        shown = page.get_by_role("region", name="Windows").locator("tbody tr")
        expect(shown).to_have_count(39)
        newest = shown.first.locator("td .muted").all_inner_texts()
        figures = [match[1] for words in newest if (match := FIGURE.match(words))]
        traces = f"document.querySelector('{PLOT}').data"
        named = f"{traces}.filter(trace => trace.name !== 'limit' && trace.customdata)"
        last = page.evaluate(f"{named}.map(trace => trace.y.at(-1))")
        assert figures
        assert [float(figure) for figure in figures] == pytest.approx(last, rel=1e-3)


def test_a_plot_takes_the_colours_of_the_readers_scheme_also_when_it_changes(
    chromium: Browser, link: str
) -> None:
    ink = "getComputedStyle(document.documentElement).getPropertyValue('--ink').trim()"
    with tab(chromium, link, color_scheme="dark") as page:
        drawn(page, link)
        seen = []
        for scheme in ("dark", "light"):
            page.emulate_media(color_scheme=scheme)
            until(lambda: page.evaluate(f"{AXES}.font.color === {ink}"))
            seen.append(page.evaluate(f"{AXES}.font.color"))
            line = page.locator(f"{PLOT} .xtick text").first.evaluate(
                "text => getComputedStyle(text).fill"
            )
            paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert contrast(line, paper) > 4.5
        assert seen[0] != seen[1]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_a_plot_of_one_point_shows_it_and_one_of_none_says_so(chromium: Browser, link: str) -> None:
    with tab(chromium, link) as page:
        kept = page.request.get(link.partition("/?")[0] + f"/api{MODEL}/over-time").json()
        for windows, words in (
            (kept["windows"][-1:], None),
            ([{**kept["windows"][-1], "figures": {}}], "no figure of it was kept"),
        ):
            empty = {"times": [], "names": [], "values": [], "left_out": 0}
            document = {**kept, "windows": windows, "saturation": empty, "groups": empty}
            page.route("**/over-time*", partial(answered, document))
            page.goto(link.partition("/?")[0] + MODEL)
            if words is None:
                points = page.locator(f"{PLOT} .scatterlayer .points path")
                expect(points.first).to_be_visible()
            else:
                expect(page.locator(PLOT)).to_contain_text(words)
            page.unroute("**/over-time*")


def test_labels_of_a_plot_cover_neither_each_other_nor_a_point(
    chromium: Browser, link: str
) -> None:
    points = [
        {
            "name": str(10 + n),
            "recipe": "int8-max",
            "x": 0.3 + n % 5 / 50,
            "y": 0.97 + n // 5 / 1000,
        }
        | {"passed": True, "dominated": n > 3}
        for n in range(20)
    ]
    front = {"front": points, "front_axes": ["latency-ratio", "cosine"], "version": "17"}
    marks = [
        {
            "time": f"2026-03-01T{hour:02}:00:00+00:00",
            "kind": "promotion",
            "version": str(100 + hour),
        }
        for hour in range(24)
    ]
    with tab(chromium, link) as page:
        drawn(page, link)
        kept = page.request.get(link.partition("/?")[0] + f"/api{MODEL}/over-time").json()
        names = [f"domain=a domain of many letters, number {n}" for n in range(20)]
        groups = {"names": names, "times": [marks[0]["time"]], "values": [[1]] * len(names)}
        over_time = kept | {"marks": marks, "groups": groups}
        for draw, data, words, most in (
            ("drawFront", front, ".textpoint text", 20),
            ("drawOverTime", over_time, ".annotation-text:has-text('▲')", 24),
            ("drawOverTime", over_time, GROUP_WORDS, 20),
        ):
            page.evaluate(f"data => {draw}(document.querySelector('{PLOT}'), data)", data)
            labels = page.locator(f"{PLOT} {words}")
            until(lambda shown=labels: shown.count() > 0)
            boxes = [box for label in labels.all() if (box := label.bounding_box())]
            assert 0 < len(boxes) <= most
            assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
            if draw == "drawFront":
                assert "17" in labels.all_text_contents()
                points_drawn = page.locator(f"{PLOT} .points path").all()
                dots = [box for dot in points_drawn if (box := dot.bounding_box())]
                assert len(dots) == 20
                assert not [pair for pair in product(boxes, dots) if overlap(*pair, slack=4)]


GROUP_WORDS = ".annotation-text:has-text('domain')"
"""What colours mean, and what is above it."""


def overlap(one: Any, other: Any, slack: float = 2) -> bool:
    """Return whether two boxes share more than their edges."""
    return all(
        one[start] + one[size] > other[start] + slack
        and other[start] + other[size] > one[start] + slack
        for start, size in (("x", "width"), ("y", "height"))
    )


def answered(document: Any, route: Route) -> None:
    """Answer a request with a document instead of its server."""
    route.fulfill(json=document)


def test_a_plot_whose_figures_do_not_come_says_so_beside_its_table(
    chromium: Browser, link: str
) -> None:
    with tab(chromium, link) as page:
        page.route("**/over-time*", lambda route: route.fulfill(status=503, body="away"))
        page.goto(link.partition("/?")[0] + MODEL)
        expect(page.locator(PLOT)).to_contain_text("cannot be drawn")
        expect(page.get_by_text("Table of the 39 newest windows")).to_be_visible()
