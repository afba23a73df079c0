"""What the process that serves the schedules writes to its log."""

import logging

import pytest

from flows.commands.serving import SaidOnce


def test_what_goes_wrong_again_and_again_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test of serving")
    log.addFilter(SaidOnce())
    for model in ("a", "a", "b", "a"):
        log.error("%s is not scheduled: %s", model, "damaged")
    assert [one.getMessage() for one in caplog.records] == [
        "a is not scheduled: damaged",
        "b is not scheduled: damaged",
    ]
