"""Ranges of what layers make, for the target that reads them with a zero-point."""

import numpy as np

from tasks.numerics.formats import SMALLEST
from tasks.numerics.output_error import squared_errors
from tasks.numerics.quantizer import Quantizer
from tasks.observation.observer import SiteObservation

TOLERANCES = (0.1, 0.2, 0.5)
"""Of the least squared error, what may be lost to a wider range; tried beside the recipe's rule."""
LEVELS = 255


def clipped(observed: SiteObservation, tolerance: float) -> Quantizer:
    """Return the widest range whose squared error is at most 1 + `tolerance` times the least.

    As Banner, Nahshan and Soudry (2019) for a symmetric step, with the step (high - low) / 255 that
    a zero-point allows: what a convolution or HardSwish makes lies mostly on one side. The least
    itself clips rare values that decide an output.

    Args:
        observed: What calibration saw of the tensor; not zeros alone.
        tolerance: At least 0.
    """
    seen = observed.histogram
    low, high = float(observed.channel_low.min()), float(observed.channel_high.max())
    clips = seen.amax * np.geomspace(0.02, 1.0, 96)
    lows, highs = np.maximum(min(low, 0.0), -clips), np.minimum(max(high, 0.0), clips)
    errors = squared_errors(seen, clips, (highs - lows) / LEVELS)
    place = int(np.flatnonzero(errors <= errors.min() * (1 + tolerance))[-1])
    below, above = float(lows[place]), float(highs[place])
    return Quantizer(float(clips[place]), bounds=(below, max(above, below + SMALLEST)))


def narrowed(chosen: Quantizer, told_apart: tuple[float, float] | None) -> Quantizer:
    """Return a quantizer without room for values that the tensor's readers take for one.

    Args:
        chosen: What the range rule gives, with bounds.
        told_apart: As `distinguished_values` has it; None: everything.
    """
    if told_apart is None or chosen.bounds is None:
        return chosen
    low = max(chosen.bounds[0], min(told_apart[0], 0.0))
    high = min(chosen.bounds[1], max(told_apart[1], 0.0))
    if high - low < SMALLEST:
        return chosen
    return Quantizer(min(chosen.amax, max(-low, high)), bounds=(low, high))
