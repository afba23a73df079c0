"""Where a target has FP16, a candidate is compared with an FP16 engine in the same session."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import onnx
import pytest

from infra.engines.onnxruntime_cpu import OnnxRuntimeCpu
from infra.engines.port import Engine
from infra.settings import Settings
from tasks.records import CandidateRef, EngineRef, GateReport
from tests.custom_models import ranker, records, write_model

CPU = "onnxruntime-cpu"


class CpuThatHasFp16(OnnxRuntimeCpu):
    """Stands in for a target with a device: it builds and runs here, and says that it has FP16."""

    has_fp16 = True


def judged(folder: Path, recipe: str) -> GateReport:
    from tasks.models.catalog import register
    from tasks.observation.watch import watch
    from tasks.quantization.graph.lowering import lower
    from tasks.quantization.pipeline.candidate import CalibrationEvidence, quantize
    from tasks.quantization.recipe.catalog import RECIPES
    from tasks.validation.judge import BuiltEngine, judge_built

    model = register(write_model(folder, ranker(), records(64)))
    payloads = [request.payload for request in model.pool]
    seen = watch(model.calibrating, model.observed_sites, model.inputs, payloads)
    evidence = CalibrationEvidence(model.graph, model.sites, seen)
    graph: onnx.ModelProto = quantize(evidence, RECIPES[recipe]).graph
    form = lower(graph, "u8").SerializeToString()
    made = OnnxRuntimeCpu().build(form, model.inputs.profile)
    built = BuiltEngine(
        CandidateRef(model.name, "c", recipe, "d", (), 1.0),
        EngineRef(CPU, len(made.plan), 0.0, True, ""),
        graph.SerializeToString(),
        made.layers,
        made.plan,
        None,
    )
    return judge_built(model, built, frozenset(), thorough=True)[0]


def test_the_report_states_both_ratios_and_int8_has_to_beat_fp16(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.validation.judge.open_target", lambda _: CpuThatHasFp16())
    gates = {gate.metric: gate for gate in judged(tmp_path, "int8-max").gates}
    for metric in ("latency-ratio", "fp16-latency-ratio", "fp16-size-ratio"):
        assert gates[metric].estimate is not None
    assert gates["fp16-latency-ratio"].binding
    assert gates["fp16-size-ratio"].reported


def test_what_multiplies_floats_is_only_told_how_it_compares(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.validation.judge.open_target", lambda _: CpuThatHasFp16())
    gates = {gate.metric: gate for gate in judged(tmp_path, "fp16").gates}
    assert not gates["fp16-latency-ratio"].binding


def test_a_target_without_fp16_has_no_such_rival(workspace: Settings, tmp_path: Path) -> None:
    report = judged(tmp_path, "int8-max")
    assert not any(gate.metric.startswith("fp16-") for gate in report.gates)


class CpuAsADevice(CpuThatHasFp16):
    """Stands in for a target that loads graphs onto a device; it counts what it loads."""

    on_device = True
    loaded: ClassVar[list[bytes]] = []

    def load(self, plan: bytes, metadata: bytes | None = None) -> Engine:
        self.loaded.append(plan)
        return super().load(plan, metadata)


def test_on_a_device_full_precision_is_timed_there(
    workspace: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.models.catalog import open_model
    from tasks.models.source_files import FULL_PRECISION

    monkeypatch.setattr("tasks.validation.judge.open_target", lambda _: CpuAsADevice())
    gates = {gate.metric: gate for gate in judged(tmp_path, "int8-max").gates}
    assert gates["latency-ratio"].estimate is not None
    assert gates["peak-memory-ratio"].estimate is not None
    assert open_model("ranker").file(FULL_PRECISION) in CpuAsADevice.loaded
