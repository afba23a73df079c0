"""A clip's cost over requests leaves out the few where it costs most, and survives being stored."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import BadInput
from tasks.graphs.sites import Site
from tasks.numerics.histogram import ExponentHistogram
from tasks.numerics.output_error import squared_error
from tasks.observation.request_amax import SiteValues
from tasks.observation.request_histograms import (
    LEFT_OUT,
    RequestHistograms,
    dump_histograms,
    parse_histograms,
    watch_histograms,
)
from tests.unit.tasks.observation.test_clipped_fraction import (
    CHANNELS,
    LINEAR,
    POOLED,
    TEXTS,
    Doubling,
    Padded,
)

Floats = NDArray[np.float32]


def seen(
    texts: list[Floats] = TEXTS,
    weights: list[float] | None = None,
    *,
    size: int = 4,
    ceiling: float = np.inf,
    support: float = 0.0,
    sites: tuple[Site, ...] = (LINEAR,),
) -> dict[str, RequestHistograms]:
    return watch_histograms(
        Doubling(),
        sites,
        Padded(size),
        texts,
        {},
        weights=np.asarray(weights or [1.0] * len(texts)),
        ceilings={SiteValues("fc"): ceiling},
        support=support,
    )


def mean_error(texts: list[Floats], clip: float) -> float:
    return float(np.mean([squared_error(ExponentHistogram.of(2 * one), clip) for one in texts]))


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("clip", [1.5, 8.0, 30.0])
def test_every_request_counts_alike_whatever_its_length_and_padding(size: int, clip: float) -> None:
    assert seen(size=size)["fc"].cost(clip) == pytest.approx(mean_error(TEXTS, clip), rel=0.05)


def test_the_dearest_requests_are_left_out_up_to_their_share_of_the_traffic() -> None:
    texts = [
        *[np.full((3, CHANNELS), 1 + n / 100, np.float32) for n in range(19)],
        np.full((3, CHANNELS), 500, np.float32),
    ]
    everybody, most = seen(texts)["fc"], seen(texts, support=0.05 / LEFT_OUT)["fc"]
    assert everybody.cost(2.5) > 1000
    assert most.cost(2.5) == pytest.approx(mean_error(texts[:-1], 2.5), rel=0.05)
    heavier = seen(texts, [1.0] * 19 + [3.0], support=0.05 / LEFT_OUT)[
        "fc"
    ]  # it stands for more than may be left out
    assert heavier.cost(2.5) > 1000


def test_values_above_a_ceiling_count_as_the_ceiling() -> None:
    found = seen(ceiling=5.0)["fc"]
    assert found.amax == 5.0
    clipped = [np.minimum(one, 2.5) for one in TEXTS]
    assert found.cost(4.0) == pytest.approx(mean_error(clipped, 4.0), rel=0.3)
    assert found.cost(4.0) < 0.2 * seen()["fc"].cost(4.0)


def test_a_site_whose_rows_belong_to_no_request_is_left_out() -> None:
    assert set(seen(sites=(LINEAR, POOLED))) == {"fc"}


def test_what_was_stored_is_read_back() -> None:
    before = seen(support=0.1)
    after = parse_histograms(dump_histograms(before), where="x")
    assert [after["fc"].cost(clip) for clip in (1.0, 7.0)] == [
        before["fc"].cost(clip) for clip in (1.0, 7.0)
    ]
    with pytest.raises(BadInput, match=r"^x holds no requests .* delete it"):
        parse_histograms(dump_histograms(before)[:-40], where="x")
