"""The command line, in this process: what it prints as JSON, and its exit codes."""

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(
    workspace: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Call]:
    from flows.cli import main
    from infra.processes.interruption import ASKED

    before = {asked: signal.getsignal(asked) for asked in ASKED}

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["requant", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    yield run
    for asked, handler in before.items():
        signal.signal(asked, handler)


def read(answer: tuple[int, str]) -> Any:
    code, out = answer
    assert code == 0, out
    return json.loads(out)


def test_a_model_is_registered_listed_and_given_traffic(call: Call, tmp_path: Path) -> None:
    assert read(call("init", "--json"))["store"].startswith("file://")
    added = read(call("model", "add", str(EXAMPLES / "digits" / "model.yaml"), "--json"))
    assert added["sites"] == 4
    again = read(call("model", "add", str(EXAMPLES / "digits" / "model.yaml"), "--json"))
    assert again["digest"] == added["digest"]
    assert [one["name"] for one in read(call("model", "list", "--json"))] == ["digits"]
    path = tmp_path / "requests.jsonl"
    rows = [
        {"request_id": str(i), "time": "2026-01-01T00:00:00Z", "tensor": one.payload.tolist()}  # type: ignore[union-attr]
        for i, one in enumerate(images(1.0)[:5])
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    taken = read(call("traffic", "import", str(path), "--model", "digits", "--json"))
    assert (taken["accepted"], taken["rejected"]) == (5, 0)
    (view,) = read(call("status", "digits", "--json"))
    assert view["champion"] is None
    assert read(call("history", "digits", "--json")) == []


def test_the_doctor_finds_a_fresh_workspace_sound(call: Call) -> None:
    checks = {one["what"]: one for one in read(call("doctor", "--json"))}
    assert checks["object store"]["state"] == "fine"
    assert checks["registry"]["state"] == "fine"
    assert checks["target onnxruntime-cpu"]["state"] == "fine"
    assert not [one for one in checks.values() if one["state"] == "broken"]


@pytest.mark.parametrize(
    "arguments", [("maintain",), ("rollback", "digits"), ("nonsense",), ("status", "--what")]
)
def test_wrong_usage_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2


def test_an_error_is_json_too(call: Call) -> None:
    code, out = call("status", "nope", "--json")
    assert code == 2
    assert json.loads(out)["kind"] == "NotFound"


@pytest.mark.parametrize(
    "arguments", [("-h",), ("model", "-h"), ("traffic", "import", "-h"), ("maintain", "-h")]
)
def test_every_command_explains_itself(call: Call, arguments: tuple[str, ...]) -> None:
    code, out = call(*arguments)
    assert code == 0
    assert "Usage:" in out


def test_the_version_is_the_installed_one(call: Call) -> None:
    from importlib.metadata import version

    assert call("--version") == (0, f"requant {version('requant')}\n")


def test_the_shell_completes_commands_and_model_names(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.models.catalog import register

    register(EXAMPLES / "digits" / "model.yaml")
    # The shell is looked for among the processes above, of which a test may have none.
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    code, out = call("--show-completion")
    assert (code, "COMPREPLY" in out) == (0, True)
    monkeypatch.setenv("_REQUANT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_CWORD", "2")
    for words, wanted in (("requant maintain di", "digits"), ("requant rollback x", "")):
        monkeypatch.setenv("COMP_WORDS", words)
        assert call()[1].split() == wanted.split()


def test_the_commands_that_prepare_say_what_comes_next(call: Call) -> None:
    assert call("init")[1].splitlines()[-1] == "next: requant model add SPEC.yaml"
    said = call("model", "add", str(EXAMPLES / "digits" / "model.yaml"))[1].splitlines()[-1]
    assert re.fullmatch(
        r"next: requant traffic import PATH --model digits, or requant traffic simulate digits "
        r"--scenario FILE; "
        r"then requant maintain digits",
        said,
    )


def test_an_interrupted_command_ends_with_130_and_says_how_to_go_on(
    call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "tasks.models.catalog.register", lambda _: signal.raise_signal(signal.SIGINT)
    )
    spec = str(EXAMPLES / "digits" / "model.yaml")
    monkeypatch.setattr(sys, "argv", ["requant", "model", "add", spec])
    from flows.cli import main

    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err == (
        f"requant: interrupted while taking in the model of {spec}; "
        f"run `requant model add {spec}` again\n"
    )
