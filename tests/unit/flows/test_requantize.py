"""Which reports let a candidate through, and when climbing on would not help."""

import pytest

from flows.climbing import passes
from tasks.records import GateReport, GateResult, Interval, Verdict
from tasks.validation.gates import unexecuted


def gate(metric: str, verdict: Verdict) -> GateResult:
    return GateResult(
        metric, "all", True, verdict, Interval(1, 1, 1), 1.0, "at least", 20, "because"
    )


def report(*gates: GateResult, target: str = "onnxruntime-cpu") -> GateReport:
    return GateReport(target, gates)


ABSENT = unexecuted("tensorrt-rtx", "no device")


def test_one_executed_target_that_passed_is_enough_beside_an_absent_device() -> None:
    assert passes([report(gate("cosine", Verdict.PASSED)), ABSENT])


def test_an_absent_device_alone_promotes_nothing() -> None:
    assert not passes([ABSENT])
    assert not passes([])


@pytest.mark.parametrize("verdict", [each for each in Verdict if each is not Verdict.PASSED])
def test_any_executed_target_that_did_not_pass_refuses(verdict: Verdict) -> None:
    passed = report(gate("cosine", Verdict.PASSED))
    assert not passes([passed, report(gate("cosine", verdict), target="tensorrt")])
