"""Generated code runs apart, and whatever it does, it only passes or fails."""

import socket
import subprocess
import time
from pathlib import Path

import pytest

from infra.processes import sandbox
from infra.processes.sandbox import Ran, run_checks, why_not_isolated

needs_namespaces = pytest.mark.skipif(
    why_not_isolated() is not None, reason=str(why_not_isolated())
)

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
        ("import os; os._exit(0)", Ran(True, False)),
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


@pytest.mark.parametrize(
    "forged",
    [
        "import builtins\nbuiltins.all = builtins.bool = lambda *_: True",
        "import os\nfor fd in range(16):\n    try: os.write(fd, b'compiles\\n[\"True\"]')\n"
        "    except OSError: pass",
        "class Any:\n    __eq__ = __lt__ = __gt__ = lambda *_: True\nf = lambda _: Any()",
        "class Any(int):\n    __eq__ = lambda *_: True\nf = lambda _: Any(7)",
        "import gc\nfor x in gc.get_objects():\n"
        "    if type(x).__name__ == 'TextIOWrapper':\n        x.write('[\"True\"]')",
    ],
)
@pytest.mark.parametrize("check", ["False", "1 == 2", "f(1) == 2", "2 == f(1)"])
def test_a_program_cannot_write_its_own_outcome(forged: str, check: str) -> None:
    assert run_checks(forged, [check]).passes is False


@pytest.mark.parametrize(
    ("program", "check"),
    [
        ("f = lambda: {'a': [1, (2.5, None)]}", "f() == {'a': [1, (2.5, None)]}"),
        ("from fractions import Fraction\nf = lambda: Fraction(1, 2)", "f() == 0.5"),
        ("f = lambda: float('inf')", "f() > 10 ** 9"),
        ("f = lambda x: x", "1 < f(2) <= 2"),
        ("f = lambda: {1, 2}", "{2, 1} == f()"),
        ("f = lambda: 'b'", "f() != 'a'"),
        ("class P:\n    pass\nf = P", "isinstance(f(), P)"),
        ("f = lambda: [3, 1]", "sorted(f()) == [1, 3] "),
        ("f = g = lambda: object", "f() == g()"),
    ],
)
def test_right_answers_of_many_kinds_pass(program: str, check: str) -> None:
    assert run_checks(program, [check]) == Ran(True, True)


@needs_namespaces
def test_a_file_outside_cannot_be_read_or_written(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    marker.write_text("secret")
    reads = f"def f():\n    return open({str(marker)!r}).read()"
    assert run_checks(reads, ["f() == 'secret'"], isolated=False).passes is True
    assert run_checks(reads, ["f() == 'secret'"]).passes is False
    lists = "import os\ndef f():\n    return sorted(os.listdir('/'))"
    shown = "set(f()) <= {'bin', 'dev', 'lib', 'lib64', 'proc', 'root', 'tmp', 'usr', 'opt'}"
    assert run_checks(lists, [shown]).passes is True
    assert run_checks("import os\nos.remove('/usr/bin/env')", ["True"]).passes is False


@needs_namespaces
def test_a_local_listener_cannot_be_reached() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        asks = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\nx = 1"
        assert run_checks(asks, ["x == 1"], isolated=False).passes is True
        assert run_checks(asks, ["x == 1"]).passes is False


@needs_namespaces
def test_a_child_that_leaves_its_session_ends_with_the_program() -> None:
    stays = (
        "import os, time\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
        "        os.execv('/usr/bin/env', ['env', 'sleep', '86399'])\n"
        "time.sleep(0.3)\nx = 1"
    )
    run_checks(stays, ["x == 1"])
    time.sleep(0.3)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 86399" not in running.stdout


@needs_namespaces
def test_no_process_of_this_host_is_seen() -> None:
    sees = "import os\ndef f():\n    return [p for p in os.listdir('/proc') if p.isdigit()]"
    assert run_checks(sees, ["len(f()) <= 3"]).passes is True


def test_endless_output_takes_no_memory_here() -> None:
    floods = "import os\nwhile True:\n    os.write(3, b'x' * 65536)"
    assert run_checks(floods, ["True"], isolated=False).passes is False


def test_a_host_without_namespaces_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda _: None)
    assert "apt-get install bubblewrap" in str(why_not_isolated())
