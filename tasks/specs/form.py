"""The two forms of a registered model: a graph, or a checkpoint that is never traced to one.

A spec's targets say which. What a stage does with each form is in its own `forms`; which of both is
taken is decided here alone. A spec may ask of a checkpoint nothing that needs a graph.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Generic, TypeVar

from tasks.specs.traits import Task

CHECKPOINT = "compressed-tensors"
"""The target of language models that stay checkpoints: what vLLM and transformers load."""
T = TypeVar("T")


class Form(StrEnum):
    """What a registered model is kept as."""

    GRAPH = "graph"  # engines are built from it
    CHECKPOINT = "checkpoint"  # read one decoder layer at a time


@dataclass(frozen=True, slots=True)
class ByForm(Generic[T]):
    """What is done with a model of each form."""

    graph: T
    checkpoint: T

    def of(self, form: Form) -> T:
        """Return what is done with models of a form."""
        return self.checkpoint if form is Form.CHECKPOINT else self.graph


def form_of(targets: Collection[str]) -> Form:
    """Return what a model with these targets is kept as."""
    return Form.CHECKPOINT if CHECKPOINT in targets else Form.GRAPH


def why_not_written() -> str | None:
    """Return why no checkpoint can be derived on this host, and what to do; None where it can."""
    if find_spec("compressed_tensors") is not None:
        return None
    return "writing a checkpoint needs a library: pip install 'requant[compressed-tensors]'"


def regular_expression(text: str) -> str:
    """Return a regular expression as it is; raises `ValueError` where it is none."""
    try:
        re.compile(text)
    except re.error as exc:
        raise ValueError(f"it is no regular expression ({exc})") from exc
    return text


_SHARE = re.compile(r"(\d+(?:\.\d+)?) ?%")


def share_of(keep: str) -> float | None:
    """Return which part of the linear layers' weights is to be kept; None: `keep` names layers.

    Raises:
        ValueError: It is none between 0 and 100 per cent.
    """
    asked = _SHARE.fullmatch(keep)
    if asked is None:
        return None
    share = float(asked[1]) / 100
    if not 0 < share < 1:
        raise ValueError(f"keep {keep!r} is not between 0% and 100%: 10% keeps a tenth")
    return share


def share_or_names(text: str) -> str:
    """Return what is kept as it is; raises `ValueError` for neither a share nor an expression."""
    return text if share_of(text) is not None else regular_expression(text)


OF_TEXTS = frozenset({"perplexity-ratio", "agreement"})
"""What a checkpoint is judged by: both sides read the golden texts, and neither writes."""


def why_not_checkpoint(
    *,
    task: Task,
    targets: Sequence[str],
    metrics: Set[str],
    speeds: Sequence[str],
    selection: str,
    keep: str | None,
    given: Collection[str],
) -> str | None:
    """Say what a spec with the target `compressed-tensors` asks for that needs a graph.

    Of another spec, what it asks for that only a checkpoint has.

    Args:
        task: What the model does.
        targets: All that are named.
        metrics: That budgets.quality bounds.
        speeds: Budgets of writing tokens that are set.
        selection: How calibration sets are chosen.
        keep: What finds linear layers that stay in floating point; None: none.
        given: Optional parts of the spec that are there: adapter, serving, control,
            prefix.

    Returns:
        The field and what to write, or None.
    """
    if form_of(targets) is Form.GRAPH:
        of_checkpoints = f"calibration.keep is of the target {CHECKPOINT}: leave it out"
        return of_checkpoints if keep is not None else None
    unread = sorted(metrics - OF_TEXTS)
    wrong = (
        (len(targets) > 1, f"targets: {CHECKPOINT} stands alone, as other targets need a graph"),
        (task is not Task.CAUSAL_LM, f"targets: {CHECKPOINT} is of causal-lm, and this is {task}"),
        ("adapter" in given, f"adapter: merge it into the checkpoint first for {CHECKPOINT}"),
        (
            "prefix" in given,
            f"input.prefix: its keys and values are in a graph, and a {CHECKPOINT} checkpoint has "
            "no place for them: leave it out",
        ),
        (
            "serving" in given,
            f"serving: a {CHECKPOINT} checkpoint is served by vLLM or transformers, which "
            "`requant publish vllm` writes for: leave it out",
        ),
        (
            bool(unread),
            f"budgets.quality: a {CHECKPOINT} checkpoint reads texts and writes none here: judge "
            f"it by {' and '.join(sorted(OF_TEXTS))} instead of {', '.join(unread)}",
        ),
        (
            bool(speeds),
            f"budgets.{', '.join(speeds)}: a {CHECKPOINT} checkpoint is timed where it is served: "
            "leave it out",
        ),
        (
            selection == "cover",
            f"calibration.selection: cover asks each request for each site's range, which is not "
            f"kept of a {CHECKPOINT} checkpoint: write random",
        ),
        ("control" in given, f"control: a {CHECKPOINT} checkpoint writes no answers: leave it out"),
    )
    return next((sentence for is_wrong, sentence in wrong if is_wrong), None)
