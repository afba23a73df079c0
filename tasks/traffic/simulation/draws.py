"""Requests drawn from a corpus by a scenario, purely from corpus, scenario, seed and time.

Times, rows and tenants are drawn a block at a time; a payload is touched only where a shift has
reached it, so traffic without shifts costs little more than making the requests. Memory holds the
corpus and one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadInput
from infra.identifiers import RequestId
from tasks.records import Payload, Request
from tasks.traffic.simulation.payloads import Change, changes_of, poisoned
from tasks.traffic.simulation.scenario import (
    Mix,
    NewLanguage,
    Numbers,
    Poisoning,
    Scenario,
    TenantBurst,
    Weights,
)

BLOCK = 1024
"""Requests drawn from one random stream.

It is part of what a seed means, so a change of it changes every byte.
"""

Places = NDArray[np.intp]


def simulate(
    corpus: Sequence[Request],
    scenario: Scenario,
    seed: int,
    *,
    days: float | None = None,
    rate: float | None = None,
    until: datetime = datetime(2026, 1, 1, tzinfo=UTC),
) -> Iterator[Request]:
    """Yield the requests of `days` before `until` in the order of time, `rate` an hour.

    The same arguments give the same requests.

    Raises:
        BadInput: The corpus is empty, no row of it fits the weights, or shifts of texts meet
            tensors or the other way round.
    """
    changes = changes_of(scenario, corpus, seed)
    source = _Source(corpus, scenario)
    length = scenario.days if days is None else days
    count = round(length * 24 * (scenario.rate if rate is None else rate))
    start = until - timedelta(days=length)
    for number in range(-(-count // BLOCK)):
        places = np.arange(
            number * BLOCK, (number + 1) * BLOCK
        )  # whole, so that a longer run begins alike
        rng = np.random.default_rng((seed, number))
        at: Numbers = (places + rng.random(len(places))) * (length / count)
        block = _requests(
            source, changes, rng, at, start, f"{scenario.name}-{seed}", int(places[0])
        )
        yield from islice(block, count - int(places[0]))


def _requests(
    source: _Source,
    changes: Sequence[Change],
    rng: np.random.Generator,
    at: Numbers,
    start: datetime,
    name: str,
    first: int,
) -> Iterator[Request]:
    rows, tenants, attacks = source.rows(rng, at), source.tenants(rng, at), source.attacks(rng, at)
    strengths = [change.shift.when.at(at) for change in changes]
    seeds = rng.integers(2**63, size=len(at))
    labelled = rng.random(len(at)) < source.scenario.base.labelled
    for place, (moment, row, tenant) in enumerate(
        zip(at.tolist(), rows.tolist(), tenants, strict=True)
    ):
        drawn = source.corpus[row]
        payload: Payload = drawn.payload
        for change, strength in zip(changes, strengths, strict=True):
            if strength[place] > 0:
                payload = change.apply(payload, drawn, float(strength[place]), int(seeds[place]))
        attack = attacks[place]
        if attack is not None:
            payload, tenant = poisoned(payload, attack.magnitude), attack.tenant
        yield Request(
            request_id=RequestId(f"{name}-{first + place}"),
            time=start + timedelta(days=moment),
            tenant=tenant,
            domain=drawn.domain,
            language=drawn.language,
            payload=payload,
            label=drawn.label if labelled[place] and attack is None else None,
        )


class _Source:
    """The corpus with the ways that rows and tenants are drawn by."""

    def __init__(self, corpus: Sequence[Request], scenario: Scenario) -> None:
        if not corpus:
            raise BadInput(
                f"the corpus of the scenario {scenario.name} is empty: give rows to replay"
            )
        self.corpus, self.scenario = corpus, scenario
        self._domains = np.array([request.domain for request in corpus])
        self._languages = np.array([request.language for request in corpus])
        new = [shift.language for shift in scenario.shifts if isinstance(shift, NewLanguage)]
        self._base = self._cumulative(
            scenario.base.domains, scenario.base.languages, "base", without=new
        )
        self._mixes = [
            (shift, self._cumulative(*_target(shift), f"the shift {shift.kind}"))
            for shift in scenario.shifts
            if isinstance(shift, (Mix, NewLanguage))
        ]
        self._attacks = [shift for shift in scenario.shifts if isinstance(shift, Poisoning)]

    def rows(self, rng: np.random.Generator, at: Numbers) -> Places:
        """Draw which row of the corpus each request is."""
        drawn = np.searchsorted(self._base, rng.random(len(at)), side="right")
        for shift, cumulative in self._mixes:
            other = np.searchsorted(cumulative, rng.random(len(at)), side="right")
            drawn = np.where(rng.random(len(at)) < shift.when.at(at), other, drawn)
        return drawn

    def tenants(self, rng: np.random.Generator, at: Numbers) -> list[str]:
        """Draw who sends each request."""
        drawn = np.searchsorted(self._busy, rng.random(len(at)), side="right")
        names = [f"tenant-{number}" for number in drawn.tolist()]
        for shift in self.scenario.shifts:
            if isinstance(shift, TenantBurst):
                theirs = rng.random(len(at)) < shift.share * shift.when.at(at)
                names = [
                    shift.tenant if is_theirs else name
                    for name, is_theirs in zip(names, theirs, strict=True)
                ]
        return names

    def attacks(self, rng: np.random.Generator, at: Numbers) -> list[Poisoning | None]:
        """Draw which requests an attacker sends."""
        attackers: list[Poisoning | None] = [None] * len(at)
        for shift in self._attacks:
            for place in np.flatnonzero(rng.random(len(at)) < shift.share * shift.when.at(at)):
                attackers[int(place)] = shift
        return attackers

    @cached_property
    def _busy(self) -> Numbers:
        weights = 1 / np.arange(1, self.scenario.base.tenants + 1)
        return _rising(weights)

    def _cumulative(
        self, domains: Weights, languages: Weights, what: str, without: Sequence[str] = ()
    ) -> Numbers:
        """Return rising sums of the rows' probabilities.

        The named groups have their weights; rows of one group are alike.
        """
        weights = np.ones(len(self.corpus)) * ~np.isin(self._languages, list(without))
        for field, groups, wanted in (
            ("domain", self._domains, domains),
            ("language", self._languages, languages),
        ):
            if not wanted:
                continue
            shares = np.zeros(len(self.corpus))
            for name, weight in wanted.items():
                members = groups == name
                if weight and not members.any():
                    present = ", ".join(map(repr, sorted(set(groups.tolist()))))
                    raise BadInput(
                        f"{what} of the scenario {self.scenario.name} wants the {field} {name!r}, "
                        "which the corpus has "
                        f"not (it has {present}): choose a scenario that fits the model"
                    )
                total = (weights * members).sum()
                shares += members * (weight / total if total else 0)
            weights = weights * shares
        if not weights.sum():
            raise BadInput(
                f"no row of the corpus fits {what} of the scenario {self.scenario.name}: "
                "name others"
            )
        return _rising(weights)


def _rising(weights: Numbers) -> Numbers:
    sums: Numbers = np.cumsum(weights / weights.sum())
    sums[np.flatnonzero(weights)[-1] :] = (
        np.inf
    )  # rounding must not let a draw fall behind the last
    return sums


def _target(shift: Mix | NewLanguage) -> tuple[Weights, Weights]:
    return (
        ({}, {shift.language: 1.0})
        if isinstance(shift, NewLanguage)
        else (shift.domains, shift.languages)
    )
