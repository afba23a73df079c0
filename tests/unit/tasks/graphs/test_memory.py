"""What an observation takes counts every tensor that calibration watches."""

import math

from tasks.graphs.integer_regions import result_sites
from tasks.graphs.memory import footprint
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
