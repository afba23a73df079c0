"""A schedule is asked of whoever has to keep it, and refused where it cannot be kept."""

from pathlib import Path

import pytest

from infra.errors import BadInput
from infra.settings import Settings
from tasks.specs.schedule import require_schedulable
from tasks.specs.spec import ScheduleSpec, parse_spec
from tests.integration.conftest import EXAMPLES


def rule(**fields: object) -> ScheduleSpec:
    return ScheduleSpec.model_validate({"slug": "any", **fields})


def refusal(**fields: object) -> str | None:
    try:
        require_schedulable(rule(**fields), where="spec")
    except BadInput as exc:
        return str(exc)
    return None


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "0 3 * * *"},
        {"cron": "30 2 * * *", "timezone": "Europe/Berlin"},
        {"cron": "0 0 29 2 *"},
        {"cron": "@daily"},
        {"interval": 5},
        {"interval": 86400, "timezone": "America/New_York"},
    ],
)
def test_what_prefect_can_keep_is_taken(fields: dict[str, object]) -> None:
    assert refusal(**fields) is None
    assert "Mars/Olympus" in str(refusal(**{**fields, "timezone": "Mars/Olympus"}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"cron": "0 3 * * *", "timezone": "Europe/Berln"}, "Europe/Berln"),
        ({"cron": "0 3 * * *", "timezone": "+02:00"}, "+02:00"),
        ({"interval": 60, "timezone": "Mars/Olympus"}, "Mars/Olympus"),
        ({"cron": "0 0 31 2 *"}, "31 2"),
        ({"cron": "0 0 30 2 *"}, "30 2"),
        ({"cron": "H 3 * * *"}, "H 3"),
        ({"cron": "R R * * *"}, "R R"),
        ({"cron": "61 3 * * *"}, "61 3"),
        ({"cron": "every night"}, "every night"),
        ({"cron": "0 3 * * * * * *"}, "has 8 fields"),
        ({"cron": "0 0 3 * * *"}, "has 6 fields"),
        ({"cron": "0 3 * *"}, "has 4 fields"),
        ({"cron": "0 3 * * *", "timezone": "localtime"}, "localtime"),
        ({"cron": "0 3 * * *", "timezone": "europe/berlin"}, "europe/berlin"),
        ({"cron": "0 3 * * *", "timezone": "Europe"}, "Europe"),
        ({"cron": "0 0 31 4,6,9,11 *"}, "31 4,6,9,11"),
        ({"interval": 10**12}, "every 1000000000000 s"),
    ],
)
def test_a_zone_a_date_or_a_dialect_that_it_cannot_is_refused_in_a_sentence(
    fields: dict[str, object], told: str
) -> None:
    with pytest.raises(BadInput) as refused:
        require_schedulable(rule(**fields), where="spec")
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_model_with_such_a_schedule_is_not_registered(
    workspace: Settings, tmp_path: Path
) -> None:
    import shutil

    from tasks.models.catalog import register

    shutil.copytree(EXAMPLES / "digits", tmp_path / "digits")
    path = tmp_path / "digits" / "model.yaml"
    path.write_text(path.read_text().replace("timezone: UTC", "timezone: Europe/Berln"))
    with pytest.raises(BadInput, match="Europe/Berln"):
        register(path)
    assert list(workspace.store().list("")) == []


@pytest.mark.parametrize(
    "schedule", ["{slug: a}", "{slug: a, cron: '0 3 * * *', interval: 5}", "{slug: a, interval: 0}"]
)
def test_exactly_one_of_cron_and_interval_is_given(schedule: str) -> None:
    text = (EXAMPLES / "digits" / "model.yaml").read_text()
    lines = [
        f"schedule: {schedule}" if line.startswith("schedule:") else line
        for line in text.splitlines()
    ]
    with pytest.raises(BadInput, match="schedule"):
        parse_spec("\n".join(lines), where="spec")
