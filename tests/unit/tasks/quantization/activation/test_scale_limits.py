"""One window moves a scale so far and no further."""

import numpy as np
import pytest

from tasks.numerics.quantizer import Quantizer
from tasks.observation.request_amax import SiteValues
from tasks.quantization.activation.quantizers import SiteQuantizer
from tasks.quantization.activation.scale_limits import (
    below_ceilings,
    limit_changes,
    limit_diagnostics,
)


def choices(**amax: float) -> dict[str, SiteQuantizer]:
    return {name: SiteQuantizer(Quantizer(value)) for name, value in amax.items()}


def test_scales_are_held_in_both_directions_and_the_others_are_left() -> None:
    deployed = {"up": Quantizer(1.0), "down": Quantizer(1.0), "fine": Quantizer(1.0)}
    found, held = limit_changes(choices(up=100, down=0.001, fine=3, new=9), deployed, 4.0)
    got = {name: one.activation.amax for name, one in found.items() if one.activation}
    assert got == pytest.approx({"up": 4, "down": 0.25, "fine": 3, "new": 9})
    assert held == pytest.approx({"up": 100, "down": 0.001})


def test_bounds_move_with_the_largest_magnitude() -> None:
    choice = {"a": SiteQuantizer(Quantizer(8.0, bounds=(-2.0, 8.0)))}
    found, _ = limit_changes(choice, {"a": Quantizer(1.0, bounds=(-0.5, 1.0))}, 4.0)
    assert found["a"].activation is not None
    assert found["a"].activation.bounds == (-1.0, 4.0)


def test_the_diagnostic_names_the_worst_sites_and_what_to_do() -> None:
    (text,) = limit_diagnostics({"a": 100.0, "b": 0.001, "c": 5.0, "d": 6.0}, 4.0)
    assert text.startswith(
        "this window would change the scales of b (0.001 times), a (100 times), "
        "d (6 times) and 1 more"
    )
    assert "--allow-scale-change" in text
    assert limit_diagnostics({}, 4.0) == ()


def test_a_ceiling_in_units_of_the_factors_bounds_only_who_has_factors() -> None:
    factors = np.ones(3, np.float32)
    given = {
        "a": SiteQuantizer(Quantizer(10.0, factors), factors),
        "b": SiteQuantizer(Quantizer(10.0)),
    }
    found = below_ceilings(
        given, {SiteValues("a", smoothed=True): 6.0, SiteValues("b", smoothed=True): 6.0}
    )
    assert [one.activation.amax for one in found.values() if one.activation] == pytest.approx(
        [6, 10]
    )
