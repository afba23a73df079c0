"""Maintenance that an incident of serving asks for, by the deployment that schedules run, too."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from flows.deployments import trigger
from tasks.promotion import journal
from tasks.promotion.serving.incidents import latest_incident

RECENT = timedelta(days=1)
"""An older incident asks for nothing: the schedule came by since."""
_log = logging.getLogger(__name__)


def ask_for_maintenance(models: Iterable[str], asked: set[str]) -> None:
    """Start a maintenance run for each incident that is not in `asked`, and put it there.

    The incident's digest is the run's key: whoever asks, and however often, one run starts, and
    another one where that broke off, as `requant up` was ended. What cannot be asked now is asked
    at the next look.
    """
    for model in models:
        try:
            _ask(model, asked)
        except Exception as error:  # whatever it is, the next model is looked at
            _log.warning("maintenance of %s could not be asked for: %s", model, error)


def _ask(model: str, asked: set[str]) -> None:
    incident = latest_incident(journal.read(model))
    if incident is None or incident.digest in asked:
        return
    if datetime.now(UTC) - incident.since < RECENT:
        trigger(
            "maintenance",
            {"model": model},
            key=f"incident-{incident.digest}",
            deployment=model,
            past_crashes=True,
        )
    asked.add(incident.digest)
