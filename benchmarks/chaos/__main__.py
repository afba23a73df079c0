"""`python -m benchmarks.chaos [--trials N] [--seconds S] [--seed N]`: what `make chaos` runs.

Each kind of fault is tried on each act so often; a table says what was tried, how often the fault
struck before the act was done, and what was lost. The exit code is 1 when anything was.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.chaos.campaign import ALONE, KINDS, Campaign, FaultTally
from benchmarks.chaos.scene import ACTS


def main() -> int:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser("benchmarks.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=50, help="of each kind, over all acts")
    parser.add_argument("--seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--kind", action="append", help="only kinds that begin like this")
    parser.add_argument("--act", action="append", choices=list(ACTS), help="only these acts")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    began, lost = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(Path(folder), options.seed)
        print("| fault | act | tried | struck | lost |\n|---|---|---|---|---|", flush=True)
        for kind in KINDS:
            if options.kind and not any(kind.startswith(begin) for begin in options.kind):
                continue
            acts = ["all"] if kind in ALONE else options.act or list(ACTS)
            for act in acts:
                if options.seconds and time.monotonic() - began > options.seconds:
                    break
                name = act if act in ACTS else next(iter(ACTS))
                tally = campaign.run(kind, name, max(1, options.trials // len(acts)))
                print(_row(kind, act, tally), flush=True)
                lost += tally.lost
    for loss in lost:
        print(loss)
    print(f"{len(lost)} lost, in {time.monotonic() - began:.0f} s, seed {options.seed}")
    return 1 if lost else 0


def _row(kind: str, act: str, tally: FaultTally) -> str:
    return f"| {kind} | {act} | {tally.tried} | {tally.struck} | {len(tally.lost)} |"


if __name__ == "__main__":
    sys.exit(main())
