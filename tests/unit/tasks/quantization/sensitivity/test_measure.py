"""The ranking from the observation alone, against measuring the output.

The output is measured with one site after the other quantized.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from scipy.stats import spearmanr

from infra.errors import BadInput
from tasks.graphs.sites import Site, layer_weight
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.quantized_weight import WeightScheme
from tasks.numerics.quantizer import Quantizer
from tasks.observation.scales import Scales
from tasks.quantization.activation.quantizers import SiteQuantizer
from tasks.quantization.graph import qdq
from tasks.quantization.pipeline.derive import derive
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.sensitivity.measure import (
    Losses,
    by_submodule,
    dump_losses,
    output_loss,
    parse_losses,
    rank,
    spread,
)
from tasks.specs.spec import Task
from tests import graphs
from tests.plans import from_scales
from tests.unit.tasks.quantization.observations import observe


def one_at_a_time(
    model: graphs.onnx.ModelProto, sites: tuple[Site, ...], scales: Scales, x: graphs.Floats
) -> Mapping[str, float]:
    exact = graphs.run(model, x)
    outputs = {
        name: graphs.run(qdq.write(from_scales(model, sites, {name: item})), x)
        for name, item in scales.items()
    }
    return {name: float(np.square(found - exact).sum()) for name, found in outputs.items()}


@pytest.mark.parametrize("seed", range(3))
def test_the_ranking_agrees_with_the_error_of_the_whole_network(seed: int) -> None:
    model = graphs.residual_network(seed=seed)
    x = np.random.default_rng(seed).standard_normal((256, 32)).astype(np.float32)
    sites, observed = observe(model, x)
    derived = derive(model, sites, observed, find_recipe("int8-max"), None)
    measured = one_at_a_time(model, sites, derived.scales, x)
    ranked = [item.site for item in derived.ranking]
    correlation = spearmanr([-measured[name] for name in ranked], range(len(ranked))).statistic
    print(f"Spearman correlation {correlation:.2f} over {len(ranked)} sites")
    assert correlation > 0.85
    assert max(measured, key=lambda name: measured[name]) in ranked[:2]


def test_shares_of_the_work_add_up_to_one() -> None:
    model = graphs.encoder(16)
    sites, observed = observe(model, np.ones((2, 3, 16), np.float32))
    ranking = derive(model, sites, observed, find_recipe("int8-max"), None).ranking
    assert sum(item.macs_share for item in ranking) == pytest.approx(1)
    by_name = {item.site: item.macs_share for item in ranking}
    assert by_name["layer.0.up"] == pytest.approx(4 / 24)  # 4 w^2 of two layers' 12 w^2 each
    assert by_name["layer.0.attention.{query,key,value}"] == pytest.approx(3 / 24)


def convolution_error(amax: float) -> float:
    kernel = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    model = graphs.convolution(kernel)
    sites, observed = observe(
        model, np.random.default_rng(1).standard_normal((8, 3, 6, 6)).astype(np.float32)
    )
    weights = {"conv": [layer_weight(model, sites[0].layers[0])]}
    (found,) = rank(
        sites, observed, {"conv": SiteQuantizer(Quantizer(amax))}, weights, {"conv": WeightScheme()}
    )
    return found.error


def test_a_convolutions_cost_follows_its_range() -> None:
    fitting = convolution_error(4.0)
    assert convolution_error(40.0) > 10 * fitting  # nearly the whole range lies idle
    assert convolution_error(0.4) > 100 * fitting  # nearly everything is clipped


def test_a_convolutions_cost_is_near_the_true_error_of_its_output() -> None:
    kernel = np.random.default_rng(0).standard_normal((5, 3, 2, 2)).astype(np.float32)
    model = graphs.convolution(kernel)
    x = np.random.default_rng(1).standard_normal((64, 3, 6, 6)).astype(np.float32)
    sites, observed = observe(model, x)
    scales = {"conv": Quantizer(observed["conv"].histogram.amax)}
    exact = graphs.run(model, x)
    true = one_at_a_time(model, sites, scales, x)["conv"] / float(np.square(exact).sum())
    assert convolution_error(scales["conv"].amax) == pytest.approx(true, rel=0.3)
    assert observed["conv"].histogram == ExponentHistogram.of(x)


def test_logits_that_agree_in_their_class_still_differ_in_loss() -> None:
    exact = np.array([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]], np.float32)
    near, far = exact + np.float32(0.01) * np.eye(2, 3, dtype=np.float32), exact * np.float32(0.5)
    losses = [
        output_loss(Task.IMAGE_CLASSIFICATION, exact, one).mean() for one in (exact, near, far)
    ]
    assert losses[0] == pytest.approx(0, abs=1e-12)
    assert losses[0] < losses[1] < losses[2]


def test_an_embeddings_loss_is_what_its_cosine_lacks() -> None:
    exact, found = np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 1.0]], np.float32)
    assert output_loss(Task.TEXT_EMBEDDING, exact, found)[0] == pytest.approx(1 - 0.5**0.5)


def test_measured_losses_survive_their_document() -> None:
    losses = Losses({"a": 0.25, "norms": 0.5}, {"norms": "norms"}, 0.3, 24)
    assert parse_losses(dump_losses(losses), where="there") == losses
    with pytest.raises(BadInput, match="there"):
        parse_losses(b"[]", where="there")


def test_submodules_add_up_their_parts() -> None:
    losses = Losses({"a": 0.25, "b": 0.5, "n": 0.1}, {"n": "norms"}, 0.8, 24)
    groups = by_submodule(losses, {"a": "feed-forward", "b": "feed-forward"})
    assert [(group.name, group.loss, group.parts) for group in groups] == [
        ("feed-forward", 0.75, 2),
        ("norms", 0.1, 1),
    ]


def test_a_sequence_is_thinned_evenly_and_the_same_way_every_time() -> None:
    texts = [str(place) for place in range(100)]
    assert spread(texts, 5) == ("0", "24", "49", "74", "99")
    assert spread(texts[:3], 5) == ("0", "1", "2")


def test_a_mixed_recipe_keeps_what_the_measured_losses_say() -> None:
    model = graphs.encoder(16)
    sites, observed = observe(
        model, np.random.default_rng(0).standard_normal((4, 5, 16)).astype(np.float32)
    )
    worst = sites[-1].name
    losses = {site.name: 1.0 if site.name == worst else 0.001 for site in sites}
    derived = derive(model, sites, observed, find_recipe("int8-mixed-1"), None, losses=losses)
    assert derived.excluded_nodes == (worst,)
    assert derived.ranking[0].loss == 1.0
