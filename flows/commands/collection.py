"""`requant gc` and `requant hold`: what is kept, for how long, and what was freed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from flows.orchestration.identity import acting, authorized
from infra.access.roles import EVERY, Role
from infra.settings import settings
from tasks.promotion import journal
from tasks.promotion.retention import policy as rules
from tasks.promotion.retention.collecting import Collected, collect
from tasks.promotion.retention.policy import Policy
from tasks.promotion.retention.shared_weights import CollectedWeights, collect_weights
from tasks.specs.registration import current_digest, model_names


@dataclass(frozen=True, slots=True)
class Collection:
    """What was removed, or would be: of each model, and of the weights that all share."""

    models: Sequence[Collected]
    weights: CollectedWeights


def collect_garbage(
    model: str | None, depth: int | None, days: int | None, *, dry_run: bool
) -> Collection:
    """Remove what nothing needs any more, of one model or of all; say what was freed.

    Weights in files are shared, so all models are asked about them.

    Args:
        model: Name of a registered model; None takes all.
        depth: Champions before the present one to keep; None: `REQUANT_ROLLBACK_DEPTH`.
        days: What the ledger named since then is kept; None: `REQUANT_KEEP_DAYS`.
        dry_run: Only say what would go.

    Raises:
        NotFound: No such model.
        Tampered: A ledger cannot be trusted.
        Unavailable: Store or registry does not answer.
    """
    chosen = settings()
    policy = Policy(
        chosen.rollback_depth if depth is None else depth,
        timedelta(days=chosen.keep_days if days is None else days),
    )
    if model is not None:
        current_digest(model)
    names = [model] if model else model_names(chosen.store())
    act = "remove what nothing needs"
    actor = acting() if dry_run else authorized(Role.ADMIN, model or EVERY, act)
    models = [collect(name, policy, actor, dry_run=dry_run) for name in names]
    return Collection(models, collect_weights(policy.age, dry_run=dry_run))


def hold(model: str, version: str, reason: str, *, lift: bool) -> str:
    """Place a version's bundle under legal hold, or lift it; say what holds now.

    Raises:
        NotFound: The ledger knows no such version.
        Refused: Its bundle was removed.
    """
    actor = authorized(Role.ADMIN, model, f"hold or lift version {version} of {model}")
    entry = journal.commit(model, rules.hold, version, lift=lift, actor=actor, reason=reason)
    word = "no longer held" if lift else "held"
    return f"version {version} is {word}{'' if entry else ', as it was before'}"
