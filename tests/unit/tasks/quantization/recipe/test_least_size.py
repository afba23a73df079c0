"""A bound on an engine's bytes that no written graph falls below."""

import numpy as np
import pytest

from tasks.graphs.sites import find_sites
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.least_size import least_bytes
from tests import graphs

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("recipe", "bytes_a_weight"),
    [("int8-smooth", 1), ("int4-block-32", 0.5), ("fp16", 2), ("full-precision", 4)],
)
def test_the_bound_is_the_weights_at_their_format(recipe: str, bytes_a_weight: float) -> None:
    graph = graphs.product(RNG.standard_normal((64, 32)).astype(np.float32))
    sites = find_sites(graph)
    weights = 64 * 32
    others = sum(
        int(np.prod(item.dims)) for item in graph.graph.initializer if item.dims != [64, 32]
    )
    found = least_bytes(graph, sites, find_recipe(recipe))
    assert weights * bytes_a_weight <= found <= weights * bytes_a_weight + 8 * others
