"""Requests that name no domain and no language go through the whole loop."""

import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient

from infra.access.guard import Guard
from infra.settings import Settings
from tasks.records import Health, Request
from tests.integration.conftest import EXAMPLES

pytestmark = pytest.mark.timeout(600)
START = datetime(2026, 1, 5, 8, tzinfo=UTC)


def corpus(example: str, language: str) -> list[Request]:
    from tasks.models.corpus import read_corpus

    rows = read_corpus((EXAMPLES / example / "traffic.parquet").read_bytes(), where="traffic")
    return [row for row in rows if row.language == language]


def imported(model: str, day: int, rows: Sequence[Request], folder: Path) -> None:
    """Import one day of JSON Lines with nothing but ids, times and payloads."""
    from flows.commands.imports import take_in

    lines = [
        {
            "request_id": f"{day}-{number}",
            "time": (START + timedelta(days=2 * day, minutes=number)).isoformat(),
            **(
                {"text": row.payload}
                if isinstance(row.payload, str)
                else {"tensor": row.payload.tolist()}
            ),
        }
        for number, row in enumerate(rows)
    ]
    path = folder / f"{model}-{day}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    taken = take_in(str(path), model, None, None)
    assert (taken.accepted, taken.rejected) == (len(rows), 0)


@pytest.mark.parametrize(
    ("example", "language"),
    [("digits", "none"), pytest.param("minilm", "en", marks=pytest.mark.soak)],
)
def test_traffic_without_domain_or_language_is_promoted_looked_at_and_shown(
    loop: Settings, tmp_path: Path, example: str, language: str
) -> None:
    from dashboards.console.app import create_app
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from flows.queries.views import history
    from tasks.models.catalog import register
    from tasks.promotion.ledger import EntryKind

    register(EXAMPLES / example / "model.yaml")
    rows = corpus(example, language)
    imported(example, 0, rows[:96], tmp_path)
    first = maintenance(example)
    assert first.status is Status.PROMOTED, first.reason
    (note,) = first.notes
    whole = "(100 % of the window)"
    assert note.endswith(f"requests without domain {whole}, requests without language {whole}")
    assert next(
        entry for entry in history(example) if entry.kind is EntryKind.PROMOTED
    ).reason.endswith(note)
    gates = [gate for report in first.candidates[-1].reports for gate in report.gates]
    everything = next(
        gate for gate in gates if gate.group == "all" and gate.metric in ("flips", "cosine")
    )
    assert everything.count == {"digits": 1925, "minilm": 1176}[example]
    assert {gate.binding for gate in gates if gate.group == "domain=unknown"} == {False}

    imported(example, 1, rows[96:192], tmp_path)
    second = maintenance(example)
    assert second.status is Status.KEPT, second.reason
    assert second.decision is not None
    health = {one.detector: one.health for one in second.decision.results}
    assert (health["fidelity"], health["control"]) == (Health.FINE, Health.FINE)
    assert second.report is not None
    assert loop.store().exists(second.report)
    secret = loop.secret()
    with TestClient(
        Guard(create_app(secret), "console", secret), base_url="http://127.0.0.1:8400"
    ) as browser:
        page = browser.get(f"/models/{example}", headers={"Authorization": f"Bearer {secret.key}"})
        assert page.status_code == 200
        assert "requests without domain" in page.text


def test_a_budget_that_the_golden_cases_cannot_prove_builds_nothing_however_often_it_is_asked(
    loop: Settings, tmp_path: Path
) -> None:
    from flows.maintenance import maintenance
    from flows.outcomes import Status
    from tasks.models.catalog import register

    shutil.copytree(EXAMPLES / "digits", tmp_path / "nowhere")
    spec = yaml.safe_load((tmp_path / "nowhere" / "model.yaml").read_text())
    rules = [{"metric": "flips", "group": "all", "at_most": 0.001}]
    changed = {**spec, "name": "hopeless", "budgets": {**spec["budgets"], "quality": rules}}
    (tmp_path / "nowhere" / "model.yaml").write_text(yaml.safe_dump(changed))
    register(tmp_path / "nowhere" / "model.yaml")
    imported("hopeless", 0, corpus("digits", "none")[:96], tmp_path)
    for _ in range(2):
        outcome = maintenance("hopeless")
        assert (outcome.status, outcome.candidates, outcome.version) == (
            Status.INCONCLUSIVE,
            (),
            None,
        )
        assert "full precision itself would not pass: flips of all" in outcome.reason
