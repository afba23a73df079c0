"""What no candidate could pass is known before one is built, and what stays unjudged is told."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from infra.errors import BadInput
from tasks.models.corpus import read_corpus
from tasks.models.golden import read_golden
from tasks.models.vision.classes import Classes
from tasks.records import CaseKind, GoldenSet, Request
from tasks.specs.groups import served_groups
from tasks.specs.spec import ModelSpec, QualityBudget, load_spec
from tasks.validation.metrics.custom import CustomScores
from tasks.validation.metrics.golden import CaseScores
from tasks.validation.preconditions import Preconditions, examine, weaknesses

EXAMPLES = Path(__file__).resolve().parents[4] / "examples"
SHIPPED = sorted(str(path.parent.relative_to(EXAMPLES)) for path in EXAMPLES.glob("**/model.yaml"))
HERE = {"onnxruntime-cpu": None, "tensorrt-rtx": "no CUDA device is visible"}


def shipped(name: str) -> tuple[ModelSpec, GoldenSet]:
    folder = EXAMPLES / name
    spec = load_spec(folder / "model.yaml")
    head = (folder / spec.golden.safety_head).read_bytes() if spec.golden.safety_head else None
    return spec, read_golden((folder / spec.golden.cases).read_bytes(), head, where=name)


def requests(*groups: tuple[str, str]) -> list[Request]:
    return [
        Request(str(n), datetime(2026, 1, 1, tzinfo=UTC), "t", domain, language, "text")
        for n, (domain, language) in enumerate(groups)
    ]


def examined(spec: ModelSpec, golden: GoldenSet, *groups: tuple[str, str]) -> Preconditions:
    served = {
        name for domain, language in groups for name in (f"domain={domain}", f"language={language}")
    }
    return examine(spec, golden, _classes(golden), sorted(served), requests(*groups), HERE)


def _classes(golden: GoldenSet) -> Classes:
    names = tuple(sorted({case.label or "" for case in golden.cases}))
    return Classes(names, np.eye(len(names), dtype=np.float32))


def with_rules(spec: ModelSpec, *rules: QualityBudget) -> ModelSpec:
    return spec.model_copy(update={"budgets": spec.budgets.model_copy(update={"quality": rules})})


def told(found: Preconditions) -> Sequence[str]:
    assert len(found.obstacles) == 1, found
    return found.obstacles


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_example_stands_in_its_own_way(name: str) -> None:
    spec, golden = shipped(name)
    started = time.process_time()
    own = {
        (case.domain, case.language) for case in golden.cases if case.kind is not CaseKind.SAFETY
    }
    assert examined(spec, golden, *own) == Preconditions((), ())
    assert not examined(spec, golden, ("unknown", "unknown")).obstacles
    assert time.process_time() - started < 20  # seconds, and not the minutes of a candidate


def test_groups_that_the_golden_set_lacks_are_told_with_their_share() -> None:
    spec, golden = shipped("minilm")
    found = examined(
        spec, golden, ("docs", "en"), ("legal", "en"), ("docs", "unknown"), ("docs", "unknown")
    )
    assert found.obstacles == ()
    assert found.notes == (
        "could not be judged by group, for want of golden cases: "
        "requests without language (50 % of the window), domain=legal (25 % of the window)",
    )
    assert found.noted("the first champion").startswith(
        "the first champion; could not be judged by group"
    )


def test_too_few_cases_for_the_interval_end_the_run_with_what_to_do() -> None:
    spec, golden = shipped("digits")
    bright = [case for case in golden.cases if case.domain == "exposure-1"]
    others = [case for case in golden.cases if case.domain != "exposure-1"]
    scarce = replace(golden, cases=(*bright[:8], *others))
    (text,) = told(examined(spec, scarce, ("exposure-1", "none"), ("exposure-2", "none")))
    assert "full precision itself would not pass" in text
    assert "only 8 golden cases, and 10 are needed" in text
    assert text.endswith(
        "add golden cases or loosen the budget, then run `requant model add` again"
    )


def test_a_budget_that_the_cases_cannot_prove_ends_the_run() -> None:
    spec, golden = shipped("digits")
    tight = with_rules(spec, QualityBudget(metric="flips", group="all", at_most=0.001))
    (text,) = told(examined(tight, golden, ("unknown", "none")))
    assert "flips of all: 0 (95 % interval 0 to 0.001914) straddles the budget" in text


def test_a_group_named_by_the_spec_without_a_case_ends_the_run() -> None:
    spec, golden = shipped("minilm")
    named = with_rules(spec, QualityBudget(metric="cosine", group="language=sv", at_least=0.9))
    (text,) = told(examined(named, golden, ("docs", "sv")))
    assert "cosine of language=sv: only 0 golden cases" in text
    assert not examined(named, golden, ("docs", "en")).obstacles


def test_a_metric_that_no_golden_case_measures_ends_the_run() -> None:
    spec, golden = shipped("minilm")
    plain = replace(
        golden, cases=tuple(case for case in golden.cases if case.kind is not CaseKind.QUERY)
    )
    (text,) = told(examined(spec, plain, ("docs", "en")))
    assert "recall-drop of all: no golden case measures it" in text


def test_a_label_that_cannot_be_scored_ends_the_run() -> None:
    spec, golden = shipped("digits")
    wrong = replace(golden, cases=(replace(golden.cases[0], label="seven"), *golden.cases[1:]))
    (text,) = told(examined(spec, wrong, ("exposure-1", "none")))
    assert "label 'seven': a classifier's label is a class number" in text


def test_targets_of_which_none_runs_here_end_the_run() -> None:
    spec, golden = shipped("digits")
    nowhere = {"tensorrt-rtx": "no CUDA device is visible"}
    found = examine(
        spec, golden, None, ["domain=exposure-1"], requests(("exposure-1", "none")), nowhere
    )
    (text,) = told(found)
    assert text == (
        "no engine of digits can be judged on this machine "
        "(tensorrt-rtx: no CUDA device is visible): "
        "run it where one can, or add onnxruntime-cpu to the spec's targets"
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_golden_set_is_weak(name: str) -> None:
    spec, golden = shipped(name)
    pool = read_corpus((EXAMPLES / name / spec.data.calibration).read_bytes(), where=name)
    assert weaknesses(spec, golden, _classes(golden), pool) == ()


def test_what_a_golden_set_cannot_judge_is_told_before_any_traffic() -> None:
    spec, golden = shipped("minilm")
    few = replace(golden, cases=tuple(case for case in golden.cases if case.language != "ja"))
    pool = requests(("news", "en"), ("news", "ja"), ("news", "ja"), ("news", "unknown"))
    told_of_pool = weaknesses(spec, few, None, pool)[-1]
    assert told_of_pool.startswith("could not be judged by group")
    assert "language=ja (50 % of the calibration pool)" in told_of_pool
    assert "unknown" not in told_of_pool


def test_a_group_of_few_cases_and_a_suite_without_any_are_weak() -> None:
    spec, golden = shipped("lm")
    kept = [case for case in golden.cases if case.kind is not CaseKind.SUMMARY]
    rare = replace(kept[0], case_id="rare", language="xx")
    sentences = weaknesses(spec, replace(golden, cases=(*kept, rare)), None, ())
    assert any("rouge-drop" in text and "no golden case measures it" in text for text in sentences)
    assert any("language=xx: only 1 golden cases" in text for text in sentences)


def test_rare_domains_are_told_together() -> None:
    spec, golden = shipped("minilm")
    window = requests(*((f"session-{n}", "en") for n in range(100)))
    names = served_groups(window)
    assert examine(spec, golden, None, names, window, HERE).notes == (
        "could not be judged by group, for want of golden cases: "
        "requests of rare domains (100 % of the window)",
    )


def test_budgets_of_groups_that_nobody_sends_judge_nothing_which_is_told() -> None:
    spec, golden = shipped("minilm")
    only = with_rules(spec, QualityBudget(metric="cosine", group="domain=docs", at_least=0.9))
    _, note = examined(only, golden, ("unknown", "unknown")).notes
    assert note.startswith("no quality was judged: the budgets are about domain=docs alone")
    assert examined(only, golden, ("docs", "en")).notes == ()


def test_a_metric_that_full_precision_itself_fails_ends_the_run() -> None:
    spec, golden = shipped("ocr")
    everything = np.arange(len(golden.cases))
    rule = "cer-increase"
    worse = CustomScores({rule: CaseScores(np.full(everything.size, 0.9), everything)}, {})
    unmeasurable = CustomScores({}, {rule: BadInput("its output is no text")})
    for measured, reason in (
        (worse, "full precision itself would not pass: "),
        (unmeasurable, "not even of full precision beside itself: its output is no text"),
    ):
        found = examine(spec, golden, None, (), requests(("docs", "en")), HERE, measured)
        assert reason in found.obstacles[0]
