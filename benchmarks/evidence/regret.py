"""Our decision in every cell against an oracle that takes the best of all actions.

What counts is the loss beyond the model's budget, mean over held-out cases. Within it, nothing is
at stake.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.evidence.scene import CellChoice
from tasks.records import Action, Interval

MOST_REGRET, MOST_NEEDLESS = 0.05, 0.10
KEPT = "keep"
RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Regret:
    """What the decisions of all cells cost, beside the oracle's."""

    cells: int
    at_stake: int  # cells whose stale loss is over budget by more than the best action leaves
    regret: Interval | None  # (ours - best) / (stale - best); None where nothing was at stake
    builds: int
    due: int  # of the builds, those that changed weights asked for; evidence decided the others
    early: int  # of the due ones, those whose old engine would have kept the budget
    # The fraction of the others where the stale loss was within budget; None without any.
    needless: Interval | None
    missed: int  # cells at stake in which we kept
    retraining: int  # requests for retraining

    @property
    def reached(self) -> bool:
        """Return whether both goals are reached; never true without figures."""
        return (
            self.regret is not None
            and self.needless is not None
            and self.regret.value <= MOST_REGRET
            and self.needless.value <= MOST_NEEDLESS
        )


def regret(choices: Sequence[CellChoice]) -> Regret:
    """Sum up all cells, with 95 % bootstraps over cells."""
    excess = np.array(
        [[_excess(choice, name) for name in (KEPT, choice.taken)] for choice in choices]
    ).reshape(-1, 2)
    best = np.array([min(_excess(choice, name) for name in choice.losses) for choice in choices])
    stale, mine = excess[:, 0] - best, excess[:, 1] - best
    built = np.array([choice.taken != KEPT for choice in choices], bool)
    due, within = np.array([choice.due for choice in choices], bool) & built, excess[:, 0] <= 0
    decided = built & ~due
    return Regret(
        len(choices),
        int((stale > 0).sum()),
        _ratio(mine, stale),
        int(built.sum()),
        int(due.sum()),
        int((due & within).sum()),
        _ratio((decided & within).astype(np.float64), decided.astype(np.float64)),
        int((~built & (stale > 0)).sum()),
        sum(choice.action is Action.REQUEST_RETRAINING for choice in choices),
    )


def _excess(choice: CellChoice, name: str) -> float:
    return max(0.0, choice.losses[name] - choice.budget)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> Interval | None:
    if below.sum() <= 0:
        return None
    rows = np.random.default_rng(0).integers(0, len(below), (RESAMPLES, len(below)))
    sums = below[rows].sum(axis=1)
    ratios = above[rows].sum(axis=1)[sums > 0] / sums[sums > 0]
    return Interval(
        float(above.sum() / below.sum()), *map(float, np.quantile(ratios, (0.025, 0.975)))
    )


def as_lines(regret: Regret) -> list[str]:
    """Return for the page the figures, the goals, and whether they are reached."""
    figures = (
        ("loss at stake that the decisions leave", regret.regret, MOST_REGRET),
        ("builds decided on evidence that were needless", regret.needless, MOST_NEEDLESS),
    )
    head = (
        f"{regret.cells} cells, {regret.at_stake} with a loss at stake; {regret.builds} builds, "
        f"{regret.missed} cells at stake kept, {regret.retraining} requests for retraining. "
        f"{regret.due} of the builds were due because the weights had changed; "
        f"in {regret.early} of these the old engine would have kept the budget."
    )
    return [head, "", *(_line(what, fraction, goal) for what, fraction, goal in figures)]


def _line(what: str, fraction: Interval | None, goal: float) -> str:
    if fraction is None:
        return f"- {what}: nothing to count"
    verdict = "reached" if fraction.value <= goal else "missed"
    return (
        f"- {what}: {fraction.value:.1%} ({fraction.low:.1%} to {fraction.high:.1%}); "
        f"goal at most {goal:.0%}: {verdict}"
    )
