"""A model's shipped corpus, replayed as traffic by a scenario."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.commands.imports import moment
from infra.errors import BadInput
from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.traffic.imports import Accepted
from tasks.traffic.intake import ingest
from tasks.traffic.simulation import load_scenario, simulate


@dataclass(frozen=True, slots=True)
class Simulated:
    """What was written."""

    model: str
    scenario: str
    seed: int
    until: str  # give it again for the same bytes
    accepted: int
    duplicates: int  # written by the same call before
    parts: int  # stored files


def replay(
    model: str, path: Path, *, days: float | None, rate: float | None, seed: int, until: str | None
) -> Simulated:
    """Write the scenario's requests up to `until`.

    It is ISO 8601; None is the full hour that passed last.
    """
    scenario, registered = load_scenario(path), open_model(model)
    for name, value in (("--days", days), ("--rate", rate)):
        if value is not None and not 0 < value < float("inf"):
            raise BadInput(f"{name} is {value:g}: it must be more than 0")
    if seed < 0:
        raise BadInput(f"--seed is {seed}: it must be 0 or more")
    end = (
        moment(until, "--until")
        if until
        else datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    )
    requests = simulate(registered.replay, scenario, seed, days=days, rate=rate, until=end)
    records = (Accepted(number, request) for number, request in enumerate(requests, 1))
    ingested = ingest(settings().store(), model, records, source=path.name)
    parts = len(ingested.parts)
    return Simulated(
        model, scenario.name, seed, end.isoformat(), ingested.accepted, ingested.duplicates, parts
    )
