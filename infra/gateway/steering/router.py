"""Which tier a request goes to: by its caller's wish, by rule, or as its answer is unsure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput

Tensors = Mapping[str, NDArray[Any]]
TIER = "tier"
"""The request's parameter that says its wish; the header is X-Tier."""
MOST_SAID = {"label": 10_000}
"""Characters of what a caller says of a request; of all else 256."""
BURST = 32.0
"""Unsure answers in a row that are answered again, however small the share is."""


class Tier(StrEnum):
    """What answered."""

    ROUTINE = "routine"  # the champion, or what serves in its place
    HIGHER = "higher"


class Why(StrEnum):
    """Why a request is not answered by the champion."""

    NONE = ""
    WISH = "wish"
    TENANT = "tenant"
    DOMAIN = "domain"
    LENGTH = "length"
    CONFIDENCE = "confidence"
    FALLBACK = "fallback"
    CANARY = "canary"  # by a release on trial, of the routine tier


@dataclass(frozen=True, slots=True)
class RoutingRules:
    """What sends a request to the higher tier before it is answered."""

    tenants: frozenset[str] = frozenset()
    domains: frozenset[str] = frozenset()
    longer_than: int | None = None  # numbers of a row of the largest input

    def why(self, context: Mapping[str, str], length: int) -> Why:
        """Return the first rule that names a request."""
        if context.get("tenant") in self.tenants:
            return Why.TENANT
        if context.get("domain") in self.domains:
            return Why.DOMAIN
        return Why.LENGTH if self.longer_than and length > self.longer_than else Why.NONE


@dataclass(frozen=True, slots=True)
class UnsureAnswers:
    """Which answers are unsure."""

    confidence: Callable[[Tensors], NDArray[np.float64]]  # outputs -> [rows]
    below: float  # the confidence under which one is unsure
    share: float  # of all requests, at most, that are answered again for that

    def has(self, outputs: Tensors) -> bool:
        """Return whether a row of an answer is unsure."""
        return bool((self.confidence(outputs) < self.below).any())


class Router:
    """The rules of one model, and how much of its share is used up.

    The share is a token bucket: over any span of n requests at most n * share + BURST are answered
    again for being unsure, also when traffic turns into what the model never knew.
    """

    def __init__(self, rules: RoutingRules, unsure: UnsureAnswers | None = None) -> None:
        self._rules, self._unsure = rules, unsure
        self._left = BURST

    def before(self, context: Mapping[str, str], length: int) -> Why:
        """Return why a request goes to the higher tier at once."""
        return self._rules.why(context, length)

    def after(self, outputs: Tensors) -> bool:
        """Return whether the routine tier's answer is unsure enough to be given again."""
        if self._unsure is None:
            return False
        self._left = min(self._left + self._unsure.share, BURST)
        if self._left < 1.0 or not self._unsure.has(outputs):
            return False
        self._left -= 1.0
        return True


def key_of(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Return the key by which a caller's requests stay together; empty where there is none.

    It is the parameter `key` or the header X-Key, else the tenant. Raises `BadInput` as `said`.
    """
    return said("key", parameters, headers) or said("tenant", parameters, headers)


def said(name: str, parameters: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """Return what a caller says by a parameter or the header X-NAME; empty where it says nothing.

    Raises:
        BadInput: It is no text or number, or a long one.
    """
    value = parameters.get(name) or headers.get(f"x-{name}") or ""
    if not isinstance(value, str | int | float):
        raise BadInput(f"the {name} is a {type(value).__name__}: a text is wanted")
    text, most = str(value), MOST_SAID.get(name, 256)
    if len(text) > most:
        raise BadInput(f"the {name} has {len(text)} characters: {most} are kept at most")
    return text


def wish_of(parameters: Mapping[str, Any], headers: Mapping[str, str]) -> Tier | None:
    """Return the tier that a caller wishes for; None where it leaves it to the rules.

    Raises:
        BadInput: There is no such tier.
    """
    wish = said(TIER, parameters, headers)
    if not wish:
        return None
    if wish not in tuple(Tier):
        raise BadInput(f"the tier is {wish!r}: wish for {' or '.join(Tier)}, or leave it out")
    return Tier(wish)


def length_of(feeds: Tensors) -> int:
    """Return the numbers of a row of the largest input: tokens of a text, samples of a sound."""
    rows = (values.size // max(len(values), 1) for values in feeds.values() if values.ndim)
    return max(rows, default=0)
