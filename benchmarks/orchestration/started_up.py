"""`requant up`: from cold to healthy, idle memory, and how soon a person sees what was clicked.

`python -m benchmarks.orchestration.started_up FOLDER` writes the workspace.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks.harness.table import Goal, ResultTable, column
from benchmarks.orchestration.commands import PACKAGES, ROOT, run_python, unpack
from benchmarks.orchestration.served import MODEL, REGISTRATION, SPEC
from benchmarks.orchestration.tiny_releases import release_numbered
from infra.canonical import canonical
from infra.settings import Settings, use_workspace
from infra.stores import layout
from tasks.promotion.acts.promoting import promote

BASE = "d5bea46"
"""The last commit whose `up` started every server at once."""
ROUNDS, QUICK_ROUNDS = 3, 1
IDLE_S, QUICK_IDLE_S = 20.0, 5.0
CLICKS, QUICK_CLICKS = 9, 5
COLD, MEMORY, CLICK_S = 0.5, 0.7, 2.0
LONGEST_S = 240.0
PORTS = {
    f"REQUANT_{name}_PORT": "0" for name in ("PREFECT", "MLFLOW", "CONSOLE", "EVIDENTLY", "GATEWAY")
}


@dataclass(frozen=True, slots=True)
class UpRow:
    """One figure of `requant up`."""

    what: str = column("figure")
    before: float | None = column("before", ".2f")
    now: float = column("now", ".2f")


@dataclass(frozen=True, slots=True)
class Start:
    """One start of everything."""

    seconds: float  # until `up` told its addresses: each service answered, or waits for a visit
    memory: float  # MB, the proportional set size of all its processes


@dataclass(frozen=True, slots=True)
class Click:
    """Seconds from confirming a rollback until a browser was sent what it asked for."""

    progress: float  # the run is at work
    digest: float  # the ledger entry with the digest that serves now


def measure(quick: bool, base: str = BASE) -> ResultTable:
    """Measure this checkout's `up` beside that of the commit `base`, in turns.

    Each start is of fresh processes, after one that brought files into memory. The workspace has
    one model with two releases.

    Raises:
        ValueError: for an unknown commit.
    """
    rounds, idle = (QUICK_ROUNDS, QUICK_IDLE_S) if quick else (ROUNDS, IDLE_S)
    orders = QUICK_CLICKS if quick else CLICKS
    with tempfile.TemporaryDirectory() as folder:
        earlier, workspace = Path(folder, "earlier"), Path(folder, "workspace")
        unpack(base, earlier, (*PACKAGES, "dashboards"))
        run_python(ROOT, workspace, ["-m", "benchmarks.orchestration.started_up", str(workspace)])
        places = {earlier: Path(folder, "before"), ROOT: Path(folder, "now")}
        for checkout, place in places.items():
            shutil.copytree(workspace, place)
            _start(checkout, place, 0)
        turns = [
            [_start(checkout, place, idle) for checkout, place in places.items()]
            for _ in range(rounds)
        ]
        before, now = zip(*turns, strict=True)
        with _up(ROOT, places[ROOT]) as (_, output):
            clicks = [_rolled_back(output, str(1 + turn % 2)) for turn in range(orders + 1)][1:]
            page = _first_visit(output)
    return _table(before, now, clicks, page)


def _table(
    before: Sequence[Start], now: Sequence[Start], clicks: Sequence[Click], page: float
) -> ResultTable:
    cold, memory = (
        [median(getattr(start, name) for start in starts) for starts in (before, now)]
        for name in ("seconds", "memory")
    )
    progress, digest = (
        median(getattr(click, name) for click in clicks) for name in ("progress", "digest")
    )
    rows = [
        UpRow("`requant up` from cold to healthy, s", *cold),
        UpRow("idle memory of all its processes, MB", *memory),
        UpRow("first visit of MLflow after that, s", None, page),
        UpRow("rollback confirmed until its run is at work, s", None, progress),
        UpRow("rollback confirmed until the served digest is shown, s", None, digest),
    ]
    goals = [
        Goal("cold to healthy: fraction of before:", COLD, cold[1] / cold[0], "at most"),
        Goal("idle memory: fraction of before:", MEMORY, memory[1] / memory[0], "at most"),
        Goal("click to first progress: s:", CLICK_S, progress, "at most"),
        Goal("rollback to the served digest: s:", CLICK_S, digest, "at most"),
    ]
    return ResultTable("up", "`requant up`, medians", rows, goals)


def _start(checkout: Path, workspace: Path, idle: float) -> Start:
    with _up(checkout, workspace) as (process, output):
        seconds = output.seconds
        time.sleep(idle)
        family = [process, *process.children(recursive=True)]
        return Start(seconds, sum(member.memory_full_info().pss for member in family) / 1e6)


@dataclass(frozen=True, slots=True)
class Told:
    """What `up` printed once everything answered."""

    text: str
    seconds: float

    def address(self, title: str) -> str:
        """Return where a service listens."""
        found = re.search(rf"^{title}\s+(http://127\.0\.0\.1:\d+)", self.text, re.M)
        if found is None:
            raise RuntimeError(f"`up` told no address of {title}: {self.text}")
        return found[1]

    @contextmanager
    def browser(self) -> Iterator[httpx.Client]:
        """Open a client that followed the link of the console."""
        console, link = self.address("console"), re.search(r"http://\S+login=\S+", self.text)
        own = {"Origin": console}
        with httpx.Client(base_url=console, headers=own, timeout=LONGEST_S) as client:
            client.get(link[0] if link else console)
            yield client


@contextmanager
def _up(checkout: Path, workspace: Path) -> Iterator[tuple[psutil.Process, Told]]:
    kept = {name: value for name, value in os.environ.items() if "REQUANT" not in name}
    variables = {"REQUANT_WORKSPACE": str(workspace), "PYTHONPATH": str(checkout)}
    unbuffered = {"PYTHONUNBUFFERED": "1"}
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "up"],
        cwd=checkout,
        env={**kept, **PORTS, **variables, **unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield psutil.Process(process.pid), _told(process, began)
    finally:
        process.terminate()
        process.communicate(timeout=LONGEST_S)


def _told(process: subprocess.Popen[str], began: float) -> Told:
    lines = []
    for line in process.stdout or ():
        lines.append(line)
        if "Ctrl-C" in line:
            return Told("".join(lines), time.perf_counter() - began)
    raise RuntimeError(f"`requant up` ended: {''.join(lines)}")


def _rolled_back(output: Told, version: str) -> Click:
    """Confirm a rollback as the page's form does, and read the stream that the browser reads."""
    with output.browser() as browser:
        page = browser.get(f"/models/{MODEL}/rollback", params={"to": version}).text
        form = re.search(r'name="form_id" value="([^"]+)"', page.partition('aria-label="Roll')[2])
        wanted = re.search(rf"version {version}.*?digest\">([0-9a-f]{{16}})", page, re.S)
        if form is None or wanted is None:
            raise RuntimeError(f"there is no form to roll back to version {version}: {page}")
        sent = {"form_id": form[1], "to": version, "reason": "measured"}
        began = time.perf_counter()
        place = browser.post(f"/models/{MODEL}/rollback", data=sent).headers["location"]
        progress: float | None = None
        with browser.stream("GET", f"{place}/events") as stream:
            for line in stream.iter_lines():
                now = time.perf_counter() - began
                if progress is None and re.search(r"data-state=..(Running|Completed)", line):
                    progress = now
                if progress is not None and wanted[1] in line:
                    return Click(progress, now)
    raise RuntimeError(f"the run of {place} ended without the digest {wanted[1]}")


def _first_visit(output: Told) -> float:
    """Return the seconds until MLflow answers whoever is the first to ask it."""
    with output.browser() as browser:
        began = time.perf_counter()
        known = dict(browser.cookies)
        httpx.get(output.address("MLflow"), cookies=known, timeout=LONGEST_S).raise_for_status()
        return time.perf_counter() - began


def prepare(chosen: Settings) -> None:
    """Fill this process's empty workspace: a model with two releases that were champions."""
    store = chosen.store()
    store.put(layout.registration_file(MODEL, REGISTRATION, "spec.yaml"), SPEC.encode())
    store.put(layout.registration_in_use(MODEL), canonical({"version": 1, "digest": REGISTRATION}))
    first = release_numbered(chosen, 1)
    promote(first, None, "a person", "the first")
    promote(release_numbered(chosen, 2), first.version, "a person", "the second")


if __name__ == "__main__":
    prepare(use_workspace(Path(sys.argv[1])))
