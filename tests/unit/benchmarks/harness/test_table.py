import json
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from rich.console import Console

from benchmarks.harness.machine import conditions, cpu
from benchmarks.harness.table import Goal, ResultTable, column, reason


@dataclass(frozen=True)
class Row:
    name: str = column("contender")
    value: float | None = column("cosine", ".3f")
    failure: str | None = reason("why not")


def printed(table: ResultTable) -> str:
    console = Console(width=120, file=StringIO(), record=True)
    console.print(table.render())
    return console.export_text()


def test_a_missed_goal_is_printed_with_the_figure_that_was_found() -> None:
    text = printed(ResultTable("t", "T", [Row("ours", 0.9, None)], [Goal("cosine", 0.995, 0.9)]))
    assert "missed: cosine 0.9 (goal: at least 0.995)" in text
    assert "reached" not in text


def test_a_goal_without_a_figure_is_never_reached() -> None:
    goal = Goal("speed-up", 3.0, None)
    assert not goal.reached
    assert "not measured" in printed(ResultTable("t", "T", [Row("ours", 0.9, None)], [goal]))


def test_a_goal_can_bound_from_above() -> None:
    assert Goal("lost accuracy", 0.02, 0.01, "at most").reached
    assert not Goal("lost accuracy", 0.02, 0.03, "at most").reached


def test_a_peer_that_failed_keeps_its_row_and_its_whole_reason_stands_below() -> None:
    why = "ImportError: No module named 'surgeon'. Please install the extras."
    text = printed(ResultTable("t", "T", [Row("peer", None, why)]))
    assert "ImportError [1]" in text
    assert f"[1] {why}" in text


def test_the_document_is_json_and_says_which_goals_were_reached() -> None:
    document = ResultTable(
        "t", "T", [Row("ours", 0.999, None)], [Goal("cosine", 0.995, 0.999)]
    ).document()
    again = json.loads(json.dumps(document))
    assert again["rows"][0]["value"] == 0.999
    assert again["goals"][0]["reached"] is True


def test_the_conditions_name_the_processor_and_the_versions(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Example 9000\nflags\t\t: avx2 avx512_vnni\n\nprocessor\t: "
        "1\n"
    )
    assert cpu(cpuinfo) == ("Example 9000", frozenset({"avx2", "avx512_vnni"}))
    assert cpu(tmp_path / "absent") == ("unknown", frozenset())
    assert json.loads(json.dumps(conditions()))["versions"]["onnxruntime"] != "absent"
