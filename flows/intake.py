"""Traffic files into the object store."""

from dataclasses import dataclass
from pathlib import Path

from infra.settings import settings
from tasks.models.catalog import open_model
from tasks.traffic import read_import, write_rejects, write_traffic


@dataclass(frozen=True, slots=True)
class Intake:
    """What became of one file."""

    model: str
    accepted: int
    rejected: int
    reasons: dict[str, int]  # reason -> records
    rejects: str | None  # where the rejected records lie
    parts: int  # stored files


def take_in(path: Path, model: str) -> Intake:
    """Check, redact and store every record; raises `BadInput` when the file itself cannot be read."""
    spec, store = open_model(model).spec, settings().store()
    found = read_import(path, task=spec.task, shape=spec.payload_shape)
    keys = write_traffic(store, model, found.accepted)
    rejects = write_rejects(store, model, found.rejected, path.name) if found.rejected else None
    reasons: dict[str, int] = {}
    for one in found.rejected:
        reasons[one.reason] = reasons.get(one.reason, 0) + 1
    return Intake(model, len(found.accepted), len(found.rejected), reasons, rejects, len(keys))
