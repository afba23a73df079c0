"""Names of what the report of a look is stored under."""

from uuid import NAMESPACE_URL, UUID, uuid5

from tasks.records import STORED_DETECTORS

PAGE = f"{STORED_DETECTORS}.html"
WORST = "worst.json"
EVIDENTLY = "evidently.html"
FINDINGS = "findings.json"
"""What the detectors found, as values: pages plot it over windows."""


def project_id(model: str) -> UUID:
    """Return which of Evidently's projects is a model's."""
    return uuid5(NAMESPACE_URL, f"requant:{model}")


def snapshot_id(model: str, window: str) -> UUID:
    """Return which of Evidently's snapshots is of a window, by its digest."""
    return uuid5(project_id(model), window)
