"""Every benchmark in its smallest form, on the digits: that it runs, not how fast."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import load_file

from benchmarks.__main__ import main
from benchmarks.harness import pairs, subject
from benchmarks.harness.subject import Subject
from benchmarks.kernels import int8_kernels
from benchmarks.language import drift
from benchmarks.peers import onnx_graphs as peers
from benchmarks.peers.int8_work import int8_share
from benchmarks.peers.onnx_graphs import OURS, TENSORRT_BEST
from benchmarks.quantization import (
    attacks,
    drift_to_quality,
    fidelity,
    latency,
    observation,
    pareto_front,
    poisoning,
    recalibration,
    selection,
    sensitivity,
)
from benchmarks.traffic import profile_memory, profiles, request_files, sampling, scale

STATIC = peers.Contender("static", peers.static(TENSORRT_BEST))
BROKEN = peers.Contender(
    "broken", lambda _: (_ for _ in ()).throw(ImportError("No module named 'surgeon'"))
)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("digits")
    onnx.save(convnet(), folder / "model.onnx")
    return subject.digits(True, folder)


def convnet() -> onnx.ModelProto:
    """Write the digits model node by node: its export takes longer than all of these tests."""
    weights = load_file(subject.EXAMPLES / "digits" / "weights.safetensors")
    steps: list[tuple[str, list[str], dict[str, object]]] = [
        ("Conv", ["conv1.weight", "conv1.bias"], {"pads": [1, 1, 1, 1]}),
        ("Relu", [], {}),
        ("Conv", ["conv2.weight", "conv2.bias"], {"pads": [1, 1, 1, 1]}),
        ("Relu", [], {}),
        ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Flatten", [], {}),
        ("Gemm", ["fc1.weight", "fc1.bias"], {"transB": 1}),
        ("Relu", [], {}),
        ("Gemm", ["fc2.weight", "fc2.bias"], {"transB": 1}),
    ]
    names = ["image", *(f"step{number}" for number in range(1, len(steps))), "logits"]
    nodes = [
        helper.make_node(op, [before, *constants], [after], after, **options)
        for (op, constants, options), before, after in zip(
            steps, names[:-1], names[1:], strict=True
        )
    ]
    given = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["batch", 1, 8, 8])
    found = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 10])
    constants = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "digits", [given], [found], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_fidelity_judges_ours_and_a_peer_and_keeps_the_reason_of_a_peer_that_failed(
    digits: Subject,
) -> None:
    table = fidelity.compare(digits, (STATIC, BROKEN))
    rows = {row.name: row for row in table.rows}
    assert rows[OURS].mean > 0.99
    assert rows["static"].fraction == pytest.approx(1.0)
    assert rows[OURS].tensorrt_rtx == "builds"
    assert rows["broken"].mean is None
    assert "No module named 'surgeon'" in rows["broken"].tensorrt_rtx
    assert [goal.reached for goal in table.goals] == [True, True, True]


def test_int8_kernels_tells_by_the_runtime_what_ran_in_integers(digits: Subject) -> None:
    feeds = {"image": np.zeros((1, 1, 8, 8), np.float32)}
    model = int8_kernels.TimedModel(digits, feeds, lambda answers, _: (float(len(answers)), None))
    made = int8_kernels.peer_graphs(model, (STATIC, BROKEN))
    rows = {row.name: row for row in int8_kernels.compare(model, made, rounds=2)}
    assert rows[int8_kernels.FP32].integers == 0
    assert rows[int8_kernels.OURS].integers > 0.9
    assert rows[int8_kernels.OURS].quality == sum(map(len, digits.held_out.values()))
    assert "No module named 'surgeon'" in rows["broken"].failure


def test_full_precision_has_no_work_in_int8(digits: Subject) -> None:
    assert int8_share(digits.source, 1) == 0


def test_the_front_holds_ours_against_peers_and_draws_both(digits: Subject, tmp_path: Path) -> None:
    feeds = {"image": np.zeros((8, 1, 8, 8), np.float32)}
    rows = pareto_front.compare(
        digits, digits, ("int8-smooth", "int8-gptq"), (STATIC, BROKEN), feeds, rounds=2
    )
    named = {row.name: row for row in rows}
    assert named["static"].tuned_mean == pytest.approx(named["int8-smooth"].tuned_mean, abs=0.01)
    assert named["broken"].mean is None
    reached = {goal.what: goal.reached for goal in pareto_front.goals(rows)}
    assert reached["mean cosine on English and code:"]
    assert [file.read_bytes()[:4] for file in pareto_front.draw(rows, tmp_path)] == [
        b"\x89PNG",
        b"<htm",
    ]


def test_a_peer_that_is_closer_and_faster_misses_the_goal() -> None:
    mine = pareto_front.ParetoFrontRow(
        "int8-gptq", 0.998, 0.99, 0.99, 0.98, 1.0, 58.0, 1.6, "builds"
    )
    better = replace(mine, name="peer", mean=0.999, speedup=1.7)
    for rival, missed in (
        (better, 2),
        (replace(better, tensorrt_rtx="refused"), 1),
        (replace(better, speedup=1.5), 0),
    ):
        found = [
            goal for goal in pareto_front.goals([mine, rival]) if goal.what.startswith("peers")
        ]
        assert sum(not goal.reached for goal in found) == missed


def test_latency_times_every_engine_that_loads(digits: Subject) -> None:
    feeds = {"image": np.zeros((8, 1, 8, 8), np.float32)}
    table = latency.compare(digits, (STATIC, BROKEN), feeds, rounds=3)
    rows = {row.name: row for row in table.rows}
    assert rows["static"].milliseconds > 0
    assert rows[peers.FP32].speedup == 1
    assert rows["broken"].failure is not None


def test_recalibration_breaks_ours_down_and_asks_a_failing_peer_once(digits: Subject) -> None:
    table = recalibration.compare(digits, [STATIC, BROKEN], rounds=2)
    rows = {row.name: row for row in table.rows}
    names = list(rows)
    start = names.index(recalibration.SCALES_ONLY)
    total, phases = table.rows[0], table.rows[1:start]
    assert sum(phase.seconds for phase in phases) == pytest.approx(total.seconds, rel=0.5)
    assert rows["static"].mean > 0.9
    assert rows["static"].tensorrt_rtx == "builds"
    assert "No module named 'surgeon'" in rows["broken"].failure


def test_a_peer_is_a_rival_by_its_fidelity_before_its_speed() -> None:
    def row(name: str, seconds: float, mean: float) -> recalibration.RecalibrationRow:
        return recalibration.RecalibrationRow(name, seconds, seconds / 2, mean, mean, None, None)

    fast, faithful = (peer.name for peer in recalibration.OPPONENTS[1:3])
    mine, again = row("ours", 2.0, 0.99), row(recalibration.SCALES_ONLY, 1.0, 0.99)
    found = recalibration.goals([mine, again, row(fast, 4.0, 0.5), row(faithful, 20.0, 0.992)])
    assert found[-2].figure == 10.0
    assert faithful in found[-2].what
    weaker = recalibration.goals([mine, again, row(fast, 4.0, 0.5), row(faithful, 20.0, 0.98)])
    assert "none is as faithful" in weaker[-2].what
    assert found[-1].figure == 2.0


def test_observation_compares_passes_and_reductions(digits: Subject) -> None:
    table = observation.compare(digits, (4, 16), rounds=2)
    assert [row.name for row in table.rows[:2]] == [observation.PLAIN, observation.OBSERVED]
    assert all(row.ratio > 0 for row in table.rows if row.name != observation.RULES)


def test_observing_twice_the_cases_is_timed_by_the_case(digits: Subject) -> None:
    small, large = observation.growth(digits, (16, 32))
    assert small.seconds == pytest.approx(small.per_case * 16 / 1e3)
    assert large.seconds == pytest.approx(large.per_case * 32 / 1e3)


def test_every_ranking_is_held_against_one_engine_a_site(digits: Subject) -> None:
    table = sensitivity.compare(digits, ("int8-max",))
    rows = {row.name: row for row in table.rows}
    assert rows[sensitivity.EXHAUSTIVE].correlation == pytest.approx(1)
    assert rows[sensitivity.MEASURED].runs == len(digits.sites) + 2
    assert rows[sensitivity.LOCAL].passes is None
    assert "convolutions" in table.notes[1]


def test_exposure_drift_is_measured_for_three_models_at_every_exposure(digits: Subject) -> None:
    rows = drift_to_quality.exposures(digits, quick=True)
    assert len(rows) == 3 * len(digits.held_out)
    assert all(0 <= row.value <= 1 for row in rows)


def test_64_chosen_digits_cover_more_than_64_random_ones(digits: Subject) -> None:
    rows = {row.how: row for row in selection.compare(selection.exposed(digits), 1, quick=True)}
    assert rows["64 chosen"].cover > max(0.99, rows["64 random"].cover)
    assert rows["64 chosen"].quality > 0.99
    assert len(selection.goals(list(rows.values()))) == 2


def test_one_tenants_thousandfold_digits_move_no_scale_and_are_set_aside(digits: Subject) -> None:
    rows = {(row.attack, row.recipe): row for row in poisoning.attacked(digits, [0], quick=True)}
    attack = rows[attacks.ONE, "recalibrate"]
    assert (attack.caught, attack.honest) == (1, 0)
    assert attack.moved <= 0.05 < attack.undefended
    assert rows[attacks.NOBODY, "recalibrate"].moved <= 0.05
    searched, usual = (rows[name, "resmooth"] for name in (attacks.ONE, attacks.NOBODY))
    assert searched.moved <= max(usual.moved, 0.05) < searched.undefended
    assert searched.lost <= 0.001


def test_interleaved_rounds_give_paired_ratios() -> None:
    rounds = pairs.Rounds({"slow": np.array([2.0, 8.0, 4.0]), "fast": np.array([1.0, 2.0, 4.0])})
    assert rounds.ratio("slow", "fast")[0] == 2
    measured = pairs.interleave({"a": lambda: None, "b": lambda: None}, rounds=3)
    assert measured.seconds["a"].shape == (3,)


def test_an_unknown_name_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fidelty"])
    assert "allowed are fidelity" in capsys.readouterr().err


def test_the_old_name_of_a_benchmark_is_refused_with_the_new_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["front"])
    assert "the benchmark front is called pareto-front now" in capsys.readouterr().err


def test_a_base_without_what_compares_with_it_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["fidelity", "--base", "HEAD"])
    assert (
        "--base is for the benchmarks commands, console, maintain and up" in capsys.readouterr().err
    )


def test_profiling_is_measured_against_reading_and_a_report(tmp_path: Path) -> None:
    read, ratio = profiles._reading(tmp_path, 5_000, rounds=1)
    assert [row.rows for row in read] == [5_000] * 5
    assert ratio > 0
    report, gain = profiles._against_report(500)
    assert len(report) == 2
    assert gain > 1
    assert len(profiles._texts(50)) == len(profiles._quantiles(10_000)) == 2


def test_a_profile_of_a_billion_requests_is_as_small_as_one_of_thousands() -> None:
    small, large, huge = profiles._sizes(20_000)
    assert small.rows == 1_000
    assert huge.rows > 1_000_000_000
    assert huge.size < 1.2 * large.size < 100_000  # type: ignore[operator]


def test_request_files_are_the_same_for_a_seed_and_streamed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = (
        request_files.write(tmp_path / name, 200_000, seed=3).read_bytes() for name in "ab"
    )
    assert one == other
    assert [batch.num_rows for batch in request_files.batches(tmp_path / "a", ("time",))] == [
        131_072,
        68_928,
    ]
    profile_memory.main(1_000)
    assert len(capsys.readouterr().out.split()) == 3


def test_sampling_is_measured() -> None:
    table = sampling.measure(True)
    assert all(goal.reached for goal in table.goals)


@pytest.mark.soak
def test_scale_counts_every_kind_of_work_and_works_out_the_day(digits: Subject) -> None:
    table = scale.compare(digits, 400)
    rows = {row.name: row for row in table.rows}
    assert all(row.million > 0 for row in table.rows)
    draw = rows[scale.DRAW]
    assert draw.hours == pytest.approx(draw.million * 1000 / 3600)
    assert draw.cores == pytest.approx(draw.hours / 24)
    assert (rows[scale.MERGE].daily, rows[scale.MERGE_PROFILE].daily) == (1_021, 100_000)
    assert f"{draw.hours + rows[scale.PROFILE].hours:,.1f} core-hours" in table.notes[1]


def test_new_smoothing_is_held_to_what_drift_lost() -> None:
    def row(name: str, away: float) -> drift.DriftRow:
        return drift.DriftRow(name, 1.02, away, 1.03, 0.9, 0.0, 7.0, 1.0)

    rows = [row("en, stale", 1.5), row("ja, resmooth", 1.02), row("en with a floor of 4", 1.2)]
    assert [goal.reached for goal in drift.goals(rows)] == [True, True, False]
    assert drift.goals(rows)[0].figure == pytest.approx(0.96)
    calm = [row("en, stale", 1.01), *rows[1:]]
    assert drift.goals(calm)[0].figure is None, "nothing was lost that could be won back"


@pytest.mark.soak
def test_every_answer_to_drift_is_measured_on_the_shipped_language_model() -> None:
    rows = {row.name: row for row in drift.answers(drift.open_material(drift.QUICK, real=False))}
    assert len(rows) == 10
    assert rows["ja, resmooth"].away < rows["en, stale"].away
    assert rows["en, 6 sites that drift kept"].floating > 0
