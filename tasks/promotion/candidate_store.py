"""A candidate's files in the store, until its release holds them."""

from infra.settings import settings
from tasks.profiles.frozen import FROZEN
from tasks.records import CandidateRef


def read_files(candidate: CandidateRef, frozen: str | None = None) -> dict[str, bytes]:
    """Return what goes into a candidate's release, by name: every file that was stored of it.

    With `frozen` also what is kept under that key of the traffic at hand.
    """
    store, prefix = settings().store(), candidate.key("")
    files = {key.removeprefix(prefix): store.get(key) for key in store.list(prefix)}
    return files if frozen is None else {**files, FROZEN: store.get(frozen)}


def remove_files(candidate: CandidateRef) -> None:
    """Remove what was stored of a candidate."""
    store = settings().store()
    for key in list(store.list(candidate.key(""))):
        store.delete(key)
