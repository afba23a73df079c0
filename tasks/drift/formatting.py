"""How figures read in a sentence."""

from __future__ import annotations

from math import log


def power_of_ten(log_value: float) -> str:
    """Return what a natural logarithm stands for: "3.2", "12000", "1e+31", "below 0.001"."""
    if log_value < log(0.001):
        return "below 0.001"
    exponent = log_value / log(10)
    return (
        f"1e+{exponent:.0f}"
        if exponent >= 5
        else f"{10**exponent:.3g}"
        if exponent < 3
        else f"{10**exponent:.0f}"
    )


def percent(fraction: float) -> str:
    """Return a fraction in whole per cent."""
    return f"{100 * fraction:.0f} %"
