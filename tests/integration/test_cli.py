"""The command line, in this process: what it prints as JSON, and its exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from tests.integration.conftest import EXAMPLES, images

Call = Callable[..., tuple[int, str]]


@pytest.fixture
def call(workspace: Settings, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    from flows.cli import main

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["requant", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().out

    return run


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


@pytest.mark.parametrize("arguments", [("maintain",), ("rollback", "digits"), ("nonsense",), ("status", "--what")])
def test_wrong_usage_ends_with_2(call: Call, arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2


def test_an_error_is_json_too(call: Call) -> None:
    code, out = call("status", "nope", "--json")
    assert code == 2
    assert json.loads(out)["kind"] == "NotFound"
