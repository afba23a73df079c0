"""The steps of quantization: load, call one function, store.

They take names and digests, never arrays.
"""

from collections.abc import Sequence

from infra.identifiers import RunId
from infra.settings import settings
from infra.stores import layout
from tasks.models.catalog import open_model
from tasks.quantization import candidates, loading, measuring
from tasks.quantization.forms import DERIVATIONS
from tasks.quantization.forms.port import Basis
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.report.pareto import CandidateFigures, Limits
from tasks.quantization.report.runs import RunRecord, candidate_run, climb_run
from tasks.quantization.sensitivity.measure import dump_losses
from tasks.records import CandidateRef, EngineRef, ReleaseRef, SampleRef
from tasks.step import run_tags, step


@step("observe-calibration-set")
def observe(calibration: SampleRef) -> str:
    """Observe a calibration set once; returns the observation's key."""
    model, store = open_model(calibration.model), settings().store()
    key = measuring.observation_key(model, calibration)
    if not store.exists(key):
        DERIVATIONS.of(model.form).observe(model, calibration, key)
    return key


@step("measure-sensitivity")
def measure_sensitivity(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    others: bool = False,
    champion: ReleaseRef | None = None,
) -> str:
    """Measure what each part alone costs, on some calibration cases; returns the figures' key.

    `others` adds the parts that recipes leave in floating point. Recipes that differ only in the
    sites they exclude share the figures, and so do later runs. `champion` is whose quantizers are
    measured, for recipes that keep high what drifts.
    """
    model, store = open_model(calibration.model), settings().store()
    recipe = loading.resolved(find_recipe(recipe_name), loading.graph_recipe(champion))
    key = measuring.losses_key(model, observation, recipe, champion, others=others)
    if not store.exists(key):
        of = (model, calibration, observation, recipe, champion)
        losses = measuring.losses_of_parts(*of, others=others)
        store.put(key, dump_losses(losses))
    return key


@step("write-qdq-graph")
def write_graph(
    calibration: SampleRef,
    observation: str,
    recipe_name: str,
    champion: ReleaseRef | None,
    losses: str | None = None,
    allow_scale_change: bool = False,
) -> CandidateRef:
    """Derive a recipe's candidate and store it: the same inputs give the same one.

    `losses` is a key from `measure_sensitivity`; without it, sites are ranked by their local
    errors. No scale leaves the spec's `calibration.largest_scale_change` unless a person allowed
    it.
    """
    model, base = open_model(calibration.model), loading.graph_recipe(champion)
    recipe = loading.resolved(find_recipe(recipe_name), base)
    change = None if allow_scale_change else model.spec.calibration.largest_scale_change
    name = candidates.candidate_id(model, recipe, observation, champion, losses, change)
    stored = candidates.stored_candidate(model, name, recipe)
    if stored is not None:
        return stored
    basis = Basis(calibration, observation, champion, losses, change)
    return DERIVATIONS.of(model.form).write(model, name, recipe, basis)


@step("build-engine")
def build_engine(candidate: CandidateRef, target_name: str) -> EngineRef:
    """Return the candidate's engine for one target; a checkpoint is its own."""
    return DERIVATIONS.of(open_model(candidate.model).form).build(candidate, target_name)


@step("record-ladder")
def record_ladder(
    calibration: SampleRef,
    window: str,
    built: Sequence[CandidateRef],
    figures: Sequence[CandidateFigures],
    limits: Limits,
    reason: str,
) -> RunId:
    """Record one run for the climb and a child run for each candidate; returns the climb's id."""
    model, store = calibration.model, settings().store()
    climb = climb_run(model, window, calibration.digest, figures, limits, reason, run_tags(model))
    for name, data in climb.artifacts.items():
        store.put(layout.report(model, window, name), data)
    parent = _log(model, climb)
    for candidate, reached in zip(built, figures, strict=True):
        facts = candidates.load_facts(candidate.key("candidate.json")) or {}
        _log(model, candidate_run(candidate, find_recipe(reached.name), reached, facts), parent)
    return parent


def _log(model: str, run: RunRecord, parent: RunId | None = None) -> RunId:
    return (
        settings()
        .registry()
        .log_run(model, run.name, run.params, run.metrics, run.tags, run.artifacts, parent)
    )
