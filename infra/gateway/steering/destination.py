"""The destination of one request: which release answers it, and why that one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from infra.errors import BadInput
from infra.gateway.release import ServedRelease
from infra.gateway.steering.router import Router, Tensors, Tier, Why


@dataclass(frozen=True, slots=True)
class Asking:
    """What is known of a request before it is answered."""

    context: Mapping[str, str]
    wish: Tier | None = None
    key: str = ""  # by which it stays with one release while another is on trial


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one request goes."""

    release: ServedRelease
    tier: Tier = Tier.ROUTINE
    why: Why = Why.NONE


@dataclass(slots=True)
class Steering:
    """The tiers of one model; one assignment changes each."""

    higher: ServedRelease | None = None
    router: Router | None = None

    def destination(self, champion: ServedRelease, asking: Asking, length: int) -> Destination:
        """Return where a request goes at first.

        Raises:
            BadInput: It wishes for a tier that this model has not.
        """
        higher = self.higher
        if higher is None:
            if asking.wish is Tier.HIGHER:
                raise BadInput(
                    f"{champion.model} has no higher tier: leave the wish out, or give its spec "
                    "serving.routing"
                )
            return Destination(champion)
        if asking.wish is Tier.ROUTINE:
            return Destination(champion)
        why = Why.WISH if asking.wish else Why.NONE
        if not why and self.router is not None:
            why = self.router.before(asking.context, length)
        return Destination(higher, Tier.HIGHER, why) if why else Destination(champion)

    def again(
        self, destination: Destination, asking: Asking, outputs: Tensors
    ) -> Destination | None:
        """Return where a request goes whose answer is unsure; None where the answer stands."""
        higher, router = self.higher, self.router
        if destination.tier is not Tier.ROUTINE or asking.wish or higher is None or router is None:
            return None
        unsure = router.after(outputs)
        return Destination(higher, Tier.HIGHER, Why.CONFIDENCE) if unsure else None
