"""Every built-in measure against labels, from a folder of files to a judged candidate, as typed."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml
from typer.testing import CliRunner

from infra.settings import Settings
from tests.builtin_models import CASES, TASKS, request, write_files, write_table
from tests.custom_models import SPEC

pytestmark = pytest.mark.timeout(300)


def typed(*words: str | Path) -> Any:
    from flows.cli import app

    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


def labels_of(name: str) -> list[object]:
    """Return what full precision says of each golden case, as labels."""
    from tasks.models.catalog import open_model

    return [TASKS[name]().label(outputs) for outputs in open_model(name).golden_records]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_folder_and_its_labels_become_a_judged_candidate(
    loop: Settings, tmp_path: Path, name: str
) -> None:
    task = TASKS[name]()
    for file, data in task.files.items():
        (tmp_path / file).write_bytes(data)
    onnx.save(task.graph, tmp_path / "model.onnx")
    pool, golden = (write_files(tmp_path, task, seed) for seed in (1, 2))
    window = {"minimum_rows": 16, "sample": CASES}
    spec = SPEC | {"name": name, "input": dict(task.input), "window": window}
    # First without labels, to ask full precision for them.
    spec["metrics"] = [{"name": "relative-error", "budget": 9.0}]
    for step in ("unlabelled", "labelled"):
        answers_known = labels_of(name) if step == "labelled" else [None] * CASES
        for kind, paths, answers in (
            ("golden", golden, answers_known),
            ("pool", pool, [None] * CASES),
        ):
            table = write_table(tmp_path, paths, answers, task.suffix)
            output = tmp_path / f"{kind}.parquet"
            typed(kind, "build", tmp_path, "--labels", table, "--output", output)
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(spec))
        typed("model", "add", tmp_path / "model.yaml")
        spec["metrics"] = [dict(metric) for metric in task.metrics]
    taken_at = {"time": "2026-03-01T11:00:00Z"}
    lines = [
        {**taken_at, "request_id": f"{name}-{n}", "domain": ("day", "night")[n % 2]}
        | request(path.suffix[1:], path.read_bytes())
        for n, path in enumerate(write_files(tmp_path / "live", task, 3))
    ]
    (tmp_path / "day.jsonl").write_text("\n".join(map(json.dumps, lines)))
    day = tmp_path / "day.jsonl"
    taken = json.loads(typed("traffic", "import", day, "--model", name, "--json"))
    assert (taken["accepted"], taken["rejected"]) == (CASES, 0), taken
    outcome = json.loads(typed("requantize", name, "--recipe", "int8-max", "--json"))
    assert outcome["candidates"], outcome["reason"]
    (report,) = outcome["candidates"][-1]["reports"]
    gates = {gate["metric"]: gate for gate in report["gates"] if gate["group"] == "all"}
    for metric in task.metrics:
        kind = str(metric["name"])
        lower = kind in ("cer", "absolute-error", "squared-error")
        gate = gates[f"{kind}-{'increase' if lower else 'drop'}"]
        assert gate["count"] >= CASES - 2, gate
        assert gate["verdict"] == "passed", gate
    assert outcome["status"] == "promoted", outcome["reason"]
