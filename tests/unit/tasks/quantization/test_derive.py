"""From an observation and a recipe to scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.sites import Site, find_sites, layer_weight
from tasks.numerics.formats import NumberFormat
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer, fake_quantize
from tasks.observation.ceilings import Ceilings
from tasks.observation.observer import Observer, SiteObservation
from tasks.observation.request_amax import SiteValues
from tasks.observation.scales import Scales
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tasks.quantization.graph.plan import QuantizedSite
from tasks.quantization.pipeline.derive import Derived, derive
from tasks.quantization.recipe.catalog import RECIPES, find_recipe, renewed
from tasks.quantization.recipe.schemes import Gptq, Trained
from tasks.quantization.weight.held_out_rows import HELD_OUT
from tests import graphs
from tests.unit.tasks.quantization.observations import observe

MODEL = graphs.encoder(16)
X = np.random.default_rng(0).standard_normal((24, 6, 16)).astype(np.float32)
SITES, OBSERVED = observe(MODEL, X)
WEIGHTED = [
    name
    for name, recipe in RECIPES.items()
    if recipe.quantized and recipe.high_precision_sites < len(SITES)
]


def derived(
    name: str,
    observed: dict[str, SiteObservation] | None = None,
    deployed: Scales | None = None,
    *,
    largest_change: float | None = None,
    ceilings: Ceilings | None = None,
) -> Derived:
    limits = {"largest_change": largest_change, "ceilings": ceilings}
    return derive(MODEL, SITES, observed or OBSERVED, find_recipe(name), deployed, **limits)  # type: ignore[arg-type]  # by name


CHAMPION = derived("int8-smooth").scales
RESMOOTH = find_recipe("resmooth")


INT8 = [name for name in WEIGHTED if name.startswith(("int8", "re"))]


@pytest.mark.parametrize("name", INT8)
def test_every_int8_recipe_gives_a_graph_that_runs_and_stays_close(name: str) -> None:
    found = derived(name, deployed=CHAMPION)
    graph = lower(qdq.write(found.plan), "u8")
    onnx.checker.check_model(graph, full_check=True)
    exact = graphs.run(MODEL, X)
    limit = 0.5 if name == "int8-percentile" or "mse" in name or "entropy" in name else 0.35
    assert np.linalg.norm(graphs.run(graph, X) - exact) < limit * np.linalg.norm(exact)


def test_no_smoothing_means_the_histograms_own_range() -> None:
    found = derived("int8-max")
    assert {name: item.amax for name, item in found.scales.items()} == {
        name: item.histogram.amax for name, item in OBSERVED.items()
    }
    assert all(item.smoothing_scales is None for item in found.scales.values())


@pytest.mark.parametrize(("outlier", "kept"), [(1.0, False), (100.0, True)])
def test_smoothing_that_stays_a_product_in_the_graph_has_to_be_worth_it(
    outlier: float, kept: bool
) -> None:
    """The graph's input has nobody before it whose constants could be divided instead."""
    rng = np.random.default_rng(0)
    model = graphs.product(rng.standard_normal((8, 5)).astype(np.float32))
    rows = rng.uniform(-1, 1, (256, 8)).astype(np.float32)
    rows[:, 0] *= outlier
    sites, observed = observe(model, rows)
    found = derive(model, sites, observed, find_recipe("int8-smooth"), None)
    (quantizer,) = found.scales.values()
    assert (quantizer.smoothing_scales is not None) == kept


def test_recalibration_keeps_the_champions_factors_and_moves_its_ranges() -> None:
    doubled = {
        name: SiteObservation(
            ExponentHistogram.of(item.rows * 2),
            item.channel_low * 2,
            item.channel_high * 2,
            item.rows * 2,
        )
        for name, item in OBSERVED.items()
    }
    found = derived("recalibrate", doubled, CHAMPION)
    for name, item in CHAMPION.items():
        again = found.scales[name]
        assert again.amax == pytest.approx(2 * item.amax, rel=1e-5)
        assert (again.smoothing_scales is None) == (item.smoothing_scales is None)
        assert (
            item.smoothing_scales is None or (again.smoothing_scales == item.smoothing_scales).all()
        )


def grown(factors: NDArray[np.float32]) -> dict[str, SiteObservation]:
    """Return what is observed where each channel has grown by a factor of its own."""
    grown_by = {name: np.resize(factors, item.channel_low.shape) for name, item in OBSERVED.items()}
    return {
        name: SiteObservation(
            ExponentHistogram.of(item.rows * grown_by[name]),
            item.channel_low * grown_by[name],
            item.channel_high * grown_by[name],
            item.rows * grown_by[name],
        )
        for name, item in OBSERVED.items()
    }


OTHER = grown(np.asarray([0.3, 1, 6, 1, 0.5, 12], np.float32))
"""Traffic that is large in other channels."""


def test_new_smoothing_mends_what_new_scales_alone_do_not() -> None:
    def error(found: Derived) -> float:
        return sum(item.error for item in found.ranking)

    scales_alone, renewed = (
        derived("recalibrate", OTHER, CHAMPION),
        derived("resmooth", OTHER, CHAMPION),
    )
    assert error(renewed) < 0.8 * error(scales_alone)
    fresh = derived("int8-smooth", OTHER)
    assert error(renewed) == pytest.approx(error(fresh)), "as good as a new search"


def test_the_ranking_tells_which_sites_drifted_and_where_new_scales_alone_are_worse() -> None:
    renewed_sites, scales_alone = (
        derived(name, OTHER, CHAMPION) for name in ("resmooth", "recalibrate")
    )
    for item in (*renewed_sites.ranking, *scales_alone.ranking):
        assert item.stale is not None
        assert item.stale > 0
    told = " ".join(renewed_sites.diagnostics)
    assert "the champion's quantizers drifted most there" in told
    most = max(renewed_sites.ranking, key=lambda item: (item.stale or 0) - item.error)
    assert most.site in told
    assert all(item.stale is None for item in derived("int8-smooth", OTHER, CHAMPION).ranking)
    calm = {name: replace(item, amax=item.amax * 8) for name, item in CHAMPION.items()}
    assert "recipe resmooth" not in " ".join(derived("recalibrate", OTHER, calm).diagnostics)


def test_the_sites_that_drift_most_are_kept_in_floating_point_beside_the_champions() -> None:
    recipe = replace(find_recipe("resmooth-mixed-6"), drifting_sites=2)
    mixed = derived("int8-mixed-2").scales
    found = derive(MODEL, SITES, OTHER, recipe, mixed)
    drifted = sorted(
        (item for item in found.ranking if item.stale is not None),
        key=lambda item: item.error - (item.stale or 0.0),
    )
    assert set(mixed) - set(found.scales) == {item.site for item in drifted[:2]}
    assert not set(found.scales) - set(mixed), "what was in floating point stays there"
    measured = {name: float(place) for place, name in enumerate(sorted(mixed))}
    by_loss = derive(MODEL, SITES, OTHER, recipe, mixed, losses=measured)
    assert set(mixed) - set(by_loss.scales) == set(sorted(mixed)[-2:])
    with pytest.raises(BadInput, match="would leave none of the 8 sites quantized"):
        derive(MODEL, SITES, OTHER, replace(recipe, drifting_sites=8), mixed)
    with pytest.raises(BadInput, match="sites that drift and a placement of its own"):
        replace(find_recipe("int8-smooth"), drifting_sites=2)


def test_new_smoothing_keeps_the_champions_placement_and_recipe() -> None:
    mixed = derived("int8-mixed-2")
    again = derive(MODEL, SITES, OTHER, renewed(RESMOOTH, "int8-mixed-2"), mixed.scales)
    assert set(again.scales) == set(mixed.scales)
    assert renewed(RESMOOTH, "int8-mixed-2").rounding == find_recipe("int8-mixed-2").rounding
    assert renewed(RESMOOTH, "int8-compact").tables is NumberFormat.INT8


@pytest.mark.parametrize("name", ["int8-max", "int4-awq", "recalibrate", "full-precision"])
def test_what_smooths_nothing_has_nothing_to_renew(name: str) -> None:
    with pytest.raises(BadInput, match="use recalibrate, or int8-smooth"):
        renewed(RESMOOTH, name)


def test_new_smoothing_stretches_no_channel_beyond_the_largest_change() -> None:
    one_channel = np.ones(16, np.float32)
    one_channel[3] = 1000.0
    found = derived("resmooth", grown(one_channel), CHAMPION, largest_change=4.0)
    for name, item in found.scales.items():
        before, after = (reach(quantizer) for quantizer in (CHAMPION[name], item))
        assert (after / before).max() <= 4.0 * (1 + 1e-5), name
        assert (after / before).min() >= 0.25 * (1 - 1e-5), name
    assert "calibration.largest_scale_change" in " ".join(found.diagnostics)
    assert not any(
        "largest_scale_change" in text
        for text in derived("resmooth", OBSERVED, CHAMPION, largest_change=4.0).diagnostics
    )


def test_new_smoothing_sees_no_channel_above_the_ceiling_of_the_champions_quantizers() -> None:
    name = next(name for name, item in CHAMPION.items() if item.smoothing_scales is not None)
    ceiling = CHAMPION[name].amax
    one_channel = np.ones(16, np.float32)
    one_channel[3] = 50.0
    found = derived(
        "resmooth",
        grown(one_channel),
        CHAMPION,
        ceilings={SiteValues(name, smoothed=True): ceiling},
    )
    assert (reach(found.scales[name]) <= 2 * reach(CHAMPION[name])).all()
    assert not (
        reach(derived("resmooth", grown(one_channel), CHAMPION).scales[name])
        <= 2 * reach(CHAMPION[name])
    ).all()


def reach(quantizer: Quantizer) -> NDArray[np.float64]:
    """Return the largest magnitude of each channel that a quantizer represents."""
    scales = np.ones(1) if quantizer.smoothing_scales is None else quantizer.smoothing_scales
    return np.asarray(quantizer.amax * np.float64(scales))


def test_recalibration_keeps_the_champions_placement() -> None:
    mixed = derived("int8-mixed-2").scales
    assert set(derived("recalibrate", deployed=mixed).scales) == set(mixed)


def test_a_mixed_recipe_keeps_the_most_sensitive_sites_in_high_precision() -> None:
    found = derived("int8-mixed-3")
    assert found.excluded_nodes == tuple(item.site for item in found.ranking[:3])
    assert not set(found.excluded_nodes) & set(found.scales)


def test_full_precision_quantizes_nothing_and_needs_no_data() -> None:
    found = derive(MODEL, SITES, {}, find_recipe("full-precision"), None)
    assert (found.scales, len(found.excluded_nodes)) == ({}, len(SITES))


def test_the_reference_is_what_each_quantizer_saw() -> None:
    found = derived("int8-smooth")
    for name, item in found.scales.items():
        assert found.reference[name].amax == pytest.approx(item.amax, rel=1e-6)
        if item.smoothing_scales is not None:
            rows = OBSERVED[name].rows / item.smoothing_scales
            assert (found.reference[name].counts == ExponentHistogram.of(rows).counts).all()


def test_the_same_observation_gives_the_same_scales() -> None:
    first, second = derived("int8-smooth"), derived("int8-smooth")
    assert {name: item.amax for name, item in first.scales.items()} == {
        name: item.amax for name, item in second.scales.items()
    }


# --- Training -------------------------------------------------------------------------------------
# --------------------

TRAINED = find_recipe("int8-trained")


def planned(found: Derived) -> dict[str, QuantizedSite]:
    return {item.site.name: item for item in found.plan.sites if isinstance(item, QuantizedSite)}


def layer_errors(found: Derived, site: str) -> list[float]:
    """Return the errors of a site's layers on the rows that training holds out.

    Its quantizer is at work.
    """
    item, rows = planned(found)[site], OBSERVED[site].rows[::HELD_OUT]
    assert item.activation is not None
    smoothing_scales = (
        1.0 if item.activation.smoothing_scales is None else item.activation.smoothing_scales
    )
    seen = fake_quantize((rows / smoothing_scales).astype(np.float32), item.activation)
    exact = [rows @ layer_weight(MODEL, layer).T for layer in item.site.layers]
    lost = [
        one - seen @ weight.dequantized().T for one, weight in zip(exact, item.weights, strict=True)
    ]
    return [float(np.square(one).sum()) for one in lost]


def test_every_layer_of_a_shared_site_is_trained_and_none_is_worse() -> None:
    site = "layer.0.attention.{query,key,value}"
    # Few bits leave much to learn; INT8 next to nothing on so small a layer.
    recipe = replace(TRAINED, weights=WeightScheme(NumberFormat.INT4), rounding=Trained(len(SITES)))
    plain = derive(MODEL, SITES, OBSERVED, replace(recipe, rounding=Gptq()), None)
    found = derive(MODEL, SITES, OBSERVED, recipe, None)
    before, after = layer_errors(plain, site), layer_errors(found, site)
    assert len(after) == 3
    assert all(now < 0.98 * then for now, then in zip(after, before, strict=True)), (before, after)


def test_training_keeps_the_clip_that_layers_share_and_moves_one_that_is_a_layers_own() -> None:
    plain = derive(MODEL, SITES, OBSERVED, replace(TRAINED, rounding=Gptq()), None).scales
    found = derive(
        MODEL, SITES, OBSERVED, replace(TRAINED, rounding=Trained(len(SITES))), None
    ).scales
    moved = {name for name, item in found.items() if item.amax != plain[name].amax}
    shared = {site.name for site in SITES if len(site.layers) > 1}
    assert moved
    assert shared
    assert not moved & shared


def test_the_most_sensitive_sites_that_have_rows_are_trained_and_those_passed_over_are_named() -> (
    None
):
    first, second = "layer.1.up", "layer.0.attention.{query,key,value}"
    bare = replace(OBSERVED[first], rows=np.zeros((0, 16), np.float32))
    observed = OBSERVED | {first: bare}
    recipe = replace(TRAINED, weights=WeightScheme(NumberFormat.INT4), rounding=Trained(1))
    found, plain = (
        derive(MODEL, SITES, observed, one, None, losses={first: 1.0, second: 0.5})
        for one in (recipe, replace(recipe, rounding=Gptq()))
    )
    changed = [
        name for name in planned(found) if _differ(planned(found)[name], planned(plain)[name])
    ]
    assert changed == [second]
    assert any(
        first in diagnostic and "not trained" in diagnostic for diagnostic in found.diagnostics
    )


def _differ(one: QuantizedSite, other: QuantizedSite) -> bool:
    return any(
        not np.array_equal(a.dequantized(), b.dequantized())
        for a, b in zip(one.weights, other.weights, strict=True)
    )


# --- What cannot be derived
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deployed", [None, {}], ids=["no champion", "a full-precision champion"])
@pytest.mark.parametrize("name", ["recalibrate", "recalibrate-mse"])
def test_recalibrating_without_a_quantized_champion_is_bad_input(
    name: str, deployed: Scales | None
) -> None:
    with pytest.raises(BadInput, match="no quantized champion exists"):
        derived(name, deployed=deployed)


@pytest.mark.parametrize(
    "strange",
    [{"another.site": Quantizer(1.0)}, {"layer.0.up": Quantizer(1.0, np.ones(3, np.float32))}],
    ids=["site", "width"],
)
def test_a_champion_of_another_model_is_bad_input(strange: Scales) -> None:
    with pytest.raises(BadInput, match="does not fit this model's sites"):
        derived("recalibrate", deployed=strange)


@pytest.mark.parametrize("name", WEIGHTED)
def test_an_empty_observation_is_bad_input(name: str) -> None:
    empty = Observer(SITES).result()
    with pytest.raises(
        BadInput, match="the calibration set is empty: no range can be observed; sample more"
    ):
        derived(name, empty, CHAMPION)


@pytest.mark.parametrize("name", WEIGHTED)
def test_nan_anywhere_in_the_observation_is_bad_input_that_names_the_site(name: str) -> None:
    rows = OBSERVED["layer.1.down"].rows
    # Outside of the kept rows: the histogram alone knows of it.
    broken = SiteObservation(
        ExponentHistogram.of(np.append(rows, np.float32(np.nan))),
        rows.min(axis=0),
        rows.max(axis=0),
        rows,
    )
    with pytest.raises(BadInput, match=r"layer\.1\.down: 1 activations are infinite or NaN"):
        derived(name, OBSERVED | {"layer.1.down": broken}, CHAMPION)


def test_a_site_that_was_not_observed_is_bad_input() -> None:
    part = {name: item for name, item in OBSERVED.items() if name != "layer.1.up"}
    with pytest.raises(BadInput, match=r"layer\.1\.up was not observed"):
        derived("int8-max", part)


def test_a_recipe_that_would_quantize_nothing_is_bad_input() -> None:
    with pytest.raises(BadInput, match="none of the 8 sites"):
        derived("int8-mixed-8")


def test_a_convolution_is_calibrated_without_smoothing() -> None:
    kernel = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    model = graphs.convolution(kernel)
    sites, observed = observe(
        model, np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(np.float32)
    )
    found = derive(model, sites, observed, find_recipe("int8-smooth"), None)
    assert found.scales["conv"].smoothing_scales is None


def both() -> tuple[onnx.ModelProto, tuple[Site, ...], dict[str, SiteObservation]]:
    """Return one tensor that feeds a product and a convolution."""
    helper = graphs.helper
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"], "m"),
        helper.make_node("Conv", ["x", "k"], ["y"], "c"),
    ]
    weights = {"w": np.eye(6, dtype=np.float32), "k": np.ones((5, 3, 2, 2), np.float32)}
    model = graphs.model(
        nodes, weights, {"x": ["n", 3, 6, 6]}, {"y": ["n", 5, 5, 5], "p": ["n", 3, 6, 6]}
    )
    _, observed = observe(
        model, np.random.default_rng(1).standard_normal((4, 3, 6, 6)).astype(np.float32)
    )
    return model, find_sites(model), observed


def test_a_tensor_that_feeds_a_product_and_a_convolution_has_one_quantizer() -> None:
    model, sites, observed = both()
    found = derive(model, sites, observed, find_recipe("int8-smooth"), None)
    assert len(found.scales) == 1
    onnx.checker.check_model(qdq.write(found.plan), full_check=True)
