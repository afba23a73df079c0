"""What a model's spec asks of its evidence, and what it lets the loop do."""

from tasks.drift.evidence import ACTING, Alarms
from tasks.drift.restraint import Restraint
from tasks.specs.spec import ModelSpec


def alarms(spec: ModelSpec, detector: str) -> Alarms:
    """Return when a detector's evidence is enough; input shares its budget with no other."""
    sharing = 1 if detector == "input" else ACTING
    return Alarms(float(spec.drift.false_alarms * sharing), spec.drift.recover)


def restraint(spec: ModelSpec) -> Restraint:
    """Return what the spec allows the loop to do by itself."""
    rules = spec.drift
    return Restraint(
        rules.confirm.windows,
        rules.confirm.of,
        rules.cooldown_windows,
        rules.builds.at_most,
        rules.builds.days,
    )
