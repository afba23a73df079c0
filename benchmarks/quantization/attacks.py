"""What an attacker with a twentieth of the traffic may send.

It knows the model.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.subject import Subject
from tasks.observation.request_amax import watch_amax
from tasks.payloads import fingerprint
from tasks.records import Payload, Request

FRACTION = 0.05
"""Fraction of the traffic that the attacker sends."""
TENANTS = 8
START = datetime(2026, 1, 5, tzinfo=UTC)
ONE, MANY = "one tenant, as extreme as it can", "many tenants, as extreme as they can"
NOBODY = "nobody: as many other honest requests"
"""Name of the control: what a rule moves when nothing is wrong."""
FEW = (ONE, NOBODY)
"""Kinds that a quick run shows."""
SCALES = (1.05, 1.2, 1.5, 1.8, 4.0, 1000.0)
"""What images are multiplied by."""
LETTERS = (
    *("!", "=", "\u200b", "🤖", "ꙮ", "0", "Ω", "的", "؟"),
    *("\\x00 ", "<unk> ", "[SEP] ", "lorem ", "]]>", "zzzz "),
)


@dataclass(frozen=True, slots=True)
class _Attack:
    """One way to attack: what is sent, by which tenants, and whether in a group of its own."""

    payloads: Sequence[Payload]
    tenant: Callable[[int], str]
    own_group: bool = False

    def requests(self, honest: Sequence[Request]) -> list[Request]:
        """Return the requests, each otherwise like an honest one."""
        return [
            self._request(honest[number], payload, number)
            for number, payload in enumerate(self.payloads)
        ]

    def _request(self, like: Request, payload: Payload, number: int) -> Request:
        name = f"attack-{number}"
        request = replace(_sent(like, name, self.tenant(number), number), payload=payload)
        if self.own_group:
            return replace(request, domain=name, language=f"x{number}")
        return request


def honest_requests(chosen: Subject, rng: np.random.Generator) -> list[Request]:
    """Return a window's honest traffic, drawn anew from the subject's."""
    rows = [request for request in chosen.traffic if request.language in ("en", "none")]
    drawn = [rows[place] for place in rng.permutation(len(rows))[:1000]]
    return [
        _sent(request, f"honest-{n}", f"tenant-{n % TENANTS}", n) for n, request in enumerate(drawn)
    ]


def attacks(
    chosen: Subject, honest: Sequence[Request], rng: np.random.Generator, few: bool = False
) -> Mapping[str, list[Request]]:
    """Return what the attacker sends, by kind; it picks what has the largest values."""
    count = round(len(honest) * FRACTION / (1 - FRACTION))
    bank = _bank(honest, rng)
    times = _times_usual(chosen, honest, bank)
    order = np.argsort(-times)
    huge = [bank[place] for place in order[:count]]
    moderate = [bank[place] for place in order if times[place] < 1.9][:count]
    tiny = [_tiny(honest[0].payload, number) for number in range(count)]
    harmless = [request.payload for request in _others(chosen, honest)][:count]
    kinds = {
        ONE: _Attack(huge, lambda n: "attacker"),
        MANY: _Attack(huge, _many),
        "many tenants, less than twice what is usual": _Attack(moderate, _many),
        "the same, each in a domain and language of its own": _Attack(moderate, _many, True),
        "many tenants, hardly anything": _Attack(tiny, _many),
        NOBODY: _Attack(harmless, lambda n: f"tenant-{n % TENANTS}"),
    }
    return {
        name: attack.requests(honest) for name, attack in kinds.items() if name in FEW or not few
    }


def _many(number: int) -> str:
    return f"sybil-{number}"


def _others(chosen: Subject, honest: Sequence[Request]) -> list[Request]:
    """Return honest requests that the window does not hold; the pool's where it holds them all."""
    present = {fingerprint(request.payload) for request in honest}
    rows = [
        request
        for request in (*chosen.traffic, *chosen.pool)
        if request.language == honest[0].language
    ]
    return [request for request in rows if fingerprint(request.payload) not in present]


def _bank(honest: Sequence[Request], rng: np.random.Generator) -> list[Payload]:
    """Return inputs that nobody sends: garbage and other scripts as texts, amplified images."""
    if isinstance(honest[0].payload, str):
        return _strange_texts(honest, rng)
    images = [np.asarray(request.payload, np.float32) for request in honest[:120]]
    return [image * np.float32(scale) for scale in SCALES for image in images[:40]]


def _strange_texts(honest: Sequence[Request], rng: np.random.Generator) -> list[Payload]:
    texts = [letter * times for letter in LETTERS for times in (1, 3, 30, 400)]
    words = " ".join(str(request.payload) for request in honest[:60]).split()
    texts += [
        " ".join(rng.permutation(words)[:length]) for length in (2, 8, 40, 120) for _ in range(30)
    ]
    texts += ["".join(chr(int(code)) for code in rng.integers(33, 0x2FFF, 60)) for _ in range(60)]
    return list(dict.fromkeys(texts))


def _times_usual(
    chosen: Subject, honest: Sequence[Request], bank: Sequence[Payload]
) -> NDArray[np.float32]:
    """Return each payload's largest amax over that of honest traffic at the same site."""
    payloads = [request.payload for request in honest[:256]]
    usual = watch_amax(chosen.instrumented, chosen.sites, chosen.inputs, payloads).amax.max(axis=0)
    amax = watch_amax(chosen.instrumented, chosen.sites, chosen.inputs, bank).amax
    times: NDArray[np.float32] = (amax / usual).max(axis=1).astype(np.float32)
    return times


def _tiny(payload: Payload, number: int) -> Payload:
    if isinstance(payload, str):
        return chr(0x61 + number % 26) * (1 + number // 26)
    return np.asarray(payload, np.float32) * np.float32(1e-6 * (1 + number))


def _sent(request: Request, name: str, tenant: str, number: int) -> Request:
    time = START + timedelta(seconds=number)
    return replace(request, request_id=name, tenant=tenant, time=time)
