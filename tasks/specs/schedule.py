"""Whether a schedule can be kept at all, as Prefect's own classes tell."""

from __future__ import annotations

import asyncio
import warnings
from datetime import timedelta

from infra.errors import BadInput
from tasks.specs.spec import ScheduleSpec


def require_schedulable(rule: ScheduleSpec, *, where: str) -> None:
    """Raise `BadInput` for a schedule that Prefect refuses, or a date that never comes to pass.

    What it may refuse is a zone, a date or a dialect.
    """
    # Imported late: Prefect's server takes seconds to import, and only a registration asks it.
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of a home folder that is not there yet, which none of this needs
        from prefect.server.schemas.schedules import CronSchedule, IntervalSchedule

    schedule: CronSchedule | IntervalSchedule
    if rule.cron is not None and len(rule.cron.split()) not in (1, 5):  # one: @daily and its like
        raise BadInput(
            f"{where}: schedule: {rule.cron!r} has {len(rule.cron.split())} fields: write the five "
            "of minute, hour, "
            "day, month and weekday (dialects disagree where seconds go), or an interval in seconds"
        )
    try:
        if rule.interval is not None:
            schedule = IntervalSchedule(
                interval=timedelta(seconds=rule.interval), timezone=rule.timezone
            )
        else:
            schedule = CronSchedule(cron=str(rule.cron), timezone=rule.timezone)
        dates = asyncio.run(schedule.get_dates(n=1))
    # Pydantic's errors are ValueErrors; zones that only this host knows end in a LookupError.
    except (ValueError, ArithmeticError, LookupError) as error:
        raise BadInput(
            f"{where}: schedule: Prefect cannot keep {rule}: {_reason(error)}"
        ) from error
    if not dates:
        raise BadInput(f"{where}: schedule: {rule} never comes to pass: give a date that exists")


def _reason(error: Exception) -> str:
    details = getattr(error, "errors", None)
    text = (
        "; ".join(str(detail["msg"]) for detail in details()) if callable(details) else str(error)
    )
    return text.removeprefix("Value error, ") or type(error).__name__
