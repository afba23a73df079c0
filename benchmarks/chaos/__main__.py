"""`python -m benchmarks.chaos [--trials N] [--place P] [--seed N]`: what `make chaos` runs.

Each kind of fault is tried on each act so often; a table says what was tried, how often the fault
struck before the act was done, and what was lost. The exit code is 1 when anything was.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.chaos.campaign import Campaign, FaultTally
from benchmarks.chaos.kinds import KILLS, KINDS, acts_of
from benchmarks.chaos.places import PLACES, LocalScene
from benchmarks.chaos.scene import ACTS


def main() -> int:
    """Run the campaigns and print their table."""
    options = _options()
    warnings.simplefilter("ignore")
    began, lost = time.monotonic(), []
    print("| place | fault | act | tried | struck | lost |\n|---|---|---|---|---|---|", flush=True)
    for place in options.place or PLACES:
        lost += _campaign(place, options, began)
    for loss in lost:
        print(loss)
    print(f"{len(lost)} lost, in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return 1 if lost else 0


def _campaign(place: str, options: argparse.Namespace, began: float) -> list[str]:
    """Try every kind at one place, a row of the table each; return what was lost."""
    lost: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            campaign = Campaign(Path(folder), options.seed, place)
        except LookupError as error:
            print(f"| {place} | not tried: {error} | | 0 | 0 | 0 |", flush=True)
            return lost
        try:
            for kind, trial in KINDS[place].items():
                if options.kind and not any(kind.startswith(begin) for begin in options.kind):
                    continue
                many = options.kills is not None and kind in KILLS and place == LocalScene.name
                trials = options.kills if many else options.trials
                acts = [act for act in acts_of(kind) if act in (options.act or ACTS)]
                for act in acts:
                    if options.seconds and time.monotonic() - began > options.seconds:
                        break
                    tally = campaign.run(kind, trial, act, max(1, trials // len(acts)))
                    print(_row(place, kind, act, tally), flush=True)
                    lost += tally.lost
        finally:
            campaign.place.close()
    return lost


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("benchmarks.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=50, help="of each kind, over all acts")
    parser.add_argument(
        "--kills", type=int, help="of each of the two kinds that only kill, in a folder"
    )
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--kind", action="append", help="only kinds that begin like this")
    parser.add_argument("--act", action="append", choices=list(ACTS), help="only these acts")
    parser.add_argument("--place", action="append", choices=list(PLACES), help="only there")
    return parser.parse_args()


def _row(place: str, kind: str, act: str, tally: FaultTally) -> str:
    return f"| {place} | {kind} | {act} | {tally.tried} | {tally.struck} | {len(tally.lost)} |"


if __name__ == "__main__":
    sys.exit(main())
