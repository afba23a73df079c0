"""What is known before anything is built: what no candidate could pass, what stays unjudged.

Full precision is judged beside itself, by the very gates that candidates face and without running
it. What it cannot pass, for want of golden cases, no candidate will. That takes well under a
second, and a ladder takes minutes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from infra.errors import BadInput
from tasks.metrics.generated_text import METRICS, SUITES, why_not_run
from tasks.models.golden import positions
from tasks.models.vision.classes import Classes
from tasks.records import UNKNOWN, CaseKind, GateResult, GoldenSet, Request, Verdict
from tasks.specs.custom import MetricSpec
from tasks.specs.groups import ALL, DIMENSIONS, RARE, SERVED_FRACTION, reach, sizes_of
from tasks.specs.spec import Budgets, ModelSpec, Task
from tasks.validation.forms import JUDGES
from tasks.validation.gates import metric_gates, safety_gate
from tasks.validation.metrics.custom import CustomScores
from tasks.validation.metrics.golden import CaseScores, evaluate
from tasks.validation.metrics.language import OF_CACHE, OF_PROGRAMS
from tasks.validation.metrics.speech import SpeechOutputs, Transcript, evaluate_speech
from tasks.validation.metrics.vision import evaluate_vision

SHOWN = 3
"""Groups that one sentence lists."""
_SUITES: Mapping[str, CaseKind] = {
    **{f"{name}-drop": kind for kind, (name, _) in METRICS.items()},
    "f1-drop": CaseKind.ANSWER,
    "code-drop": CaseKind.CODE,
    "safety-flips": CaseKind.SAFETY,
}
"""Which golden cases of a language model each of these is measured on."""


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What is known of a window before the first build."""

    obstacles: tuple[str, ...]  # each ends the run: no candidate could be promoted
    notes: tuple[str, ...]  # what the verdicts will not cover

    def noted(self, reason: str) -> str:
        """Return a reason for the ledger, with what was not judged."""
        return "; ".join((reason, *self.notes))


def examine(
    spec: ModelSpec,
    golden: GoldenSet,
    classes: Classes | None,
    served: Sequence[str],
    requests: Sequence[Request],
    why_not_here: Mapping[str, str | None],
    beside_itself: CustomScores | None = None,
) -> Preconditions:
    """Say what stands in the way of every candidate, and what stays unjudged.

    Args:
        spec: With its budgets and targets.
        golden: The cases that candidates will be judged on.
        classes: Of an image encoder; None where there are none.
        served: Groups that make up enough of the window; empty where nobody knows.
        requests: The window's sample, which tells how much of it a group is.
        why_not_here: Why a target's engines cannot run on this machine; None where they can.
        beside_itself: What a custom task's metrics really say of full precision beside itself.
    """
    gates = _gates_of_full_precision(spec, golden, classes, frozenset(served), beside_itself)
    hopeless = gates if isinstance(gates, str) else _obstacle(gates)
    possible = (_unrunnable(spec.name, why_not_here), hopeless, _unrun(spec, golden))
    obstacles = [text for text in possible if text]
    lacking = reach(served, golden.cases).lacking
    notes = [_unjudged(lacking, requests)] if lacking else []
    notes += filter(None, [_unbound(spec.budgets, frozenset(served))])
    return Preconditions(tuple(obstacles), tuple(notes))


def weaknesses(
    spec: ModelSpec, golden: GoldenSet, classes: Classes | None, pool: Sequence[Request]
) -> tuple[str, ...]:
    """Say what a golden set cannot judge, before any traffic is known.

    Each group is taken to be served: budgets that too few cases judge, and groups of the
    calibration pool that no case is of.

    Args:
        spec: With its budgets.
        golden: The cases that candidates will be judged on.
        classes: Of an image encoder; None where there are none.
        pool: The calibration pool, which tells what the model is meant for.
    """
    gates = _gates_of_full_precision(spec, golden, classes, frozenset())
    failing = (gates,) if isinstance(gates, str) else tuple(gate.reason for gate in gates)
    meant = {name for row in pool for name in (f"domain={row.domain}", f"language={row.language}")}
    lacking = [name for name in reach(meant, golden.cases).lacking if not name.endswith(UNKNOWN)]
    unrun = _unrun(spec, golden)
    failing = (*failing, unrun) if unrun else failing
    failing = (*failing, *_unwritten(spec, golden))
    return (*failing, *([_unjudged(lacking, pool, "calibration pool")] if lacking else []))


def _unrun(spec: ModelSpec, golden: GoldenSet) -> str | None:
    """Say that a budget on generated programs cannot be judged here, where that is so."""
    budgeted = any(rule.metric == OF_PROGRAMS for rule in spec.budgets.quality)
    if not budgeted or not positions(golden.cases, CaseKind.CODE).size:
        return None
    reason = why_not_run()
    return f"{OF_PROGRAMS} cannot be judged: {reason}" if reason else None


def _unwritten(spec: ModelSpec, golden: GoldenSet) -> Iterator[str]:
    """Say which cases ask for an answer that nobody will write."""
    asking = positions(golden.cases, *SUITES).tolist()
    if asking and not JUDGES.of(spec.form).writes_answers:
        kinds = ", ".join(sorted({str(golden.cases[place].kind) for place in asking}))
        yield (
            f"{len(asking)} golden cases ask for an answer ({kinds}), which a checkpoint does not "
            "write here: they are read as texts, and their answers are not judged"
        )


def _gates_of_full_precision(
    spec: ModelSpec,
    golden: GoldenSet,
    classes: Classes | None,
    served: frozenset[str],
    beside_itself: CustomScores | None = None,
) -> tuple[GateResult, ...] | str:
    """Return the binding gates that full precision itself fails, or why nothing can be scored."""
    for metric, exc in (beside_itself.failures if beside_itself else {}).items():
        return f"{metric} cannot be measured, not even of full precision beside itself: {exc}"
    try:
        scores = (
            _own(spec.metrics, golden, beside_itself)
            if spec.task is Task.CUSTOM
            else BESIDE_ITSELF[spec.task](golden, classes)
        )
    except BadInput as exc:
        return f"the golden set of {spec.name} cannot be scored: {exc}"
    gates = [*metric_gates(scores, golden, _of_any_candidate(spec.budgets), served=served)]
    if golden.safety_weight is not None or "safety-flips" in scores:
        count = scores["safety-flips"].values.size if "safety-flips" in scores else 0
        gates.append(safety_gate(0, count, spec.budgets.safety_flips))
    return tuple(gate for gate in gates if gate.binding and gate.verdict is not Verdict.PASSED)


def _of_any_candidate(budgets: Budgets) -> Budgets:
    """Leave out what only a candidate with a quantized cache is judged by."""
    rules = tuple(rule for rule in budgets.quality if rule.metric not in OF_CACHE)
    return budgets.model_copy(update={"quality": rules})


def _obstacle(gates: Sequence[GateResult]) -> str | None:
    if not gates:
        return None
    more = f" (and {len(gates) - 1} more)" if len(gates) > 1 else ""
    return (
        "no candidate could be promoted, because full precision itself would not pass: "
        f"{gates[0].reason}{more}; "
        "add golden cases or loosen the budget, then run `requant model add` again"
    )


def _unbound(budgets: Budgets, served: frozenset[str]) -> str | None:
    """Say that no budget of quality is about what is served, where none is."""
    groups = {rule.group for rule in budgets.quality}
    if not served or groups & {None, ALL, *served}:
        return None
    return (
        f"no quality was judged: the budgets are about {', '.join(sorted(map(str, groups)))} "
        'alone, and the window is of none of them (a budget of the group "all" judges every window)'
    )


def _unrunnable(model: str, why_not_here: Mapping[str, str | None]) -> str | None:
    if any(reason is None for reason in why_not_here.values()):
        return None
    reasons = "; ".join(f"{target}: {reason}" for target, reason in why_not_here.items())
    return (
        f"no engine of {model} can be judged on this machine ({reasons}): run it where one can, "
        "or add onnxruntime-cpu to the spec's targets"
    )


def _unjudged(lacking: Iterable[str], requests: Sequence[Request], whole: str = "window") -> str:
    """Say how much of the requests belongs to groups that the golden set lacks."""
    sizes = _sizes(requests)
    named = sorted(lacking, key=lambda name: (-sizes[name], name))
    fractions = [
        f"{_group(name)} ({100 * sizes[name] / len(requests):.0f} % of the {whole})"
        for name in named[:SHOWN]
    ]
    more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
    return f"could not be judged by group, for want of golden cases: {', '.join(fractions)}{more}"


def _sizes(requests: Sequence[Request]) -> Counter[str]:
    """Return how many requests are of each group, those of rare values together, too."""
    sizes: Counter[str] = Counter()
    for dimension in DIMENSIONS:
        counts = sizes_of(requests, dimension)
        sizes.update({f"{dimension}={value}": count for value, count in counts.items()})
        least = SERVED_FRACTION * len(requests)
        sizes[f"{dimension}={RARE}"] = sum(count for count in counts.values() if count < least)
    return sizes


def _group(name: str) -> str:
    dimension, _, value = name.partition("=")
    if value == RARE:
        return f"requests of rare {dimension}s"
    return f"requests without {dimension}" if value == UNKNOWN else name


def _outputs(golden: GoldenSet, _: Classes | None) -> Mapping[str, CaseScores]:
    """Score embeddings as wide as the safety head; any will do beside themselves."""
    width = 2 if golden.safety_weight is None else golden.safety_weight.size
    outputs = np.ones((len(golden.cases), width), np.float32)
    return evaluate(Task.TEXT_EMBEDDING, golden, outputs, outputs)


def _logits(golden: GoldenSet, _: Classes | None) -> Mapping[str, CaseScores]:
    """Score logits, one for each class that a label names."""
    numbers = [int(case.label) for case in golden.cases if case.label and case.label.isdecimal()]
    outputs = np.ones((len(golden.cases), max(numbers, default=1) + 1), np.float32)
    return evaluate(Task.IMAGE_CLASSIFICATION, golden, outputs, outputs)


def _embeddings(golden: GoldenSet, classes: Classes | None) -> Mapping[str, CaseScores]:
    width = 2 if classes is None else classes.embeddings.shape[1]
    outputs = np.ones((len(golden.cases), width), np.float32)
    return evaluate_vision(golden, outputs, outputs, classes)


def _transcripts(golden: GoldenSet, _: Classes | None) -> Mapping[str, CaseScores]:
    written = [Transcript((0,), case.label or "-") for case in golden.cases]
    return evaluate_speech(golden, SpeechOutputs(np.ones(len(written)), written, written))


def _answers(golden: GoldenSet, _: Classes | None) -> Mapping[str, CaseScores]:
    """Score answers: each suite's drop is 0, whatever was answered.

    Neither programs nor the libraries of other scores are run.
    """
    everything = np.arange(len(golden.cases))
    scores = {
        "perplexity-ratio": CaseScores(np.zeros(len(everything)), everything),
        "agreement": CaseScores(np.ones(len(everything)), everything),
    }
    for metric, kind in _SUITES.items():
        cases = positions(golden.cases, kind)
        scores[metric] = CaseScores(np.zeros(len(cases)), cases)
    return {metric: values for metric, values in scores.items() if values.values.size}


def _own(
    metrics: Sequence[MetricSpec], golden: GoldenSet, beside_itself: CustomScores | None
) -> Mapping[str, CaseScores]:
    """Score a spec's own metrics: what a function says of equal outputs, only it knows."""
    if beside_itself is not None:
        return beside_itself.scores
    scores = {}
    for metric in metrics:
        cases = np.arange(len(golden.cases))
        if metric.labelled:
            cases = np.array(
                [place for place, case in enumerate(golden.cases) if case.label is not None],
                np.int64,
            )
        same = 0.0 if metric.labelled else float(metric.higher_is_better)
        value = metric.budget if metric.function else same
        if cases.size:
            scores[metric.gate] = CaseScores(
                np.full(cases.size, value), cases, unit=metric.scores_answers
            )
    return scores


BESIDE_ITSELF: Mapping[Task, Callable[[GoldenSet, Classes | None], Mapping[str, CaseScores]]] = {
    Task.TEXT_EMBEDDING: _outputs,
    Task.IMAGE_CLASSIFICATION: _logits,
    Task.IMAGE_EMBEDDING: _embeddings,
    Task.SPEECH_RECOGNITION: _transcripts,
    Task.CAUSAL_LM: _answers,
}
"""How full precision scores beside itself on each kind of model's golden cases, without a run."""
