"""What quantizing each part alone does to the output: measured on one toggled graph."""

from collections.abc import Mapping, Sequence

import onnx

from infra.engines import open_target
from tasks.graphs.sites import Site
from tasks.models.inputs import Inputs
from tasks.observation.observer import SiteObservation
from tasks.quantization.graph.assemble import assemble
from tasks.quantization.pipeline.tuning import Tuned
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.measure import Losses, measure
from tasks.quantization.sensitivity.toggled_graph import install
from tasks.records import Payload
from tasks.specs.traits import Task


def measure_losses(
    model: onnx.ModelProto,
    sites: tuple[Site, ...],
    observed: Mapping[str, SiteObservation],
    recipe: Recipe,
    tuned: Tuned,
    inputs: Inputs,
    task: Task,
    payloads: Sequence[Payload],
    *,
    others: bool,
) -> Losses:
    """Quantize one part after the other in one graph, and compare what the whole model returns.

    Args:
        model: The full-precision graph.
        sites: Where it can be quantized.
        observed: What each site saw.
        recipe: How each site is quantized.
        tuned: Its quantizers.
        inputs: How payloads become feeds.
        task: Which loss is measured.
        payloads: The cases.
        others: Adds the parts that recipes leave in floating point. They are reported by submodule
            and choose nothing.
    """
    choices, unknown = tuned.choices, tuned.unknown
    plan = assemble(model, sites, observed, recipe, choices, unknown, folding=False)
    toggled = install(plan, others=others)
    engine = open_target("onnxruntime-cpu").load(toggled.graph.SerializeToString())
    return measure(engine, inputs, task, toggled.parts, payloads)
