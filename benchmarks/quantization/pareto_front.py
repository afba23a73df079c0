"""Loss against size and latency: the Pareto front.

Our recipes stand beside every peer, also in two languages that nobody was tuned for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import ours, subject
from benchmarks.harness.subject import ENGLISH, OTHERS, Subject
from benchmarks.harness.table import Goal, ResultTable, column, reason
from benchmarks.harness.turns import time_plans
from benchmarks.peers import onnx_graphs
from benchmarks.peers.onnx_graphs import FP32, Contender, Graphs
from benchmarks.quantization.fidelity import judge
from benchmarks.quantization.latency import full_texts
from infra.engines.port import Arrays
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits, draw_html, draw_png

RECIPES = (
    "int8-smooth",
    "int8-gptq",
    "int8-compact",
    "int8-mixed-1",
    "int8-mixed-2",
    "int8-mixed-4",
)
JUDGED = "int8-gptq"
TITLE = "Static INT8, MiniLM: the front of loss, size and speed on ONNX Runtime CPU"
TUNED_FOR = ("ja", "ru")
PLOTS = Path("build/benchmarks")


@dataclass(frozen=True, slots=True)
class ParetoFrontRow:
    """Figures of one contender."""

    name: str = column("contender")
    mean: float | None = column("mean", ".4f")
    least: float | None = column("min", ".4f")
    tuned_mean: float | None = column("mean, ja + ru", ".4f")
    tuned_least: float | None = column("min, ja + ru", ".4f")
    fraction: float | None = column("MACs in INT8", ".1%")
    megabytes: float | None = column("MB", ".1f")
    speedup: float | None = column("times as fast as FP32", ".2f")
    tensorrt_rtx: str = reason("TensorRT-RTX")


def measure(quick: bool) -> ResultTable:
    """Measure MiniLM under two calibration sets.

    English texts calibrate for English and code, Japanese and Russian ones for those languages.
    """
    chosen = subject.minilm(quick)
    opponents = tuple(
        peer
        for peer in onnx_graphs.contenders(quick)
        if not peer.name.startswith("ORT quantize_dynamic")
    )
    names = RECIPES[:2] if quick else RECIPES
    rows = compare(
        chosen, _elsewhere(chosen, quick), names, opponents, full_texts(chosen), 5 if quick else 15
    )
    drawn = draw(rows, PLOTS)
    return ResultTable(
        "pareto-front", TITLE, rows, goals(rows), (f"Drawn: {', '.join(map(str, drawn))}.",)
    )


def compare(
    chosen: Subject,
    elsewhere: Subject,
    recipes: Sequence[str],
    opponents: Sequence[Contender],
    feeds: Arrays,
    rounds: int,
) -> list[ParetoFrontRow]:
    """Compare full precision, our recipes, then the peers.

    Every one is made twice, once for each calibration set.
    """
    outcomes, tuned_outcomes = _ours(chosen, recipes), _ours(elsewhere, recipes)
    # Both at once: what the last peer leaves behind in the process spoils the others.
    for peer in opponents:
        outcomes[peer.name], tuned_outcomes[peer.name] = (
            onnx_graphs.graphs(chosen, peer),
            onnx_graphs.graphs(elsewhere, peer),
        )
    plans = {
        FP32: chosen.source,
        **{name: outcome.cpu for name, outcome in outcomes.items() if isinstance(outcome, Graphs)},
    }
    timed = time_plans(plans, feeds, rounds, 0)
    rows = [ParetoFrontRow(FP32, 1.0, 1.0, 1.0, 1.0, 0.0, len(chosen.source) / 1e6, 1.0, "builds")]
    for name, outcome in outcomes.items():
        if isinstance(outcome, str):
            rows.append(
                ParetoFrontRow(
                    name, None, None, None, None, None, None, None, f"no graph: {outcome}"
                )
            )
            continue
        here, other = judge(chosen, name, outcome), tuned_outcomes[name]
        there = None if isinstance(other, str) else judge(elsewhere, name, other)
        tuned = (there.other_mean, there.other_least) if there else (None, None)
        speed = timed.ratio(FP32, name)[0] if name in timed.seconds else None
        rows.append(
            ParetoFrontRow(
                name,
                here.mean,
                here.least,
                *tuned,
                here.fraction,
                here.megabytes,
                speed,
                here.tensorrt_rtx,
            )
        )
    return rows


def goals(rows: Sequence[ParetoFrontRow]) -> tuple[Goal, ...]:
    """Return the goals of `int8-gptq`.

    No peer that TensorRT takes shall be both closer and faster.
    """
    mine = next(row for row in rows if row.name == JUDGED)
    rivals = [row for row in rows if row.name not in (FP32, *RECIPES)]
    above = [row for row in rivals if _is_above(row, mine)]
    buildable = [row for row in above if row.tensorrt_rtx == "builds"]
    return (
        Goal("mean cosine on English and code:", 0.998, mine.mean),
        Goal("least cosine on English and code:", 0.992, mine.least),
        Goal("mean cosine on Japanese and Russian, calibrated on them:", 0.992, mine.tuned_mean),
        Goal("fraction of weight-product MACs in INT8:", 1.0, mine.fraction),
        Goal("times as fast as FP32:", 1.6, mine.speedup),
        Goal("peers that TensorRT takes, closer and faster:", 0, len(buildable), "at most"),
        Goal("peers of any kind, closer and faster:", 0, len(above), "at most"),
    )


def draw(rows: Sequence[ParetoFrontRow], folder: Path) -> tuple[Path, ...]:
    """Draw the Pareto front as PNG and as HTML.

    Filled points build on TensorRT-RTX; the star is the recipe that is judged.
    """
    full_megabytes = next(row for row in rows if row.name == FP32).megabytes or 1.0
    figures = [
        CandidateFigures(
            row.name,
            row.tensorrt_rtx == "builds",
            row.name == JUDGED,
            row.tensorrt_rtx,
            None if row.mean is None else 1 - row.mean,
            None if row.megabytes is None else row.megabytes / full_megabytes,
            None if row.speedup is None else 1 / row.speedup,
            None,
            {},
        )
        for row in rows
    ]
    # The rest would flatten the plot.
    near = [figure for figure in figures if figure.loss is not None and figure.loss < 0.03]
    limits = Limits("1 - mean cosine, English and code", 0.002, 1.0, 1 / 1.6)
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "pareto-front.png": draw_png(TITLE, near, limits),
        "pareto-front.html": draw_html(TITLE, near, limits),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return tuple(folder / name for name in files)


def _is_above(row: ParetoFrontRow, mine: ParetoFrontRow) -> bool:
    if row.mean is None or row.speedup is None or mine.mean is None or mine.speedup is None:
        return False
    return row.mean > mine.mean and row.speedup > mine.speedup


def _ours(chosen: Subject, names: Sequence[str]) -> dict[str, Graphs | str]:
    observed = ours.observe(chosen)
    graphs: dict[str, Graphs | str] = {}
    for name in names:
        candidate = ours.derived(chosen, find_recipe(name), observed)
        graphs[name] = Graphs(
            candidate.lowered("u8"), candidate.lowered("s8"), candidate.clock.total
        )
    return graphs


def _elsewhere(chosen: Subject, quick: bool) -> Subject:
    calibration = subject.draw(chosen.traffic, TUNED_FOR, len(chosen.calibration))
    held_out = {ENGLISH: chosen.held_out[ENGLISH], OTHERS: subject.minilm_cases(TUNED_FOR, quick)}
    return replace(chosen, calibration=calibration, held_out=held_out)
