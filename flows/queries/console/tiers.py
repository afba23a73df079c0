"""Which tier answers how much of a model's traffic, as the gateway counts since it started."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from flows.orchestration.services import GATEWAY
from infra.addresses import noted_addresses
from infra.errors import BadInput, Unavailable
from infra.settings import settings

PATIENCE_S = 1.0
COUNTED = "requant_gateway_tier_seconds_count"
"""The series that counts answers by model and tier."""


@dataclass(frozen=True, slots=True)
class TierShare:
    """One tier's part of a model's answers."""

    tier: str
    answers: int
    share: float  # 0..1


@dataclass(frozen=True, slots=True)
class ModelTiers:
    """The tiers of one model, the busiest first; none where nothing was answered by tiers."""

    model: str
    tiers: tuple[TierShare, ...]
    problem: str | None  # why they are not known


def counted_tiers() -> Mapping[str, tuple[TierShare, ...]]:
    """Ask the gateway beside this console; raise `Unavailable` and `BadInput`."""
    address = noted_addresses(settings().root).get(GATEWAY.name)
    if address is None:
        raise Unavailable("no gateway runs beside this console")
    key = {"Authorization": f"Bearer {settings().secret().key}"}
    try:
        answer = httpx.get(f"{address}/metrics", headers=key, timeout=PATIENCE_S)
        text = answer.raise_for_status().text
    except httpx.HTTPError as error:
        raise Unavailable(f"the gateway did not say ({error})") from error
    return shares(text)


def shares(metrics: str) -> Mapping[str, tuple[TierShare, ...]]:
    """Return model -> its tiers, of the gateway's metrics; raise `BadInput`."""
    counts: dict[str, Counter[str]] = {}
    try:
        for family in text_string_to_metric_families(metrics):
            for sample in family.samples:
                if sample.name == COUNTED:
                    model, tier = sample.labels["model"], sample.labels["tier"]
                    counts.setdefault(model, Counter())[tier] += int(sample.value)
    except (ValueError, KeyError) as error:
        raise BadInput(f"the gateway's metrics cannot be read ({error})") from error
    return {
        model: tuple(
            TierShare(tier, count, count / of_model.total())
            for tier, count in of_model.most_common()
        )
        for model, of_model in counts.items()
        if of_model.total()
    }
