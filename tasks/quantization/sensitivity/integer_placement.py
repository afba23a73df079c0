"""Which convolutions ONNX Runtime computes in INT8: by measured time, then by measured loss.

Before that, how far what they make is clipped, by the output's loss (`result_ranges.clipped`).

Depthwise convolutions, those of one place (squeeze-and-excitation) and those that read the input
gain least by INT8, and some runtimes lose time on them: every combination of these kinds is timed
in floats. Then the layers whose quantizers cost the output most stay in floats, as far as the
fraction and the latency that a spec asks for allow (`mixed_precision`, costs being products).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations

import numpy as np
import onnx
from numpy.typing import NDArray

from infra.canonical import Json
from infra.engines import open_target
from infra.engines.port import Arrays, Engine
from tasks.models.batches import Batch
from tasks.models.inputs import Inputs
from tasks.quantization.activation.result_ranges import TOLERANCES
from tasks.quantization.sensitivity.measure import mean_loss, spread
from tasks.quantization.sensitivity.mixed_precision import SiteCost, pareto_front
from tasks.records import Payload
from tasks.specs.traits import Task

LEAST_LAYERS = 4
"""Fewer are all computed in INT8: there is nothing to choose."""
RANGE_CASES, LOSS_CASES = (4, 32), (2, 8)
"""Least and most cases on which ranges are compared, and single layers; as many others say whether
what is chosen holds."""
WORK = 1e11
"""Multiply-accumulates that measuring losses may take; fewer cases are run of large graphs."""
ROUNDS, MOST_ROUNDS = 11, 201
TIMED_S = 0.25
"""Seconds that one comparison takes, in so many rounds: small graphs are told apart by many."""
FASTER = 0.95
"""Of the time: what floats have to save before they are worth less INT8."""
AS_FAST = 1.03
"""Times the fastest: what two runs of one combination differ by."""
LEAST_FRACTION = 0.9
"""Of the products: what stays in INT8 however much it costs, unless floats are faster."""
LEAST_GAIN = 0.9
"""Of the loss: what has to be left at most, for layers to stay in floats because of it."""
NEGLIGIBLE = 0.01
"""Of the loss: a layer that saves less stays in INT8."""
MEASURED = 16
"""Layers whose loss is measured, those of fewest products first: one engine each."""
HALVINGS = 3
_Losses = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class KernelEvidence:
    """What a placement is measured on, and what it has to keep to."""

    inputs: Inputs
    task: Task
    payloads: Sequence[Payload]
    int8_fraction: float  # of the multiply-accumulates, what at least has to run in INT8
    latency_ratio: float  # candidate / full precision, at most


@dataclass(frozen=True, slots=True)
class ConvolutionCost:
    """One convolution that may run in INT8."""

    node: str
    products: int  # multiply-accumulates of one case
    kind: str  # "depthwise", "one place", "input" or "other"


@dataclass(frozen=True, slots=True)
class PlacementTrial:
    """One measurement: these layers in floats, the others in INT8."""

    floats: tuple[str, ...]
    against: str  # "all in INT8" or "full precision"
    latency_ratio: float


@dataclass(frozen=True, slots=True)
class IntegerPlacement:
    """What stays in floats, why, and the measurements that it follows from."""

    reasons: Mapping[str, str]  # node -> reason
    trials: tuple[PlacementTrial, ...] = ()
    saved: Mapping[str, float] = field(default_factory=dict)  # node -> fraction of the loss
    sentences: tuple[str, ...] = ()
    tolerance: float | None = None  # of `result_ranges.clipped`; None: the recipe's own rule

    def document(self) -> Mapping[str, Json]:
        """Return it as a candidate's facts hold it."""
        return {
            "version": 1,
            "floats": dict(self.reasons),
            "trials": [asdict(trial) for trial in self.trials],
            "saved_loss": dict(self.saved),
            "tolerance": self.tolerance,
        }


def convolution_costs(
    model: onnx.ModelProto, layers: Collection[str], products: Mapping[str, int]
) -> tuple[ConvolutionCost, ...]:
    """Return the convolutions of these nodes whose products are known, in graph order."""
    sizes = {item.name: tuple(item.dims) for item in model.graph.initializer}
    given = {item.name for item in model.graph.input}
    costs = []
    for node in model.graph.node:
        if node.name not in layers or node.name not in products:
            continue
        groups = next((item.i for item in node.attribute if item.name == "group"), 1)
        kind = "other"
        if groups > 1 and sizes[node.input[1]][1] == 1:
            kind = "depthwise"
        elif products[node.name] == int(np.prod(sizes[node.input[1]])):
            kind = "one place"
        elif node.input[0] in given:
            kind = "input"
        costs.append(ConvolutionCost(node.name, products[node.name], kind))
    return tuple(costs)


def recorded_tolerance(document: Json) -> float | None:
    """Return the tolerance that a candidate's facts hold; None where they have none."""
    value = document.get("tolerance") if isinstance(document, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def place(
    build: Callable[[Collection[str], float | None], bytes],
    reference: bytes,
    costs: Sequence[ConvolutionCost],
    all_products: int,
    evidence: KernelEvidence,
) -> IntegerPlacement:
    """Return which convolutions stay in floats.

    Args:
        build: From the nodes in floats, and the tolerance of results' ranges, to a graph as ONNX
            Runtime takes it.
        reference: The full-precision graph.
        costs: What may run in INT8.
        all_products: Multiply-accumulates of all layers that the recipe quantizes.
        evidence: What is measured on.
    """
    if len(costs) < LEAST_LAYERS or not evidence.payloads:
        return IntegerPlacement({})
    search = _Search(build, reference, costs, all_products, evidence)
    search.by_range()
    search.by_time()
    search.by_loss()
    return search.result()


class _Search:
    """The two passes, which share engines and what was measured."""

    def __init__(
        self,
        build: Callable[[Collection[str], float | None], bytes],
        reference: bytes,
        costs: Sequence[ConvolutionCost],
        all_products: int,
        evidence: KernelEvidence,
    ) -> None:
        self._build, self._evidence = build, evidence
        self._costs, self._all = costs, all_products
        cases = int(np.clip(WORK // (all_products * len(TOLERANCES)), *RANGE_CASES))
        self._batches = single_cases(evidence, 2 * cases)
        self._chosen_on = range(0, len(self._batches), 2)
        self._others = range(1, len(self._batches), 2)
        least, most = LOSS_CASES
        few = int(np.clip(WORK // (all_products * len(costs)), least, most))
        self._step = max(1, len(self._chosen_on) // few)
        self._reference = _load(reference)
        self._reasons: dict[str, str] = {}
        self._trials: list[PlacementTrial] = []
        self._saved: dict[str, float] = {}
        self._sentences: list[str] = []
        self._exact = [self._run(self._reference, batch) for batch in self._batches]
        self._tolerance: float | None = None

    def result(self) -> IntegerPlacement:
        """Return what was found."""
        return IntegerPlacement(
            self._reasons,
            tuple(self._trials),
            self._saved,
            tuple(self._sentences),
            self._tolerance,
        )

    def by_range(self) -> None:
        """Choose how far results are clipped, by the output's loss; confirm it on other cases."""
        others, rule = self._others, self._losses(())
        before = float(rule[self._chosen_on].mean())
        if not before > 0 or not float(rule[others].mean()) > 0:
            return  # a saturated output loses nothing, whatever is clipped
        means = {each: float(self._with(each)[self._chosen_on].mean()) for each in TOLERANCES}
        best = min(means, key=lambda each: means[each])
        if not means[best] <= LEAST_GAIN * before:
            return
        if float(self._with(best)[others].mean()) > LEAST_GAIN * float(rule[others].mean()):
            return
        self._tolerance = best
        left = means[best] / before
        self._sentences.append(
            "on ONNX Runtime, what layers make is clipped where its squared error is at most "
            f"{1 + best:g} times the least, which leaves {left:.0%} of the output's loss"
        )

    def _with(self, tolerance: float) -> _Losses:
        """Return the loss of each case under a tolerance, nothing in floats, [cases]."""
        before, self._tolerance = self._tolerance, tolerance
        try:
            return self._losses(())
        finally:
            self._tolerance = before

    def by_time(self) -> None:
        """Keep the combination of kinds in floats that saves most time, if one saves some.

        Of those that take as long, as far as can be told, it is the one of fewest products.
        """
        kinds = sorted({cost.kind for cost in self._costs} - {"other"})
        before = _load(self._build((), self._tolerance))
        ratios: dict[tuple[str, ...], float] = {}
        for count in range(1, len(kinds) + 1):
            for chosen in combinations(kinds, count):
                floats = [cost.node for cost in self._costs if cost.kind in chosen]
                if self._fraction(floats) >= self._evidence.int8_fraction:
                    ratios[chosen] = self._timed(floats, before, "all in INT8")
        best = min(ratios.values(), default=FASTER)
        names: tuple[str, ...] = ()
        if best < FASTER:  # again, or the luckiest of many measurements would win
            names = min(
                (chosen for chosen in ratios if ratios[chosen] <= best * AS_FAST),
                key=self._products,
            )
            floats = [cost.node for cost in self._costs if cost.kind in names]
            best = self._timed(floats, before, "all in INT8", 2 * ROUNDS)
            names = names if best < FASTER else ()
        for cost in self._costs:
            if cost.kind in names:
                self._reasons[cost.node] = f"{cost.kind}: INT8 is slower here"
        if names:
            self._sentences.append(
                f"convolutions ({', '.join(names)}) stay in floats on ONNX Runtime, where that "
                f"takes {best:.2f} times the time of all in INT8: {len(self._reasons)} layers"
            )

    def by_loss(self) -> None:
        """Keep layers in floats that cost the output most, as fraction and latency allow."""
        placed = list(self._reasons)
        allowance = self._all * (1 - max(LEAST_FRACTION, self._evidence.int8_fraction))
        allowance -= sum(cost.products for cost in self._costs if cost.node in placed)
        if allowance <= 0:
            return
        affordable = (
            cost
            for cost in self._costs
            if cost.node not in placed and cost.kind != "one place" and cost.products <= allowance
        )
        rest = sorted(affordable, key=lambda cost: cost.products)[:MEASURED]
        whole, few = self._losses(placed), self._chosen_on[:: self._step]
        before = float(whole[few].mean())
        if not before > 0:
            return
        for cost in rest:
            after = float(self._losses([*placed, cost.node], few).mean())
            self._saved[cost.node] = round(max(1 - after / before, 0.0), 6)
        points = pareto_front(
            [
                SiteCost(cost.node, self._saved[cost.node], cost.products)
                for cost in rest
                if self._saved[cost.node] >= NEGLIGIBLE
            ]
        )
        for halving in range(HALVINGS):
            within = [point for point in points if point.cost <= allowance / 2**halving]
            chosen = min(within, key=lambda point: (point.loss, point.cost)).kept
            if chosen and self._is_worth_it([*placed, *chosen], whole):
                self._keep_for_loss(chosen)
                return

    def _is_worth_it(self, floats: Sequence[str], whole: _Losses) -> bool:
        """Whether the loss is less on cases that chose nothing, at a latency that is allowed."""
        others = self._others[:: self._step]
        before = float(whole[others].mean())
        left = float(self._losses(floats, others).mean())
        return (
            before > 0
            and left <= LEAST_GAIN * before
            and (
                self._timed(floats, self._reference, "full precision")
                <= self._evidence.latency_ratio
            )
        )

    def _keep_for_loss(self, chosen: Sequence[str]) -> None:
        for name in chosen:
            self._reasons[name] = f"quantizers: {self._saved[name]:.0%} of the output's loss"
        self._sentences.append(
            f"{len(chosen)} convolutions stay in floats on ONNX Runtime, because their quantizers "
            f"cost the output most; the first is {chosen[0]}"
        )

    def _products(self, kinds: Sequence[str]) -> int:
        return sum(cost.products for cost in self._costs if cost.kind in kinds)

    def _fraction(self, floats: Collection[str]) -> float:
        lost = sum(cost.products for cost in self._costs if cost.node in floats)
        return 1 - lost / self._all

    def _timed(
        self, floats: Sequence[str], base: Engine, against: str, rounds: int = ROUNDS
    ) -> float:
        engine = _load(self._build(floats, self._tolerance))
        feeds = self._batches[0].feeds
        ratio = paired_ratio(engine, base, feeds, rounds)
        self._trials.append(PlacementTrial(tuple(floats), against, round(ratio, 4)))
        return ratio

    def _losses(self, floats: Sequence[str], places: Sequence[int] | None = None) -> _Losses:
        """Return the loss of each case, [cases]."""
        engine = _load(self._build(floats, self._tolerance))
        places = range(len(self._batches)) if places is None else places
        return np.array(
            [
                mean_loss(
                    self._evidence.task,
                    self._exact[place],
                    self._run(engine, self._batches[place]),
                )
                for place in places
            ]
        )

    def _run(self, engine: Engine, batch: Batch) -> NDArray[np.float32]:
        return engine.run(batch.feeds)[self._evidence.inputs.output]


def paired_ratio(engine: Engine, base: Engine, feeds: Arrays, rounds: int) -> float:
    """Return the median of a run's time over another engine's, in turns.

    There are at least so many rounds, and more where runs are short.
    """
    ratios = []
    pair = sum(float(side.time_runs(feeds, 2)[-1]) for side in (engine, base)) / 1e3
    for _ in range(int(np.clip(TIMED_S / max(pair, 1e-6), rounds, max(rounds, MOST_ROUNDS)))):
        before = float(base.time_runs(feeds, 1)[0])
        ratios.append(float(engine.time_runs(feeds, 1)[0]) / max(before, 1e-6))
    return float(np.median(ratios))


def _load(graph: bytes) -> Engine:
    return open_target("onnxruntime-cpu").load(graph)


def single_cases(evidence: KernelEvidence, count: int) -> list[Batch]:
    """Return so many cases, evenly from all, each in a batch of its own."""
    batches = evidence.inputs.batches(spread(evidence.payloads, count))
    return [single for batch in batches for single in batch.parts(1)]
