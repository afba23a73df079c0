"""What an observation takes counts every tensor that calibration watches."""

import math

from tasks.graphs.integer_regions import result_sites
from tasks.graphs.memory import (
    BESIDE_BASE,
    COPIES,
    PACKED,
    deriving_beside,
    export_footprint_beside,
    footprint,
    observing_beside,
)
from tasks.graphs.sites import find_sites
from tests import graphs

MODEL = graphs.convolutions()
SITES = find_sites(MODEL)


def test_what_layers_make_is_counted_with_what_they_read() -> None:
    results = result_sites(MODEL, SITES)
    assert results
    alone, both = (
        footprint(MODEL, sites, tokens=1, batch=16, kept=192) for sites in (SITES, SITES + results)
    )
    more = both.activations - alone.activations
    assert more >= 4 * 16 * len(results)
    assert math.isclose(more % 4, 0)


def test_no_rows_are_kept_of_what_layers_make() -> None:
    results = result_sites(MODEL, SITES)
    alone, both = (
        footprint(MODEL, sites, tokens=1, batch=16, kept=192) for sites in (SITES, SITES + results)
    )
    assert both.rows == alone.rows


def test_mapped_weights_do_not_count_while_a_model_is_observed() -> None:
    def observed(cases: int) -> int:
        return observing_beside(MODEL, SITES, tokens=1, cases=cases, kept=192)

    whole = footprint(MODEL, SITES, tokens=1, batch=1, kept=192)
    assert BESIDE_BASE + whole.rows < observed(1) < BESIDE_BASE + whole.total
    grown = observed(2) - observed(1)
    assert math.isclose(observed(3), observed(1) + 2 * grown, rel_tol=0.01)


def test_deriving_beside_counts_weights_in_fewer_bits_and_the_largest_layer() -> None:
    whole = footprint(MODEL, SITES, tokens=1, batch=1, kept=192, hessian=True)
    plain, hessian = (
        deriving_beside(MODEL, SITES, tokens=1, kept=192, hessian=has) for has in (False, True)
    )
    packed = round(PACKED * whole.weights / COPIES)
    dims = {item.name: item.dims for item in MODEL.graph.initializer}
    layers = [layer for site in SITES for layer in site.layers]
    widest = max(dims[layer.weight][layer.output_axis] for layer in layers)
    compared = 2 * 192 * widest * 4  # of float32
    assert plain == BESIDE_BASE + whole.rows + whole.largest + compared + packed
    assert hessian - plain == whole.gram > 0


def test_a_source_that_is_read_piece_by_piece_needs_no_room_for_the_whole() -> None:
    sizes = (4_000_000_000, 250_000_000)
    mapped, whole = (export_footprint_beside(*sizes, mapped=way) for way in (True, False))
    assert whole - mapped == sizes[0]
    assert mapped < sizes[0] / 2
