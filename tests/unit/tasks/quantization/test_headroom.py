"""Room above what calibration saw, and ranges of each token's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.sites import layer_weight
from tasks.numerics.formats import NumberFormat
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.loading import resolved
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.schemes import RangeRule, Static
from tests import graphs
from tests.unit.tasks.quantization.observations import observe
from tests.unit.tasks.quantization.test_derive import MODEL, OBSERVED, SITES, X, derived, planned

# --- Headroom -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "times"), [("fp8", 2.0), ("int8-headroom", 1.25)])
def test_headroom_is_room_above_the_largest_magnitude(name: str, times: float) -> None:
    for site, item in derived(name).scales.items():
        by = 1.0 if item.smoothing_scales is None else item.smoothing_scales
        assert item.amax == pytest.approx(times * float((OBSERVED[site].channel_amax / by).max()))


def test_fp8_loses_nothing_by_room_for_values_twice_as_large() -> None:
    roomy = find_recipe("fp8")
    assert isinstance(roomy.activation, Static)
    tight = replace(roomy, activation=replace(roomy.activation, headroom=1.0))
    both = [
        graphs.run(lower(qdq.write(derive(MODEL, SITES, OBSERVED, recipe, None).plan), "u8"), X)
        for recipe in (roomy, tight)
    ]
    errors = [float(np.square(each - graphs.run(MODEL, X)).sum()) for each in both]
    assert errors[0] <= 1.01 * errors[1]


@pytest.mark.parametrize("rule", [rule for rule in RangeRule if rule is not RangeRule.MAX])
def test_a_rule_that_clips_fp8_is_refused(rule: RangeRule) -> None:
    with pytest.raises(BadInput, match="FP8 activations and a range rule that clips"):
        replace(find_recipe("fp8"), activation=Static(NumberFormat.FP8, rule=rule))


def test_a_recalibration_never_clips_an_fp8_champion_and_keeps_its_headroom() -> None:
    champion = derived("fp8").scales
    recipe = resolved(find_recipe("recalibrate-mse"), "fp8")
    again = derive(MODEL, SITES, OBSERVED, recipe, champion).scales
    assert {name: item.amax for name, item in again.items()} == {
        name: item.amax for name, item in champion.items()
    }


@pytest.mark.parametrize("headroom", [0.5, 0.0, float("nan"), float("inf"), 17.0])
def test_headroom_that_is_no_room_is_bad_input(headroom: float) -> None:
    with pytest.raises(BadInput, match="is no room: use 1 to 16"):
        Static(headroom=headroom)


# --- A range for each token -----------------------------------------------------------------------


def test_a_range_for_each_token_is_what_the_graph_computes() -> None:
    found = derived("int8-per-token")
    assert found.scales == {}
    site = next(item for item in SITES if item.multiplies_rows)
    item, rows = planned(found)[site.name], OBSERVED[site.name].rows
    assert item.per_token
    assert item.activation is None
    weight = item.weights[0].dequantized()
    exact = rows @ layer_weight(MODEL, site.layers[0]).T
    tried = [
        np.square(seen @ weight.T - exact).sum() / np.square(exact).sum()
        for seen in by_token(rows, item.smoothing_scales)
    ]
    assert min(tried) < 1e-3


def by_token(
    rows: NDArray[np.float32], scales: NDArray[np.float32] | None
) -> Iterator[NDArray[np.float32]]:
    smoothed = rows / (1.0 if scales is None else scales)
    ranges = np.abs(smoothed).max(axis=1, keepdims=True)
    yield (np.rint(smoothed / ranges * 127) / 127 * ranges).astype(np.float32)


def test_one_token_with_massive_activations_costs_the_others_nothing_where_each_has_a_range() -> (
    None
):
    massive = X.copy()
    massive[:, 0] *= 300.0
    sites, observed = observe(MODEL, massive)
    exact = graphs.run(MODEL, massive)

    def loss(name: str) -> float:
        plan = derive(MODEL, sites, observed, find_recipe(name), None).plan
        served = graphs.run(lower(qdq.write(plan), "u8"), massive)
        return float(np.square(served - exact)[:, 1:].sum() / np.square(exact)[:, 1:].sum())

    assert loss("int8-per-token") < 0.2 * loss("int8-max")


def test_a_token_of_zeros_has_no_range_and_stays_zero() -> None:
    zeros = X.copy()
    zeros[:, 2] = 0.0
    plan = derived("int8-per-token").plan
    served = graphs.run(lower(qdq.write(plan), "u8"), zeros)
    assert np.isfinite(served).all()
    assert np.abs(served - graphs.run(MODEL, zeros)).max() < 0.1 * np.abs(served).max()
