"""`requant up` where it, or a page of it, was killed."""

from __future__ import annotations

import re
from pathlib import Path

import psutil
import pytest

from infra.settings import Settings
from tests.integration.test_up import Up, answers, parts_of, running, until, visit

pytestmark = pytest.mark.timeout(400)


def end_evidently(up: Up, told: str) -> None:
    """Kill it, and wait until `up` tells of it.

    It may answer a first visit a moment before `up` has seen it begin. Killed there it sleeps on,
    as one that never began, and the next visit starts it.
    """

    def said(sentence: str) -> int:
        return up.output.read_text().count(sentence)

    asleep = "Evidently did not start at its first visit"
    while not said(told):
        before = said(asleep)
        parts_of(up, "evidently")[0].kill()
        until(lambda before=before: said(told) or said(asleep) > before)
        if not said(told):
            visit(up, "Evidently")


def test_one_that_was_killed_leaves_nothing_and_in_the_next_a_lost_page_comes_back_once(
    workspace: Settings, tmp_path: Path
) -> None:
    with running(workspace, tmp_path / "first.log") as first:
        family = psutil.Process(first.process.pid).children(recursive=True)
        assert len(family) >= 5
        first.process.kill()
        _, alive = psutil.wait_procs(family, timeout=60)
        assert alive == []
    assert (workspace.root / "run" / "services.json").exists(), "its note is stale now"
    with running(workspace, tmp_path / "second.log") as second:
        for title in ("MLflow", "Evidently"):
            visit(second, title)
        end_evidently(second, "evidently stopped (exit -9) and is started again")
        until(lambda: answers(second.addresses["Evidently"], workspace))
        parts_of(second, "evidently")[0].kill()  # at once again: it is at fault itself
        family = psutil.Process(second.process.pid).children(recursive=True)
        assert second.process.wait(90) == 2
        _, alive = psutil.wait_procs(family, timeout=5)
        assert alive == []
    ended = r"(evidently stopped \(exit -9\), so everything did|while starting \(exit -9\)): see "
    assert re.search(ended + re.escape(str(workspace.root)), second.output.read_text())
