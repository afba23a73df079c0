"""What every target adapter promises: built, described, refused, translated, and run.

Where it cannot run, it says why not.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from infra.canonical import sha256
from infra.engines import TARGETS, footprint, onnx_sessions, open_target
from infra.engines.nvidia.metadata import dump_metadata, parse_metadata
from infra.engines.nvidia.target import TensorRt
from infra.engines.onnx_sessions import OnnxRuntimeEngine
from infra.engines.port import Built, KeepingEngine, Profile, Shapes, Target
from infra.errors import BadInput, Refused, Unavailable
from tasks.graphs.sites import find_sites
from tasks.numerics.quantizer import Quantizer
from tasks.quantization.graph import qdq
from tasks.quantization.graph.lowering import lower
from tests import graphs
from tests.plans import from_scales

WEIGHT = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
X = np.random.default_rng(1).uniform(-2, 2, (3, 8)).astype(np.float32)
PROFILE: Profile = {"x": Shapes((1, 8), (4, 8), (16, 8))}
PARSERS = [name for name in TARGETS if name.startswith("tensorrt")]


def opened(name: str) -> Target:
    try:
        return open_target(name)
    except Unavailable as exc:
        pytest.skip(str(exc))


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> Target:
    return opened(request.param)


@pytest.fixture
def executable(target: Target) -> Target:
    reason = target.why_not_executable()
    if reason is not None:
        pytest.skip(reason)
    return target


def quantized(form: str) -> bytes:
    plain = graphs.product(WEIGHT)
    sites = find_sites(plain)
    smoothing_scales = np.linspace(0.5, 2, 8, dtype=np.float32)
    scales = {
        site.name: Quantizer(float(np.abs(X / smoothing_scales).max()), smoothing_scales)
        for site in sites
    }
    return lower(qdq.write(from_scales(plain, sites, scales)), form).SerializeToString()


def built(target: Target) -> Built:
    return target.build(quantized(target.form), PROFILE)


def strange_graph() -> bytes:
    nodes = [helper.make_node("Nope", ["x"], ["y"], "strange")]
    return graphs.model(nodes, {}, {"x": ["batch", 8]}, {"y": ["batch", 8]}).SerializeToString()


def test_an_adapter_bears_the_name_it_was_opened_by(target: Target) -> None:
    assert target.name in TARGETS
    assert target.form in ("s8", "u8", "plain")


def test_a_graph_in_the_targets_form_becomes_a_plan(target: Target) -> None:
    assert len(built(target).plan) > 100


def test_the_layers_are_kept_with_their_names_and_precisions(target: Target) -> None:
    document = json.loads(built(target).layers)
    assert document["version"]
    assert all(
        layer["name"] and layer["type"] and layer["precision"] for layer in document["layers"]
    )
    assert any("INT8" in layer["precision"] for layer in document["layers"])
    names = " ".join(layer["name"] for layer in document["layers"])
    assert "x.quantize" in names or "node_MatMul_0" in names


def test_a_graph_is_checked_without_being_built(target: Target) -> None:
    target.check(quantized(target.form))
    with pytest.raises(Refused, match=r"strange.*Nope|Nope.*strange"):
        target.check(strange_graph())


def test_an_unknown_operator_is_refused_with_the_reason(target: Target) -> None:
    with pytest.raises(Refused, match=r"Nope|Plugin not found"):
        target.build(strange_graph(), PROFILE)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x00" * 64], ids=["nothing", "text", "zeros"])
def test_bytes_that_are_no_graph_are_refused(target: Target, data: bytes) -> None:
    with pytest.raises(Refused):
        target.build(data, PROFILE)


def test_a_graph_cut_short_is_refused(target: Target) -> None:
    with pytest.raises(Refused):
        target.build(quantized(target.form)[:-40], PROFILE)


def test_weights_in_a_file_beside_the_graph_are_refused(target: Target) -> None:
    graph = onnx.load_from_string(quantized(target.form))
    item = graph.graph.initializer[0]
    item.ClearField("raw_data")
    item.data_location = onnx.TensorProto.EXTERNAL
    item.external_data.add(key="location", value="weights.bin")
    with pytest.raises(Refused):
        target.build(graph.SerializeToString(), PROFILE)


def test_an_input_without_a_profile_is_bad_input(target: Target) -> None:
    with pytest.raises(BadInput, match="no shapes for input 'x'"):
        target.build(quantized(target.form), {})


@pytest.mark.parametrize(
    "shapes",
    [
        Shapes((1, 8, 1), (4, 8, 1), (16, 8, 1)),
        Shapes((1, 7), (4, 7), (16, 7)),
        Shapes((16, 8), (4, 8), (1, 8)),
        Shapes((-1, 8), (4, 8), (16, 8)),
        Shapes((1, 8), (4, 8), (16, 8, 1)),
    ],
    ids=["rank", "fixed-dimension", "order", "negative", "unequal"],
)
@pytest.mark.parametrize("name", PARSERS)
def test_a_profile_that_does_not_fit_is_bad_input(name: str, shapes: Shapes) -> None:
    target = opened(name)
    with pytest.raises(BadInput, match="does not fit"):
        target.build(quantized("s8"), {"x": shapes})


@pytest.mark.parametrize("name", PARSERS)
def test_a_non_zero_zero_point_is_refused_in_the_parsers_words(name: str) -> None:
    with pytest.raises(Refused, match=r"[Zz]ero.?[Pp]oint"):
        opened(name).build(quantized("u8"), PROFILE)


@pytest.mark.parametrize(
    "damage", [lambda plan: b"", lambda plan: b"no plan", lambda plan: plan[: len(plan) // 2]]
)
def test_a_plan_that_is_none_is_not_loaded(target: Target, damage) -> None:  # type: ignore[no-untyped-def]
    wanted = BadInput if target.why_not_executable() is None else Unavailable
    with pytest.raises(wanted):
        target.load(damage(built(target).plan))


def test_an_engine_runs_like_full_precision_or_the_target_says_why_not(target: Target) -> None:
    plan, reason = built(target).plan, target.why_not_executable()
    if reason is not None:
        print(reason)
        with pytest.raises(Unavailable, match="cannot be loaded") as caught:
            target.load(plan)
        assert reason in str(caught.value)
        return
    exact = graphs.run(graphs.product(WEIGHT), X)
    found = target.load(plan).run({"x": X})["y"]
    assert found.dtype == np.float32
    assert np.linalg.norm(found - exact) < 0.02 * np.linalg.norm(exact)


def test_an_engine_answers_for_each_shape_of_its_profile(executable: Target) -> None:
    engine = executable.load(built(executable).plan)
    whole = engine.run({"x": np.repeat(X, 2, axis=0)})["y"]
    assert whole.shape == (6, 6)
    # A device multiplies float32 in TF32's ten bits, by other kernels for other shapes.
    relative = 2e-3 if executable.on_device else 1e-5
    assert np.allclose(engine.run({"x": X[:1]})["y"], whole[:1], rtol=relative, atol=1e-5)


def test_an_engine_times_its_own_runs(executable: Target) -> None:
    taken = executable.load(built(executable).plan).time_runs({"x": X}, 5)
    assert taken.shape == (5,)
    assert (taken > 0).all()
    assert taken.max() < 60_000  # milliseconds


def test_full_precision_is_computed_exactly_where_it_is_observed(executable: Target) -> None:
    plain = graphs.product(WEIGHT)
    found = executable.load_exact(plain.SerializeToString(), PROFILE).run({"x": X})["y"]
    assert np.allclose(
        found, graphs.run(plain, X), rtol=1e-5, atol=1e-5
    )  # TF32 would be off by 1e-3


def test_what_an_engine_runs_is_told_once_it_is_loaded(executable: Target) -> None:
    made = built(executable)
    kernels = executable.kernels(made.layers, executable.load(made.plan).inspection())
    assert kernels
    assert any("node_MatMul_0" in kernel.nodes for kernel in kernels)


def test_metadata_are_kept_where_a_plan_is_bound_to_a_host(target: Target) -> None:
    made = built(target)
    if target.name not in PARSERS:
        assert made.metadata is None
        return
    told = parse_metadata(made.metadata or b"")
    assert (told.target, told.plan_sha256) == (target.name, sha256(made.plan))
    assert told.build_seconds > 0


def test_a_plan_that_does_not_fit_the_host_is_refused_before_it_is_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = opened("tensorrt-rtx")
    made = built(target)
    monkeypatch.setattr(target, "why_not_executable", lambda: None)
    monkeypatch.setattr(target._trt, "Runtime", lambda logger: pytest.fail("the plan was touched"))
    elsewhere = parse_metadata(made.metadata or b"").model_copy(update={"capability": "SM75"})
    with pytest.raises(
        Refused, match=r"does not fit this host: it was built for SM75.*rebuild the release here"
    ):
        target.load(made.plan, dump_metadata(elsewhere))


def test_kernels_are_unknown_where_the_builder_told_nothing(target: Target) -> None:
    if target.name not in PARSERS:
        pytest.skip("it tells its kernels without a device")
    silent = json.loads(built(target).layers) | {"kernels": []}
    assert target.kernels(json.dumps(silent).encode(), None) is None


def test_a_feed_that_the_graph_does_not_know_is_left_out(executable: Target) -> None:
    engine = executable.load(built(executable).plan)
    assert set(engine.run({"x": X, "attention_mask": X})) == {"y"}


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"x": X[:, :3]},
        {"x": X[0]},
        {"x": X.astype(np.float64)},
        {"x": X.astype(object)},
        {"x": "text"},
        {"x": None},
    ],
    ids=["missing", "width", "rank", "float64", "object", "text", "none"],
)
def test_feeds_that_do_not_fit_are_bad_input(
    executable: Target, feeds: dict[str, np.ndarray]
) -> None:
    engine = executable.load(built(executable).plan)
    with pytest.raises(BadInput):
        engine.run(feeds)


def test_an_unknown_target_is_bad_input() -> None:
    with pytest.raises(BadInput, match="allowed are onnxruntime-cpu"):
        open_target("tpu")


@pytest.mark.parametrize("failure", [ImportError("libnvinfer.so.11"), OSError("libcuda.so.1")])
def test_a_target_whose_module_or_library_is_missing_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def failing(name: str) -> None:
        raise failure

    monkeypatch.setattr("infra.engines.import_module", failing)
    with pytest.raises(Unavailable, match=r"pip install 'requant\[tensorrt\]'"):
        open_target("tensorrt")


# --- ONNX Runtime ---------------------------------------------------------------------------------
# --------------------


class FailingSession:
    """A session that answers with one of the runtime's errors."""

    def __init__(self, failure: Exception) -> None:
        self._failure = failure

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="x", type="tensor(float)")]

    def get_outputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="y")]

    def run(self, *_: object) -> None:
        raise self._failure


def test_the_runtimes_error_classes_are_all_known() -> None:
    assert len(onnx_sessions.FAILURES) >= 15


@pytest.mark.parametrize("kind", onnx_sessions.RUN_FAILURES)
def test_every_error_of_the_runtime_is_translated(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    failure = kind()  # without a text, which some have
    with pytest.raises(BadInput) as caught:
        OnnxRuntimeEngine(FailingSession(failure)).run({"x": X})  # type: ignore[arg-type]  # a fake
    assert caught.value.__cause__ is failure


SQUARE = WEIGHT @ WEIGHT.T


def test_what_an_engine_keeps_is_read_by_its_next_run() -> None:
    engine = open_target("onnxruntime-cpu").load(graphs.product(SQUARE).SerializeToString())
    assert isinstance(engine, KeepingEngine)
    (name,) = fetched = list(engine.run({"x": X}))
    (kept,) = engine.run_keeping({"x": X}, ()).values()
    assert not isinstance(kept, np.ndarray)
    np.testing.assert_array_equal(kept.numpy(), engine.run({"x": X})[name])
    again = engine.run_keeping({"x": engine.run_keeping({"x": X}, ())[name]}, fetched)
    np.testing.assert_array_equal(again[name], engine.run({"x": kept.numpy()})[name])
    with pytest.raises(BadInput):
        engine.run_keeping({"x": np.zeros((1, 1, 7), np.float32)}, fetched)


def layers_of(plain: onnx.ModelProto) -> dict[str, str]:
    scales = {site.name: Quantizer(2.0) for site in find_sites(plain)}
    graph = lower(
        qdq.write(from_scales(plain, find_sites(plain), scales)), "u8"
    ).SerializeToString()
    layers = json.loads(open_target("onnxruntime-cpu").build(graph, PROFILE).layers)["layers"]
    return {layer["type"]: layer["precision"] for layer in layers}


def test_a_product_over_tokens_runs_in_integers() -> None:
    assert layers_of(graphs.product(WEIGHT, tokens=True))["MatMulIntegerToFloat"] == "INT8"


def test_a_product_that_the_runtime_left_in_floating_point_is_shown_as_such(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # [batch, inputs] @ weight + bias becomes a Gemm before the integer fusion looks for its MatMul,
    # unless the lowering keeps them apart.
    monkeypatch.setattr("tasks.quantization.graph.lowering.bias_apart", lambda graph: graph)
    assert layers_of(graphs.product(WEIGHT))["Gemm"] == "FLOAT"


def test_building_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    built(open_target("onnxruntime-cpu"))
    assert list(tmp_path.iterdir()) == []


# --- TensorRT's bindings
# ----------------------------------------------------------------------------------------------


class FailingTensorRt:
    """The module on a host whose driver is missing.

    The builder's constructor returns nothing, and pybind objects.
    """

    class ILogger:
        pass

    @staticmethod
    def Builder(logger: object) -> None:  # noqa: N802  # the vendor's name
        raise TypeError("pybind11::init(): factory function returned nullptr")


def test_a_builder_that_cannot_start_is_unavailable() -> None:
    target = TensorRt("tensorrt", FailingTensorRt(), ahead_of_time=False)  # type: ignore[arg-type]  # a fake
    with pytest.raises(Unavailable, match="look at its driver"):
        target.build(quantized("s8"), PROFILE)


def test_a_device_that_the_target_does_not_support_is_a_reason_not_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import torch

    monkeypatch.setattr("infra.engines.nvidia.target.has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    reason = opened("tensorrt-rtx").why_not_executable()
    assert reason is not None
    assert "SM90" in reason


def test_a_builder_without_a_device_tells_what_its_kernels_multiply() -> None:
    target = opened("tensorrt-rtx")
    kernels = target.kernels(built(target).layers, None)
    assert kernels is not None
    products = [kernel.precision for kernel in kernels if "node_MatMul_0" in kernel.nodes]
    assert "INT8" in products


def built_for(capability: str) -> Built:
    module = pytest.importorskip("tensorrt_rtx")
    target = TensorRt("tensorrt-rtx", module, ahead_of_time=True, blindly_for=capability)
    return target.build(quantized("s8"), PROFILE)


def test_a_plan_is_built_for_the_capability_that_is_set() -> None:
    assert parse_metadata(built_for("SM86").metadata or b"").capability == "SM86"


def test_a_plan_for_another_device_is_built_again() -> None:
    target = opened("tensorrt-rtx")
    assert target.is_current(built(target).metadata)
    assert not target.is_current(built_for("SM86").metadata)
    assert opened("onnxruntime-cpu").is_current(None)


def test_a_capability_that_the_builder_does_not_know_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"SM12, which tensorrt-rtx does not build for: use .*SM89"):
        built_for("SM12")


@pytest.mark.parametrize(
    ("scale", "why"),
    [(np.inf, "not finite"), (np.nan, "not finite"), (0, "too small"), (1e-45, "too small")],
)
def test_a_scale_that_nothing_can_divide_by_is_refused_before_the_parser(
    scale: float, why: str
) -> None:
    graph = onnx.load_from_string(quantized("s8"))
    item = next(item for item in graph.graph.initializer if item.name == "x.scale")
    item.CopyFrom(numpy_helper.from_array(np.asarray(scale, np.float32), item.name))
    with pytest.raises(Refused, match=rf"node x\.quantize: its scale x\.scale is .*{why}"):
        opened("tensorrt-rtx").check(graph.SerializeToString())


@pytest.mark.parametrize("stated", [True, False], ids=["zero-point 0", "no zero-point"])
def test_unsigned_activations_are_refused_before_the_parser_reads_them_as_signed(
    stated: bool,
) -> None:
    graph = onnx.load_from_string(quantized("s8"))
    item = next(item for item in graph.graph.initializer if item.name == "x.zero_point")
    item.CopyFrom(numpy_helper.from_array(np.zeros((), np.uint8), item.name))
    for node in graph.graph.node:
        if not stated and node.name in ("x.quantize", "x.dequantize"):
            del node.input[2:]
    with pytest.raises(Refused, match=r"x\.quantize: its quantized values are unsigned"):
        opened("tensorrt-rtx").build(graph.SerializeToString(), PROFILE)


# --- Peak memory ----------------------------------------------------------------------------------
# --------------------


def test_peak_memory_is_measured_in_a_process_of_its_own() -> None:
    plan = built(open_target("onnxruntime-cpu")).plan
    assert 0 < footprint.peak_memory("onnxruntime-cpu", plan, {"x": X}) < 2**30


def test_a_plan_that_cannot_be_measured_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="this is not an ONNX Runtime plan"):
        footprint.peak_memory("onnxruntime-cpu", b"no plan", {"x": X})


def test_a_measurement_that_hangs_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match="took more than"):
        footprint.peak_memory("onnxruntime-cpu", b"no plan", {"x": X})


def test_an_engine_is_built_for_several_profiles_at_once(target: Target) -> None:
    small, large = Shapes((1, 8), (2, 8), (2, 8)), Shapes((3, 8), (8, 8), (16, 8))
    profiles = [{"x": small}, {"x": large}]
    assert target.build(quantized(target.form), profiles).plan
    with pytest.raises(BadInput, match="no shapes for input 'x'"):
        target.build(quantized(target.form), [{"x": small}, {}])
