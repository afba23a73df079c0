"""How far one window may move a champion's scales."""

from collections.abc import Mapping
from dataclasses import replace

from tasks.observation.ceilings import Ceilings
from tasks.observation.request_amax import SiteValues
from tasks.observation.scales import Quantizer, Scales
from tasks.quantization.activation.quantizers import SiteQuantizer

NAMED = 3
"""Sites that a diagnostic names."""


def hold(
    choices: Mapping[str, SiteQuantizer], deployed: Scales, largest: float
) -> tuple[dict[str, SiteQuantizer], dict[str, float]]:
    """Choices whose amax is at most `largest` times the deployed one, and at least its `largest`-th part.

    Also gives, for each site that was held, the change that its window asked for (new / old). Sites that the champion
    does not quantize are not compared.
    """
    held: dict[str, float] = {}
    found: dict[str, SiteQuantizer] = {}
    for name, choice in choices.items():
        found[name] = choice
        if name in deployed and choice.activation is not None:
            asked = choice.activation.amax / deployed[name].amax
            allowed = min(max(asked, 1 / largest), largest)
            if allowed != asked:
                held[name] = asked
                found[name] = replace(
                    choice, activation=_scaled(choice.activation, allowed / asked)
                )
    return found, held


def under(choices: Mapping[str, SiteQuantizer], ceilings: Ceilings) -> dict[str, SiteQuantizer]:
    """Choices with deployed factors whose amax stays below the ceiling of their smoothed values, where there is one.

    Ceilings of the sites themselves were applied when they were observed; those in units of the factors come here.
    """
    found = dict(choices)
    for name, choice in choices.items():
        limit = ceilings.get(SiteValues(name, smoothed=True))
        if (
            limit
            and choice.activation
            and choice.activation.smoothing_scales is not None
            and choice.activation.amax > limit
        ):
            found[name] = replace(
                choice, activation=_scaled(choice.activation, limit / choice.activation.amax)
            )
    return found


def held_scale_diagnostics(held: Mapping[str, float], largest: float | None) -> tuple[str, ...]:
    """One sentence that names the sites, or none."""
    if not held or largest is None:
        return ()
    worst = sorted(held, key=lambda name: (-max(held[name], 1 / max(held[name], 1e-30)), name))
    named = ", ".join(f"{name} ({held[name]:.3g} times)" for name in worst[:NAMED])
    more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
    return (
        f"this window would change the scales of {named}{more}; they were held at {largest:g} times the champion's, up "
        "or down (calibration.largest_scale_change): if the change is real, run it again with --allow-scale-change",
    )


def _scaled(quantizer: Quantizer, factor: float) -> Quantizer:
    bounds = (
        None
        if quantizer.bounds is None
        else (quantizer.bounds[0] * factor, quantizer.bounds[1] * factor)
    )
    return replace(quantizer, amax=quantizer.amax * factor, bounds=bounds)
