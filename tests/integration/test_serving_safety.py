"""A model's own safety decision, or another model's, stands before and behind what is served."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import NotFound
from infra.settings import Settings
from tasks.promotion.acts.promoting import promote
from tests.integration.gateways import Served, serving, until
from tests.integration.releases import released
from tests.integration.test_gateway import client, current_graph, write_speaker
from tests.language_folders import write_chain

pytestmark = pytest.mark.soak
BLOCKED, ALLOWED = "what is forbidden:", "what is allowed."
"""How the judging model is made: it writes `blocked` after a colon, and nothing after others."""
OWN = [
    {"name": "before", "on": "input", "model": "verdict", "answer": "Not asked here."},
    {"name": "asked", "on": "input", "model": "verdict", "prompt": "({text})"},
]
OTHERS = [{"name": "after", "on": "output", "model": "verdict", "prompt": "{text}:"}]


@pytest.fixture(scope="module")
def served(shared_workspace: Settings, empty_registry: Path) -> Iterator[Served]:
    """Serve a model that decides, whose champion decides otherwise, and one that asks it."""
    from tasks.models.catalog import register

    settings = shared_workspace
    settings.root.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_registry, settings.root / "mlflow.db")
    routing = {"domains": ["medical"]}
    register(write_judge(settings.root / "deaf", "deaf", "!", {"routing": routing}))
    with pytest.raises(NotFound):
        register(write_judge(settings.root / "early", "early", "!", {"guards": OTHERS}))
    register(
        write_judge(settings.root / "verdict", "verdict", ":", {"guards": OWN, "routing": routing})
    )
    register(write_judge(settings.root / "talker", "talker", "!", {"guards": OTHERS}))
    for model, plan in (("verdict", "deaf"), ("talker", "talker")):
        release = released(settings, 0.0, model, plan=current_graph(plan))
        promote(release, None, "tester", "it passed")
    with serving(
        settings, REQUANT_GATEWAY_CAPTURE="0", REQUANT_GATEWAY_MODELS="verdict,talker"
    ) as served:
        yield served


def write_judge(folder: Path, name: str, starts: str, serving: dict[str, Any]) -> Path:
    """Write a model that blocks texts whose last character is this one."""
    spec = write_speaker(folder)
    write_chain(folder, starts, "blocked")
    document = yaml.safe_load(spec.read_text()) | {"name": name, "serving": serving}
    spec.write_text(yaml.safe_dump(document))
    return spec


def said(served: Served, model: str, prompt: str, **headers: str) -> tuple[str, str]:
    answer = client(served).completions.create(
        model=model, prompt=prompt, max_tokens=8, temperature=0, extra_headers=headers
    )
    return answer.choices[0].text, answer.choices[0].finish_reason


def guarded(served: Served, model: str, on: str, tier: str, blocked_by: str) -> float:
    labels = f'blocked_by="{blocked_by}",model="{model}",on="{on}",tier="{tier}"'
    return served.metric(f"requant_gateway_guarded_texts_total{{{labels}}}")


def test_each_tier_of_a_model_decides_by_itself_and_is_counted_by_itself(served: Served) -> None:
    higher = {"X-Domain": "medical"}
    assert said(served, "verdict", BLOCKED, **higher) == ("Not asked here.", "content_filter")
    assert said(served, "verdict", ALLOWED, **higher)[1] != "content_filter"
    assert said(served, "verdict", BLOCKED)[1] != "content_filter"  # its champion never blocks
    assert guarded(served, "verdict", "input", "higher", "before") == 1
    assert guarded(served, "verdict", "input", "higher", "") == 1
    assert guarded(served, "verdict", "input", "routine", "") == 1


def test_another_models_champion_decides_on_answers_once_it_is_promoted(served: Served) -> None:
    assert said(served, "talker", "tell!")[0] == "blocked"  # the deaf champion lets all pass
    blocking = released(served.settings, 0.0, "verdict", plan=current_graph("verdict"))
    promote(blocking, served.version("verdict"), "tester", "it passed")
    until(lambda: said(served, "talker", "tell!")[1] == "content_filter")
    assert guarded(served, "talker", "output", "routine", "after") == 1
