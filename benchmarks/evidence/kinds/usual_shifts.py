"""Shifts that befall several kinds of model, each by what selects its traffic at home."""

from benchmarks.evidence import shifts
from benchmarks.evidence.kinds.model_kind import ADAPTER
from benchmarks.evidence.shifts import Mutate, Select, Shift, TrafficPart


def weight_update(home: Select, mutate: Mutate = shifts.same) -> Shift:
    """Return other weights under the same traffic."""
    part = TrafficPart(home, mutate)
    return Shift("weight update", "a low-rank update of every matrix", (part,), weights=ADAPTER)


def adversarial(home: Select, mutate: Mutate, what: str = "spikes") -> Shift:
    """Return four hostile mutations of each case, of which the worst counts."""
    part = TrafficPart(home, mutate)
    return Shift("adversarial", f"{what}, the worst of four", (part,), variants=4)


def noise(home: Select, mutate: Mutate, amount: str) -> Shift:
    """Return white noise; `amount` says how much, such as "a tenth"."""
    return Shift("noise", f"white noise of {amount}", (TrafficPart(home, mutate),))


def sensor_offset(home: Select, mutate: Mutate, amount: str) -> Shift:
    """Return a constant that is added; `amount` says how much, such as "a tenth"."""
    return Shift(
        "sensor offset", f"{amount} of the largest value added", (TrafficPart(home, mutate),)
    )


def tenant_mix(
    what: str, home: Select, other: Select, mutate: Mutate, *, usual: Mutate = shifts.same
) -> Shift:
    """Return a tenth of the usual traffic, and nine tenths of one tenant's."""
    parts = TrafficPart(home, usual, 0.1), TrafficPart(other, mutate, 0.9)
    return Shift("tenant mix", f"nine {what}", parts)
