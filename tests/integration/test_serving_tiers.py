"""Which tier answers whom, as clients of a real gateway meet it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.settings import Settings
from tasks.promotion.acts.promoting import promote
from tests.integration.gateways import Served, serving, spoilt, write_example
from tests.integration.releases import released

ROUTING = {"tenants": ["vip"], "domains": ["medical"], "least_confident": 0.2}


@pytest.fixture(scope="module")
def served(shared_workspace: Settings, empty_registry: Path) -> Iterator[Served]:
    """Serve digits whose champion is worse than full precision."""
    from tasks.models.catalog import register

    settings = shared_workspace
    settings.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, settings.root / "mlflow.db")
    model = register(
        write_example(settings.root / "source", "digits", serving={"routing": ROUTING})
    )
    plan = spoilt(model.graph, 0.6)
    promote(released(settings, 0.0, "digits", plan=plan), None, "tester", "it passed")
    with serving(settings, REQUANT_GATEWAY_CAPTURE="0") as served:
        yield served


def images(count: int) -> list[np.ndarray[Any, Any]]:
    from tasks.models.catalog import open_model

    cases = open_model("digits").golden.cases[:count]
    return [np.asarray(case.payload, np.float32)[None] for case in cases]


def told(served: Served, image: np.ndarray[Any, Any], **said: str) -> dict[str, str]:
    answer = served.infer("digits", "image", image, **said)
    assert answer.status_code == 200, answer.text
    parameters: dict[str, str] = answer.json()["parameters"]
    return parameters


def test_tenants_and_domains_of_the_spec_are_answered_in_full_precision(served: Served) -> None:
    from tasks.models.catalog import open_model

    (image,) = images(1)
    answer = served.infer("digits", "image", image, tenant="vip").json()
    assert answer["parameters"]["tier"] == "higher"
    assert answer["parameters"]["routed"] == "tenant"
    assert answer["model_version"] == "full-precision"
    exact = open_model("digits").reference.run({"image": image})["logits"]
    assert np.allclose(answer["outputs"][0]["data"], exact.ravel(), atol=1e-5)
    assert told(served, image, domain="medical")["routed"] == "domain"


def test_a_caller_may_wish_for_either_tier_and_for_no_other(served: Served) -> None:
    (image,) = images(1)
    assert told(served, image, tier="higher")["routed"] == "wish"
    assert told(served, image, tier="routine", tenant="vip")["tier"] == "routine"
    refused = served.infer("digits", "image", image, headers={"X-Tier": "best"})
    assert refused.status_code == 400
    assert "wish for routine or higher" in refused.json()["error"]


def test_the_least_sure_answers_are_given_again_within_their_share(served: Served) -> None:
    answers = [told(served, image) for image in images(200)]
    again = [answer for answer in answers if answer["tier"] == "higher"]
    assert {answer["routed"] for answer in again} == {"confidence"}
    assert 0.1 * len(answers) <= len(again) <= 0.2 * len(answers) + 1
    line = 'requant_gateway_tier_seconds_count{model="digits",tier="higher",why="confidence"}'
    assert served.metric(line) == len(again)
