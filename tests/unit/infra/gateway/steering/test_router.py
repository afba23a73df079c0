from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from infra.errors import BadInput
from infra.gateway.steering.router import (
    BURST,
    Router,
    RoutingRules,
    Tier,
    UnsureAnswers,
    Why,
    length_of,
    said,
    wish_of,
)

OUTPUTS: dict[str, Any] = {"y": np.zeros((1, 2))}


def test_rules_are_asked_in_order_and_nobody_else_is_routed() -> None:
    router = Router(RoutingRules(frozenset({"vip"}), frozenset({"medical"}), 10))
    assert router.before({"tenant": "vip", "domain": "medical"}, 99) is Why.TENANT
    assert router.before({"domain": "medical"}, 99) is Why.DOMAIN
    assert router.before({}, 11) is Why.LENGTH
    assert router.before({}, 10) is Why.NONE
    assert not router.after(OUTPUTS)


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_traffic_that_is_all_unsure_gets_no_more_than_its_share(share: float) -> None:
    router = Router(RoutingRules(), UnsureAnswers(lambda _: np.zeros(1), 0.5, share))
    again = sum(router.after(OUTPUTS) for _ in range(5000))
    assert again <= 5000 * share + BURST
    assert again >= 5000 * share - 1


def test_a_batch_is_unsure_where_one_of_its_rows_is() -> None:
    router = Router(RoutingRules(), UnsureAnswers(lambda _: np.array([0.9, 0.1]), 0.5, 0.5))
    assert router.after(OUTPUTS)


def test_a_wish_is_read_from_parameters_before_headers() -> None:
    assert wish_of({"tier": "higher"}, {"x-tier": "routine"}) is Tier.HIGHER
    assert wish_of({}, {"x-tier": "routine"}) is Tier.ROUTINE
    assert wish_of({}, {}) is None
    with pytest.raises(BadInput, match="wish for routine or higher"):
        wish_of({"tier": 7}, {})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("tenant", ["a"], "the tenant is a list: a text is wanted"),
        ("key", {"x": 1}, "the key is a dict"),
        ("domain", "d" * 257, "the domain has 257 characters: 256 are kept at most"),
        ("label", "l" * 10_001, "the label has 10001 characters"),
    ],
)
def test_what_a_caller_says_is_a_short_text(name: str, value: Any, sentence: str) -> None:
    assert said(name, {name: 7}, {}) == "7"
    assert said(name, {}, {f"x-{name}": "header"}) == "header"
    with pytest.raises(BadInput, match=sentence):
        said(name, {name: value}, {})


def test_the_length_is_of_a_row_of_the_largest_input() -> None:
    assert length_of({"ids": np.zeros((4, 9)), "one": np.zeros(4)}) == 9
    assert length_of({"empty": np.zeros((0, 9)), "scalar": np.float32(1).reshape(())}) == 0
