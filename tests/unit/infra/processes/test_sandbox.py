"""Generated code runs apart, and whatever it does, it only passes or fails."""

import time

import pytest

from infra.processes.sandbox import Ran, run_checks

GOOD = "def f(x):\n    return x + 1\n"


def test_a_right_program_passes() -> None:
    assert run_checks(GOOD, ["f(1) == 2", "f(-1) == 0"]) == Ran(True, True)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (GOOD.replace("+", "-"), Ran(True, False)),
        ("def f(x:\n", Ran(False, False)),
        ("raise ValueError", Ran(True, False)),
        ("import sys; sys.exit(0)", Ran(True, False)),
        ("import os; os._exit(0)", Ran(False, False)),
        ('print(\'{"compiles": true, "passes": true}\')', Ran(True, False)),
        ("x = bytearray(2 << 30)", Ran(True, False)),
        ("open('left.txt', 'w').write('x')", Ran(True, False)),
    ],
)
def test_a_wrong_one_does_not(program: str, expected: Ran) -> None:
    found = run_checks(program, ["f(1) == 2"])
    assert found.passes is False
    assert found.compiles is expected.compiles


def test_a_program_that_multiplies_itself_does_not_pass_and_leaves_nothing_running() -> None:
    started = time.perf_counter()
    assert run_checks("import os, time\nos.fork()\ntime.sleep(60)", ["True"]).passes is False
    assert time.perf_counter() - started < 30


def test_a_loop_is_stopped() -> None:
    started = time.perf_counter()
    assert run_checks("while True: pass", ["True"]).passes is False
    assert time.perf_counter() - started < 30


def test_nothing_of_our_environment_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    assert run_checks("import os", ["'SECRET' not in os.environ"]) == Ran(True, True)


def test_a_program_without_a_check_has_not_passed() -> None:
    assert run_checks(GOOD, []) == Ran(True, False)
