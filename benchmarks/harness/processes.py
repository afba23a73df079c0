"""Independent pieces of a measurement in processes of their own: for figures that are no times."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Piece = TypeVar("Piece")
Found = TypeVar("Found")

LIBRARY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def spread(
    work: Callable[[Piece], Found], pieces: Sequence[Piece], workers: int
) -> Iterator[tuple[Piece, Found]]:
    """Yield each piece with its result, as soon as it is there.

    Workers share the cores, and one is this process. They are started afresh, so `work` is a
    function of a module or a `functools.partial` of one.
    """
    if workers == 1:
        yield from ((piece, work(piece)) for piece in pieces)
        return
    for name in LIBRARY_THREADS:
        os.environ[name] = "1"  # read by the workers when they start
    context = multiprocessing.get_context("spawn")
    free = context.Queue()
    cores = sorted(os.sched_getaffinity(0))
    for worker in range(workers):
        free.put(cores[worker::workers] or [cores[worker % len(cores)]])
    with ProcessPoolExecutor(workers, context, initializer=_on_own_cores, initargs=(free,)) as pool:
        waiting = {pool.submit(work, piece): piece for piece in pieces}
        for done in as_completed(waiting):
            yield waiting[done], done.result()


def _on_own_cores(free: "multiprocessing.Queue[list[int]]") -> None:
    os.sched_setaffinity(0, free.get())
