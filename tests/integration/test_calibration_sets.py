"""A spec that covers the ranges with few requests and always holds its guardrails."""

import json
import shutil
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra.settings import Settings
from tasks.records import SampleRef
from tests.integration.conftest import EXAMPLES, images, serve

SIZE, GUARDED = 64, 12
RULES = f"""
calibration:
  selection: cover
  guardrails: [night]
  size: {SIZE}
"""


@pytest.fixture(scope="module")
def digits(loop: Settings, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Register the digits, with some of the pool's images marked as guardrails."""
    from tasks.models.catalog import register

    folder = shutil.copytree(EXAMPLES / "digits", tmp_path_factory.mktemp("models") / "digits")
    spec = Path(folder) / "model.yaml"
    spec.write_text(spec.read_text() + RULES)
    pool = pq.read_table(folder / "calibration.parquet")
    domains = ["night"] * GUARDED + pool.column("domain").to_pylist()[GUARDED:]
    place = pool.schema.get_field_index("domain")
    marked = pool.set_column(place, pool.schema.field("domain"), pa.array(domains, pa.string()))
    pq.write_table(marked, folder / "calibration.parquet")
    register(spec)
    serve(loop, "digits", 0, images(0.5, 1.0, 2.0))
    return loop


def test_the_set_covers_the_ranges_and_holds_every_guardrail(digits: Settings) -> None:
    from tasks.sampling.steps import compose_calibration_set, sample_window
    from tasks.traffic.storage.codec import from_parquet

    window = sample_window.fn("digits")
    assert window is not None
    composed = compose_calibration_set.fn("digits", window)
    requests = from_parquet(digits.store().get(composed.key), where=composed.key)
    guarded = [one for one in requests if one.domain == "night"]
    assert (len(requests), len(guarded)) == (SIZE, GUARDED)
    offered = from_parquet(digits.store().get(window.key), where=window.key)
    live = [one for one in requests if one.request_id in {other.request_id for other in offered}]
    assert len(live) == SIZE - SIZE // 4
    share = sum(one.domain == "exposure-2" for one in live) / len(live)
    sampled = sum(one.domain == "exposure-2" for one in offered) / len(offered)
    assert share > sampled  # what reaches farthest covers the ranges
    assert compose_calibration_set.fn("digits", window).digest == composed.digest


def test_a_window_gives_the_same_set_through_the_step_and_over_values_alone(
    digits: Settings,
) -> None:
    from tasks.models.catalog import open_model
    from tasks.observation.ceilings import stored_ceilings
    from tasks.observation.request_amax import watch_amax
    from tasks.sampling.compose import compose
    from tasks.sampling.quarantine import document
    from tasks.sampling.steps import compose_calibration_set, sample_window
    from tasks.sampling.stored_samples import read_sample
    from tasks.traffic.storage.codec import to_parquet

    model, store, window = open_model("digits"), digits.store(), sample_window.fn("digits")
    assert isinstance(window, SampleRef)
    stored = compose_calibration_set.fn("digits", window)
    composed = compose(
        read_sample(store, window),
        pool=model.pool,
        golden=model.golden.cases,
        rules=model.spec.calibration,
        size=SIZE,
        tenant_share=model.spec.window.tenant_share,
        watch=partial(watch_amax, model.instrumented, model.sites, model.inputs),
    )
    assert (composed.sample.digest, stored_ceilings(composed.ceilings)) == (
        stored.digest,
        stored.ceilings,
    )
    assert to_parquet(composed.sample.requests) == store.get(stored.key)
    assert composed.sample.weights == read_sample(store, stored).weights
    key = f"quarantine/digits/{window.digest}.json"
    kept = json.loads(store.get(key))["entries"] if store.exists(key) else []
    assert document(composed.quarantined, window.digest)["entries"] == kept
