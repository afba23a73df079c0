"""How far one window may move a champion's scales."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tasks.numerics.quantizer import Quantizer
from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import SiteValues
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import SiteQuantizer

NAMED = 3
"""Sites that a diagnostic names."""


def limit_changes(
    choices: Mapping[str, SiteQuantizer], deployed: Scales, largest: float
) -> tuple[dict[str, SiteQuantizer], dict[str, float]]:
    """Keep each amax between the deployed one's `largest`-th part and `largest` times it.

    Sites that the champion does not quantize are not compared.

    Returns:
        The choices, and for each site that was held back the change that its window asked for
        (new / old).
    """
    limited, changes = dict(choices), dict[str, float]()
    for name, choice in choices.items():
        if name not in deployed or choice.activation is None:
            continue
        change = choice.activation.amax / deployed[name].amax
        allowed = min(max(change, 1 / largest), largest)
        if allowed != change:
            changes[name] = change
            limited[name] = _rescaled(choice, choice.activation, allowed / change)
    return limited, changes


def limit_reaches(
    choices: Mapping[str, SiteQuantizer], deployed: Scales, largest: float
) -> tuple[dict[str, SiteQuantizer], dict[str, float]]:
    """Keep what each channel may reach within `largest` times what it may now, up or down.

    The reach of a channel is amax times its smoothing scale: the largest magnitude of the input
    itself that is represented. New smoothing scales change it where amax alone says nothing.

    Returns:
        The choices, and for each site that was held back the change that its window asked for
        (new / old) at the channel that changes most.
    """
    limited, changes = dict(choices), dict[str, float]()
    for name, choice in choices.items():
        if name not in deployed or choice.activation is None:
            continue
        before, after = reach(deployed[name]), reach(choice.activation)
        change = after / before
        if max(change.max(), 1 / change.min()) <= largest:
            continue
        changes[name] = float(change[np.argmax(np.abs(np.log(change)))])
        allowed = before * np.clip(change, 1 / largest, largest)
        limited[name] = _reaching(choice.activation, allowed)
    return limited, changes


def reach(quantizer: Quantizer) -> NDArray[np.float64]:
    """Return the largest magnitude of the input that is represented, [channels] or a scalar."""
    scales = quantizer.smoothing_scales
    return np.asarray(quantizer.amax * (np.ones(1) if scales is None else np.float64(scales)))


def _reaching(quantizer: Quantizer, wanted: NDArray[np.float64]) -> SiteQuantizer:
    if wanted.size == 1 and quantizer.smoothing_scales is None:
        return _rescaled(SiteQuantizer(quantizer), quantizer, float(wanted[0]) / quantizer.amax)
    scales = (wanted / quantizer.amax).astype(np.float32)
    return SiteQuantizer(replace(quantizer, smoothing_scales=scales), scales)


def below_ceilings(
    choices: Mapping[str, SiteQuantizer], ceilings: Ceilings, headroom: float = 1.0
) -> dict[str, SiteQuantizer]:
    """Keep each smoothed amax below its ceiling times the headroom, where there is one.

    Ceilings of the sites' inputs were applied when they were observed.
    """
    limited = dict(choices)
    for name, choice in choices.items():
        limit = headroom * ceilings.get(SiteValues(name, smoothed=True), 0.0)
        activation = choice.activation
        if not limit or activation is None or activation.smoothing_scales is None:
            continue
        if activation.amax > limit:
            limited[name] = _rescaled(choice, activation, limit / activation.amax)
    return limited


def limit_diagnostics(changes: Mapping[str, float], largest: float | None) -> tuple[str, ...]:
    """Return one sentence that names the sites that were held back, or none."""
    if not changes or largest is None:
        return ()
    worst = sorted(
        changes, key=lambda name: (-max(changes[name], 1 / max(changes[name], 1e-30)), name)
    )
    named = ", ".join(f"{name} ({changes[name]:.3g} times)" for name in worst[:NAMED])
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return (
        f"this window would change the scales of {named}{more}; they were held at {largest:g} "
        "times the champion's, up or down (calibration.largest_scale_change): if the change is "
        "real, run it again with --allow-scale-change",
    )


def _rescaled(choice: SiteQuantizer, quantizer: Quantizer, factor: float) -> SiteQuantizer:
    bounds = quantizer.bounds
    if bounds is not None:
        bounds = (bounds[0] * factor, bounds[1] * factor)
    scaled = replace(quantizer, amax=quantizer.amax * factor, bounds=bounds)
    return replace(choice, activation=scaled)
