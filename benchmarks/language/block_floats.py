"""The shipped language model in floats of few bits, and what TensorRT-RTX's builder makes of it.

Perplexity is of the values that the graph says, on ONNX Runtime's CPU, which multiplies floats.
Plans are built ahead of time for SM120, and did not run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import onnx

from benchmarks.harness import ours
from benchmarks.harness.table import ResultTable, column, reason
from benchmarks.language.held_out import HeldOutData, open_material, ratio_of
from infra.engines import open_target
from infra.engines.nvidia.inspection import kernels_of
from infra.engines.port import Built
from infra.errors import RequantError
from infra.settings import settings
from tasks.models.decoding.comparison import compare
from tasks.observation.observer import MANY_ROWS, SiteObservation
from tasks.quantization.graph.lowering import lower
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.targets import TENSORRT_RTX
from tasks.validation.precision import Execution, asked_for, compare_precision

NAME, DEVICE = "llm-floats", "SM120"
_SETTING = "REQUANT_TENSORRT_RTX_CAPABILITY"
TITLE = "The shipped language model in short floats: perplexity over FP32's, and its plan for SM120"
RECIPES = ("fp8", "mxfp8", "int4-gptq", "nvfp4-weights", "mxfp4-weights", "nvfp4", "nvfp4-fp16")


@dataclass(frozen=True, slots=True)
class BlockFloatsRow:
    """Figures of one recipe; ratios are to full precision's perplexity."""

    name: str = column("recipe")
    held_out: float = column("held out", ".4f")
    fresh: float = column("on new texts", ".4f")
    agreement: float = column("agreement", ".4f")
    megabytes: float = column("MB of the graph", ".2f")
    seconds: float = column("s to derive", ".0f")
    products: str = reason(f"products in its format, {DEVICE}")


def measure(quick: bool) -> ResultTable:
    """Measure every recipe from one observation."""
    material = open_material(quick)
    names = ("fp8", "nvfp4") if quick else RECIPES
    observed, learned = ours.observe(material.subject), ours.observe(material.subject, MANY_ROWS)
    with _plans_for(DEVICE):
        rows = [_row(material, name, observed, learned) for name in names]
    counted = (
        f"{len(material.subject.calibration)} calibration texts; {len(material.texts)} held out, "
        f"{len(material.fresh)} new."
    )
    return ResultTable(NAME, TITLE, rows, (), (counted,))


@contextmanager
def _plans_for(device: str) -> Iterator[None]:
    before = os.environ.get(_SETTING)
    os.environ[_SETTING] = device
    settings.cache_clear()
    yield
    os.environ.pop(_SETTING)
    os.environ.update({_SETTING: before} if before is not None else {})
    settings.cache_clear()


def _row(
    material: HeldOutData,
    name: str,
    observed: Mapping[str, SiteObservation],
    learned: Mapping[str, SiteObservation],
) -> BlockFloatsRow:
    made = ours.derived(material.subject, find_recipe(name), observed, many_rows=learned)
    engine = open_target("onnxruntime-cpu").load(made.lowered("u8"))
    compared, fresh = (
        compare(material.subject.reference, engine, material.inputs, texts)
        for texts in (material.texts, material.fresh)
    )
    return BlockFloatsRow(
        name,
        ratio_of(compared),
        ratio_of(fresh),
        float(compared.agreement.mean()),
        made.graph.ByteSize() / 1e6,
        made.clock.total,
        _products(material, made.graph),
    )


def _products(material: HeldOutData, graph: onnx.ModelProto) -> str:
    """Say how many of the products that were asked for run so in a plan for the device."""
    requested = asked_for(graph, material.subject.sites)
    try:
        built = _built(material, graph)
    except RequantError as exc:
        return f"no plan: {exc}"
    if not requested:
        return "none asked for: weights alone"
    found = compare_precision(requested, kernels_of(built.layers) or ())
    right = sum(item.actual is Execution.AS_ASKED for item in found)
    return f"{right} of {len(found)}"


def _built(material: HeldOutData, graph: onnx.ModelProto) -> Built:
    plan = lower(graph, "s8").SerializeToString()
    return open_target(TENSORRT_RTX).build(plan, material.subject.inputs.profile)
