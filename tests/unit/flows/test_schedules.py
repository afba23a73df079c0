"""Prefect's schedules, of whichever kind, are computed by Prefect's own classes."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from pydantic import BaseModel

from flows.schedules import _server_side

START = datetime(2026, 1, 5, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("schedule", "dates"),
    [
        (CronSchedule(cron="0 3 * * *", timezone="UTC"), [START + timedelta(hours=1)]),
        (IntervalSchedule(interval=timedelta(hours=2), anchor_date=START, timezone="UTC"), [START]),
        (
            RRuleSchedule(rrule="DTSTART:20260105T040000\nFREQ=DAILY", timezone="UTC"),
            [START + timedelta(hours=2)],
        ),
        (RRuleSchedule(rrule="DTSTART:20250101T040000\nFREQ=DAILY;COUNT=2", timezone="UTC"), []),
    ],
    ids=["cron", "interval", "recurrence rule", "one that has ended"],
)
def test_every_kind_of_schedule_is_understood(schedule: BaseModel, dates: list[datetime]) -> None:
    assert asyncio.run(_server_side(schedule).get_dates(n=1, start=START)) == dates
