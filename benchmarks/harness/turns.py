"""Engines in turns, in a fresh process.

Threads that torch or a peer left behind would disturb the timing.
"""

from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import onnxruntime as ort

from benchmarks.harness.pairs import Rounds, interleave
from infra.engines.port import Arrays

ATTEMPTS = 8
"""Most attempts to open one graph."""


def time_plans(plans: Mapping[str, bytes], feeds: Arrays, rounds: int, threads: int) -> Rounds:
    """Time every plan that opens, on one batch in interleaved rounds.

    0 threads leaves the number to ONNX Runtime.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_time_here, dict(plans), dict(feeds), rounds, threads).result()


def open_session(plan: bytes, threads: int = 0) -> ort.InferenceSession | str:
    """Open a session, or return ONNX Runtime's own reason.

    It is asked again, as its optimizer fails now and then on a peer's graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    why = ""
    for _ in range(ATTEMPTS):
        try:
            return ort.InferenceSession(plan, options, providers=["CPUExecutionProvider"])
        except Exception as exc:  # onnxruntime raises a class per status code
            why = f"{type(exc).__name__}: {' '.join(str(exc).split())}"
    return why


def _time_here(plans: Mapping[str, bytes], feeds: Arrays, rounds: int, threads: int) -> Rounds:
    opened = {name: open_session(plan, threads) for name, plan in plans.items()}
    calls = {
        name: partial(item.run, None, dict(feeds))
        for name, item in opened.items()
        if not isinstance(item, str)
    }
    return interleave(calls, rounds)
