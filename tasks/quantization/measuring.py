"""What a stored calibration set tells: what each site sees, and what quantizing each part costs."""

from collections.abc import Mapping

from infra.canonical import Json, canonical, sha256
from infra.errors import BadInput
from infra.identifiers import Key
from infra.stores import layout
from tasks.models.catalog import RegisteredModel, open_model, where_spread
from tasks.observation.ceilings import bounded, parse_ceilings
from tasks.observation.finite import require_finite
from tasks.observation.observer import SiteObservation
from tasks.observation.shards import observe_shards
from tasks.quantization import loading
from tasks.quantization.pipeline.losses import measure_losses
from tasks.quantization.pipeline.placement import remaining_loss
from tasks.quantization.pipeline.tuning import deployed_choices, tuning_recipe
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.recipe.recipe import Recipe
from tasks.quantization.sensitivity.measure import Losses, spread
from tasks.records import ReleaseRef, SampleRef

SENSITIVITY_CASES = 12
"""Cases of the calibration set that rank the sites.

MiniLM's rank as on 26 texts (Spearman 0.998), whose ranking is that of 440 (0.997).
"""


def observation_key(model: RegisteredModel, calibration: SampleRef) -> Key:
    """Return where the observation of a calibration set lies, with the tensors that it covers."""
    results = [site.tensor for site in model.observed_sites[len(model.sites) :]]
    basis: dict[str, Json] = dict(calibration.ceilings)
    if results:
        basis["results"] = results  # observations of releases that had none stay apart
    variant = sha256(canonical(basis))[:8] if basis else ""
    return layout.observation(model.name, model.digest, calibration.digest, variant)


def observe_set(model: RegisteredModel, calibration: SampleRef) -> Mapping[str, SiteObservation]:
    """Run full precision over a calibration set, and return what every site saw.

    Raises `BadInput` where the set is empty or a site's values are not finite.
    """
    loading.require_room(model)
    requests = loading.load_requests(calibration)
    if not requests:
        raise BadInput(f"the calibration set {calibration.key} is empty: sample more traffic first")
    observed = observe_shards(model, calibration.key, len(requests), where_spread(model.name))
    ids = [request.request_id for request in requests]
    require_finite(model.sites, observed, ids, where=f"the calibration set of {model.name}")
    return bounded(observed, parse_ceilings(calibration.ceilings))


def losses_key(
    model: RegisteredModel,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None,
    *,
    others: bool,
) -> Key:
    """Return where the losses of a recipe's parts lie.

    Recipes that differ only in the sites they exclude share them. Losses of a champion's own
    quantizers, which tell what drifts, are that champion's.
    """
    basis: dict[str, Json] = {
        "model": model.digest,
        "observation": observation,
        "recipe": tuning_recipe(recipe).document(),
        "cases": SENSITIVITY_CASES,
    }
    if recipe.drifting_sites and champion is not None:
        basis["champion"] = champion.digest
    return layout.sensitivity(model.name, sha256(canonical(basis))[:32], others=others)


def losses_of_parts(
    model: RegisteredModel,
    calibration: SampleRef,
    observation: str,
    recipe: Recipe,
    champion: ReleaseRef | None = None,
    *,
    others: bool,
) -> Losses:
    """Return what each part alone costs, measured on some cases of the calibration set.

    Where sites that drift are asked for, it is under the champion's quantizers.
    """
    loading.require_room(model)
    payloads = [request.payload for request in loading.load_requests(calibration)]
    tuning = tuning_recipe(recipe)
    deployed = loading.load_champion(champion) if recipe.drifting_sites else None
    tuned = (
        loading.load_tuned(model.name, model.digest, observation, tuning, None)
        if deployed is None
        else deployed_choices(model.sites, deployed.scales)
    )
    return measure_losses(
        model.graph,
        model.sites,
        loading.load_observation(observation),
        recipe,
        tuned,
        model.inputs,
        model.spec.task,
        spread(payloads, SENSITIVITY_CASES),
        others=others,
    )


def loss_left(model_name: str, losses: str, recipe_name: str) -> float:
    """Return the fraction of the measured losses that a recipe's quantized sites keep, 0..1."""
    model, measured = open_model(model_name), loading.load_losses(losses)
    return remaining_loss(model.graph, model.sites, measured.parts, find_recipe(recipe_name))
