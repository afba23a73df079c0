"""Which candidate is promoted, and that the front can be drawn."""

from __future__ import annotations

from tasks.quantization.report.pareto import (
    CandidateFigures,
    Limits,
    cheapest,
    draw_html,
    draw_png,
    points,
    undominated,
)

LIMITS = Limits("1 - cosine", 0.008, 0.75, 0.9)


def candidate(
    name: str, loss: float | None, size: float | None, latency: float | None, *, passed: bool
) -> CandidateFigures:
    return CandidateFigures(name, passed, False, "because", loss, size, latency, None, {})


CANDIDATES = (
    candidate("int8-max", 0.02, 0.6, 0.5, passed=False),
    candidate("int8-smooth", 0.009, 0.6, 0.55, passed=False),
    candidate("int8-mixed-4", 0.004, 0.66, 0.62, passed=True),
    candidate("int8-mixed-6", 0.005, 0.7, 0.65, passed=True),
    candidate("full-precision", 0.0, 1.0, None, passed=True),
)


def test_the_fastest_of_those_that_passed_is_promoted() -> None:
    assert cheapest(CANDIDATES) == 2


def test_of_equally_fast_ones_the_smaller_is_promoted_and_of_equal_ones_the_first() -> None:
    large, small = (
        candidate(name, 0.001, size, 0.5, passed=True)
        for name, size in (("large", 0.9), ("small", 0.5))
    )
    assert cheapest([large, small]) == 1
    assert cheapest([large, large]) == 0


def test_what_was_not_judged_by_its_latency_is_the_last_resort() -> None:
    assert cheapest(CANDIDATES[-1:]) == 0
    assert cheapest(CANDIDATES[-2:]) == 0


def test_nothing_is_promoted_where_nothing_passed() -> None:
    assert cheapest(CANDIDATES[:2]) is None
    assert cheapest(()) is None


def test_a_candidate_that_is_dearer_and_worse_is_not_on_the_front() -> None:
    found = points(CANDIDATES, lambda one: one.size)
    assert [one.name for one, _, _ in undominated(found)] == [
        "int8-smooth",
        "int8-mixed-4",
        "full-precision",
    ]


def test_candidates_without_a_figure_are_left_out_of_its_panel() -> None:
    assert len(points(CANDIDATES, lambda one: one.latency)) == len(CANDIDATES) - 1


def test_the_front_is_drawn_as_a_picture_and_as_a_page() -> None:
    assert draw_png("minilm", CANDIDATES, LIMITS).startswith(b"\x89PNG")
    page = draw_html("minilm", CANDIDATES, LIMITS)
    assert b"int8-mixed-4" in page
    assert b"https://cdn" not in page[-20_000:]  # it opens without a network
