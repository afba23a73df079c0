"""Training a site: better on rows it never saw, never worse, and stored as it was trained."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.numerics.formats import NumberFormat, PerBlock
from tasks.numerics.quantized_weight import WeightScheme, quantize
from tasks.numerics.quantizer import Quantizer, fake_quantize
from tasks.quantization.weight.held_out_rows import HELD_OUT
from tasks.quantization.weight.qat import TrainedSite, train
from tasks.quantization.weight.rounding import train_site
from tests.unit.tasks.quantization.weight.rounded import gptq

Floats = NDArray[np.float32]
SCHEMES = {
    "int8": WeightScheme(),
    "int4": WeightScheme(NumberFormat.INT4, PerBlock(16)),
    "int4, asymmetric": WeightScheme(NumberFormat.INT4, PerBlock(16), symmetric=False),
    "int2": WeightScheme(NumberFormat.INT2, PerBlock(16), clipped=True),
}


def problem(seed: int = 0) -> tuple[Floats, Floats]:
    """Draw rows [400, 40] whose inputs depend on each other, and a weight [12, 40]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((400, 10)) @ rng.standard_normal(
        (10, 40)
    ) + 0.1 * rng.standard_normal((400, 40))
    return rows.astype(np.float32), rng.standard_normal((12, 40)).astype(np.float32)


def error(rows: Floats, weight: Floats, found: TrainedSite) -> float:
    seen = rows if found.quantizer is None else fake_quantize(rows, found.quantizer)
    exact = rows @ weight.T
    return float(
        np.square(exact - seen @ found.weight.dequantized().T).sum() / np.square(exact).sum()
    )


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("quantized", [False, True], ids=["weight-only", "with its activation"])
def test_rows_held_out_are_served_better_than_by_gptq(
    scheme: WeightScheme, quantized: bool
) -> None:
    rows, weight = problem()
    quantizer = Quantizer(float(np.abs(rows).max())) if quantized else None
    found = train(rows, weight, gptq(weight, rows, scheme), quantizer)
    # GPTQ's INT8 leaves little to win.
    assert found.after <= found.before * (1.0 if scheme.format is NumberFormat.INT8 else 0.95)
    assert error(rows[::HELD_OUT], weight, found) == pytest.approx(found.after, rel=1e-3)


def test_a_clip_that_outliers_made_useless_is_learned() -> None:
    rows, weight = problem(1)
    stale = Quantizer(float(np.abs(rows).max()) * 3)
    found = train(rows, weight, quantize(weight, WeightScheme()), stale)
    assert found.quantizer is not None
    assert found.quantizer.amax < stale.amax
    assert found.after < found.before


def test_what_cannot_be_bettered_is_returned_as_it_was() -> None:
    rows, weight = problem(2)[0], np.eye(40, dtype=np.float32) * 127
    start = quantize(weight, WeightScheme())
    found = train(rows, weight, start, None, steps=20)
    assert found.weight is start
    assert found.before == found.after


def test_training_twice_gives_the_same() -> None:
    rows, weight = problem(3)
    first, again = (
        train(rows, weight, quantize(weight, SCHEMES["int4"]), Quantizer(20.0), steps=30)
        for _ in range(2)
    )
    assert np.array_equal(first.weight.values, again.weight.values)
    assert np.array_equal(first.weight.scales, again.weight.scales)
    assert first.quantizer is not None
    assert again.quantizer is not None
    assert first.quantizer.amax == again.quantizer.amax


def test_asymmetric_bounds_are_kept() -> None:
    rows, weight = np.abs(problem(4)[0]), problem(4)[1]
    quantizer = Quantizer(float(rows.max()), bounds=(0.0, float(rows.max())))
    found = train(rows, weight, quantize(weight, SCHEMES["int4"]), quantizer, steps=30)
    assert found.quantizer is not None
    assert found.quantizer.scale == quantizer.scale
    assert error(rows[::HELD_OUT], weight, found) == pytest.approx(found.after, rel=1e-3)


def test_scales_stay_positive_and_levels_inside_the_format() -> None:
    rows, weight = problem(5)
    found = train(rows, weight, quantize(weight, SCHEMES["int2"]), None).weight
    assert (found.scales > 0).all()
    assert found.values.astype(int).min() >= -2
    assert found.values.astype(int).max() <= 1


def test_too_few_rows_are_bad_input() -> None:
    rows, weight = problem()
    with pytest.raises(BadInput, match="at least 8"):
        train(rows[:7], weight, quantize(weight, WeightScheme()), None)


def test_floating_point_formats_are_bad_input() -> None:
    rows, weight = problem()
    with pytest.raises(BadInput, match="evenly spaced"):
        train(rows, weight, quantize(weight, WeightScheme(NumberFormat.FP8)), None)


def test_every_layer_of_a_site_loses_less_after_it_was_trained() -> None:
    rows, weight = problem(6)
    layers, quantizer = [weight[:5], weight[5:]], Quantizer(float(np.abs(rows).max()))
    start = tuple(quantize(layer, SCHEMES["int4"]) for layer in layers)
    trained, kept = train_site(layers, rows, start, quantizer)
    seen = fake_quantize(rows[::HELD_OUT], quantizer)
    for layer, before, after in zip(layers, start, trained, strict=True):
        exact = rows[::HELD_OUT] @ layer.T
        lost = [
            float(np.square(exact - seen @ one.dequantized().T).sum()) for one in (before, after)
        ]
        assert lost[1] < 0.9 * lost[0]
    assert kept is quantizer


def test_a_site_of_one_layer_learns_its_clip() -> None:
    rows, weight = problem(1)
    stale = Quantizer(float(np.abs(rows).max()) * 3)
    (_,), found = train_site([weight], rows, (quantize(weight, WeightScheme()),), stale)
    assert found is not None
    assert found.amax < stale.amax
