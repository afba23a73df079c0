"""What must hold after every fault and one reconciliation; each thing that does not is a loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from benchmarks.chaos.scene import SHARED
from benchmarks.orchestration.served import MODEL
from benchmarks.orchestration.tiny_releases import numbered_graph
from flows.reconcile import reconcile
from infra.canonical import sha256
from infra.errors import RequantError
from infra.run_scope import run_scope
from infra.settings import settings
from tasks.promotion import journal
from tasks.promotion.audit.faults import faults
from tasks.promotion.ledger import REQUEST, EntryKind, champion, cut_off_approvals
from tasks.promotion.release import GRAPH

NUMBERS = range(1, 8)


def losses(allowed: Collection[int]) -> list[str]:
    """Reconcile once, and return what is wrong: nothing should be.

    Args:
        allowed: Numbers of the graphs of which one may serve now.
    """
    reconcile.fn(MODEL)
    with run_scope():  # not the reconciliation's: what it kept proves nothing
        return [*_wrong(allowed), *_wrong_weights(), *_left_behind()]


def _wrong(allowed: Collection[int]) -> list[str]:
    entries = journal.read(MODEL)
    wrong = list(faults(MODEL))
    reigning = champion(entries)
    if reigning is None or reigning.release is None:
        return [*wrong, "no champion"]
    release = settings().release(MODEL, reigning.release)
    numbers = {str(sha256(numbered_graph(number))): number for number in NUMBERS}
    served = numbers[release.files[GRAPH].sha256]
    if served not in allowed:
        wrong.append(f"number {served} serves, and one of {sorted(allowed)} should")
    shown = settings().registry().aliases(MODEL).get("champion")
    if shown != reigning.version:
        wrong.append(f"the alias shows {shown}, and version {reigning.version} is champion")
    if cut_off_approvals(entries):
        wrong.append("an approval was left without its promotion")
    requests = Counter(str(entry.details.get(REQUEST)) for entry in entries)
    wrong += [
        f"request {name} is in {count} entries" for name, count in requests.items() if count > 1
    ]
    kinds = (EntryKind.PROMOTED, EntryKind.APPROVED)
    named = Counter((entry.kind, entry.release) for entry in entries if entry.kind in kinds)
    wrong += [f"{kind} twice: {release}" for (kind, release), count in named.items() if count > 1]
    return wrong


def _wrong_weights() -> list[str]:
    """Return what became of the weights that a registration names: they must be whole."""
    weights = settings().weights()
    try:
        weights.require_stored(weights.keep(SHARED))
    except RequantError as error:
        return [str(error)]
    return []


def _left_behind() -> list[str]:
    """Return runs that seem to run, and unfinished files."""
    from mlflow.tracking import MlflowClient

    uri, wrong = settings().mlflow_uri, []
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name(MODEL)
    if experiment and client.search_runs(
        [experiment.experiment_id], "attributes.status = 'RUNNING'"
    ):
        wrong.append("a run of a killed process still runs")
    partial = settings().root / "store" / ".partial"
    if partial.exists() and any(partial.iterdir()):
        wrong.append("an unfinished file was left")
    return wrong
