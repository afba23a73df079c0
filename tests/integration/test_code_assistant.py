"""The shipped code assistant by OpenAI's client: what it writes is run, and passes its checks."""

from __future__ import annotations

import pytest

from infra.settings import Settings
from tasks.metrics.generated_text import ran, why_not_run
from tasks.models.catalog import register
from tasks.promotion.acts.promoting import promote
from tasks.records import CaseKind, GoldenCase
from tests.integration.gateways import Served, serving, spoilt, until, write_example
from tests.integration.releases import released
from tests.integration.test_gateway import client

CASES = 12


def passing(served: Served, cases: list[GoldenCase]) -> float:
    """Return the share of programs whose checks all pass."""
    passed = []
    for case in cases:
        prompt = str(case.payload)
        done = client(served).completions.create(
            model="polyglot", prompt=prompt, max_tokens=48, temperature=0
        )
        outcome = ran(prompt, case.label or "", done.choices[0].text)
        passed.append(outcome.passes)
    return sum(passed) / len(passed)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.skipif(why_not_run() is not None, reason="generated programs must not run here")
def test_programs_it_completes_pass_their_checks_and_a_spoilt_release_shows(
    registry_workspace: Settings,
) -> None:
    workspace = registry_workspace
    registered = register(write_example(workspace.root / "source", "lm"))
    cases = [case for case in registered.golden.cases if case.kind is CaseKind.CODE][:CASES]
    assert len(cases) == CASES
    plan = bytes(registered.graph.SerializeToString())
    first = released(workspace, 0.0, "polyglot", plan=plan)
    promote(first, None, "tester", "it passed")
    with serving(workspace, REQUANT_GATEWAY_CAPTURE="0") as served:
        whole = passing(served, cases)
        second = released(workspace, 0.0, "polyglot", plan=spoilt(registered.graph, 0.5))
        promote(second, first.version, "tester", "it was not judged")
        until(lambda: served.version("polyglot") == second.version)
        assert passing(served, cases) < whole
    assert whole >= 0.5
