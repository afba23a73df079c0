"""Names of what the report of a look is stored under."""

from tasks.records import STORED_DETECTORS

PAGE = f"{STORED_DETECTORS}.html"
WORST = "worst.json"
FINDINGS = "findings.json"
"""What the detectors found, as values: pages plot it over windows."""
