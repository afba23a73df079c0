"""The Pareto front of mixed precision can be looked at."""

from tasks.quantization.report.placements import documented, draw_placements
from tasks.quantization.sensitivity.mixed_precision import SiteCost, pareto_front

FRONT = pareto_front([SiteCost("a", 0.5, 10), SiteCost("b", 0.3, 30), SiteCost("c", 0.01, 60)])


def test_it_is_drawn_for_paper_and_for_a_browser_that_loads_nothing() -> None:
    drawn = draw_placements("m, int8-mixed-1", FRONT, ["a"])
    assert drawn["placements.png"].startswith(b"\x89PNG")
    assert b"every site quantized" in drawn["placements.html"]
    assert b"https://cdn" not in drawn["placements.html"][-20_000:]  # it opens without a network
    assert (
        drawn["placements.png"]
        != draw_placements("m, int8-mixed-1", FRONT, ["a", "b"])["placements.png"]
    )


def test_a_single_placement_is_no_front() -> None:
    assert draw_placements("m", FRONT[:1], []) == {}


def test_its_document_names_what_is_kept_lost_and_spent() -> None:
    assert documented(FRONT)[0] == {"kept": [], "loss": 0.81, "weights": 0}
