"""No range follows from infinities and NaN: whose they are is said before anything is stored."""

from collections import Counter
from collections.abc import Mapping, Sequence

from infra.errors import BadInput
from tasks.graphs.sites import Site
from tasks.observation.observer import SiteObservation


def require_finite(
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    requests: Sequence[str],
    *,
    where: str,
) -> None:
    """Raise `BadInput` naming the first site in graph order that saw infinities or NaN.

    It tells how many, and from whom: `requests` are the ids of the cases by number.
    """
    broken = [site.name for site in sites if observed[site.name].histogram.nonfinite]
    if not broken:
        return
    first = observed[broken[0]]
    cases = Counter({case: count for case, count in first.broken.items() if case >= 0})
    whose = "no single request can be named"
    if cases:
        worst = sorted(cases, key=lambda case: (-cases[case], case))
        more = f" and {len(worst) - 1} more" if len(worst) > 1 else ""
        whose = f"most of them from request {requests[worst[0]]!r}{more}"
    others = f", and {len(broken) - 1} sites after it," if len(broken) > 1 else ""
    raise BadInput(
        f"{where}: site {broken[0]}{others} saw {first.histogram.nonfinite} infinite or NaN "
        f"activations, {whose}: "
        "full precision itself overflows there; take these requests out of the traffic, or mend "
        "the model"
    )
