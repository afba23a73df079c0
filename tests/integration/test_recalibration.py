"""What a recalibration keeps beside the graph: losses that were measured for the same weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from infra.canonical import Json
from infra.errors import BadInput
from infra.releases import write_release
from infra.settings import Settings, settings
from tasks.quantization.sensitivity.measure import parse_losses
from tasks.records import CandidateRef, ReleaseRef, SampleRef
from tests.integration.conftest import EXAMPLES, images

pytestmark = pytest.mark.timeout(300)


def calibration(exposure: float) -> SampleRef:
    from infra.stores.layout import CALIBRATION
    from tasks.sampling.digest import sample_of
    from tasks.sampling.stored_samples import keep_sample

    return keep_sample(
        settings().store(),
        CALIBRATION,
        "digits",
        sample_of(images(exposure)[:96], seen=96, dropped={}),
    )


def facts(workspace: Settings, candidate: CandidateRef) -> dict[str, Json]:
    found: dict[str, Json] = json.loads(workspace.store().get(candidate.key("candidate.json")))
    return found


def losses(found: dict[str, Json]) -> dict[str, Json]:
    rows = found["sensitivity"]
    assert isinstance(rows, list)
    return {str(row["site"]): row["loss"] for row in rows if isinstance(row, dict)}


def released(workspace: Settings, candidate: CandidateRef) -> ReleaseRef:
    store, prefix = workspace.store(), candidate.key("")
    files = {key.removeprefix(prefix): store.get(key) for key in store.list(prefix)}
    recorded = json.loads(files.pop("candidate.json"))
    release = write_release(store, "digits", files, recorded, workspace.signer())
    return ReleaseRef("digits", "1", release.digest)


def test_measured_losses_survive_a_recalibration_of_the_same_weights_alone(
    workspace: Settings, tmp_path: Path
) -> None:
    from tasks.models.catalog import register
    from tasks.quantization.steps import measure_sensitivity, observe, write_graph

    folder = tmp_path / "digits"
    shutil.copytree(EXAMPLES / "digits", folder)
    register(folder / "model.yaml")
    first, second = calibration(1.0), calibration(2.0)
    observation = observe.fn(first)
    key = measure_sensitivity.fn(first, observation, "int8-mixed-2")
    mixed = write_graph.fn(first, observation, "int8-mixed-2", None, key)
    measured = losses(facts(workspace, mixed))
    assert len(measured) == 4
    assert all(isinstance(one, float) and one > 0 for one in measured.values())
    assert len(mixed.excluded_nodes) == 2
    champion = released(workspace, mixed)
    again = write_graph.fn(second, observe.fn(second), "recalibrate", champion)
    assert losses(facts(workspace, again)) == measured
    assert facts(workspace, again)["submodules"] == facts(workspace, mixed)["submodules"] != []
    assert set(again.excluded_nodes) == set(mixed.excluded_nodes)
    once_more = write_graph.fn(first, observation, "recalibrate", released(workspace, again))
    assert losses(facts(workspace, once_more)) == measured, "however often it is recalibrated"
    drift = measure_sensitivity.fn(
        second, observe.fn(second), "resmooth-mixed-6", champion=champion
    )
    drifting = parse_losses(workspace.store().get(drift), where=drift)
    assert set(drifting.parts) == set(measured) - set(mixed.excluded_nodes), "of its own quantizers"
    with pytest.raises(BadInput, match="would leave none of the 4 sites quantized"):
        write_graph.fn(second, observe.fn(second), "resmooth-mixed-6", champion, drift)
    renewed = write_graph.fn(second, observe.fn(second), "resmooth", champion)
    assert set(renewed.excluded_nodes) == set(mixed.excluded_nodes)
    assert losses(facts(workspace, renewed)) == measured
    assert facts(workspace, renewed)["graph_recipe"] == "int8-mixed-2"
    assert renewed.candidate_id != again.candidate_id
    after = write_graph.fn(first, observation, "resmooth", released(workspace, again))
    assert facts(workspace, after)["graph_recipe"] == "int8-mixed-2", "through a recalibration too"
    fresh = write_graph.fn(second, observe.fn(second), "int8-smooth", champion)
    assert set(losses(facts(workspace, fresh)).values()) == {None}, (
        "a graph of its own was not measured"
    )

    weights = load_file(folder / "weights.safetensors")
    save_file(
        {name: one * np.float32(1.001) for name, one in weights.items()},
        folder / "weights.safetensors",
    )
    register(folder / "model.yaml")
    other = write_graph.fn(second, observe.fn(second), "recalibrate", champion)
    assert set(losses(facts(workspace, other)).values()) == {None}, "other weights lose otherwise"
    assert facts(workspace, other)["submodules"] == []
    front = facts(workspace, mixed)["placements"]
    assert isinstance(front, list)
    assert mixed.excluded_nodes in [tuple(one["kept"]) for one in front if isinstance(one, dict)]  # type: ignore[arg-type]  # names
    assert facts(workspace, again)["placements"] == front
