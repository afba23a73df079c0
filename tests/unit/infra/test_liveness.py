"""A process is taken for gone only when that is certain."""

import json
import subprocess
import sys

import pytest

from infra.liveness.process import identity, is_gone

SLEEP = "import time; time.sleep(60)"


def test_this_process_is_not_gone() -> None:
    assert not is_gone(identity())


def test_a_killed_process_is_gone_even_before_it_is_reaped() -> None:
    code = (
        "from infra.liveness.process import identity; import json; print(json.dumps(identity()), "
        "flush=True);" + SLEEP
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        who = json.loads(other.stdout.readline())
        assert not is_gone(who)
        other.kill()
        other.wait()
        assert is_gone(who)


def test_a_number_that_was_used_again_is_gone() -> None:
    assert is_gone({**identity(), "started": 1})


@pytest.mark.parametrize(
    "who",
    [
        None,
        "1234",
        {},
        {"place": "elsewhere", "process": 1, "started": 1},
        {**identity(), "started": None},
    ],
)
def test_whatever_cannot_be_known_may_still_run(who: object) -> None:
    assert not is_gone(who)
