"""A core may answer in its adapter's place where it reads and writes what the adapter does."""

from __future__ import annotations

import pytest

from infra.errors import BadInput
from infra.settings import Settings
from infra.stores import layout
from tasks.models.catalog import require_core
from tasks.models.source_files import TOKENIZER
from tasks.specs.registration import use_digest
from tasks.specs.spec import load_spec
from tests.integration.gateways import EXAMPLES

TICKETS = load_spec(EXAMPLES / "tickets" / "model.yaml")


def register_core(settings: Settings, example: str, tokenizer: bytes) -> None:
    """Store an example's spec and a tokenizer under the name of the tickets' core."""
    shipped = (EXAMPLES / example / "model.yaml").read_text()
    name = load_spec(EXAMPLES / example / "model.yaml").name
    spec = shipped.replace(f"\nname: {name}\n", "\nname: polyglot\n")
    for file, data in (("spec.yaml", spec.encode()), (TOKENIZER, tokenizer)):
        settings.store().put(layout.registration_file("polyglot", "d" * 64, file), data)
    use_digest("polyglot", "d" * 64)


def test_the_same_task_and_tokenizer_pass(workspace: Settings) -> None:
    register_core(workspace, "lm", b"words")
    require_core(TICKETS, b"words")
    with pytest.raises(BadInput):
        require_core(TICKETS, b"other words")


def test_a_core_that_is_not_registered_yet_passes(workspace: Settings) -> None:
    require_core(TICKETS, b"words")
    register_core(workspace, "minilm", b"words")
    with pytest.raises(BadInput):
        require_core(TICKETS, b"words")


@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("minilm", "polyglot is a model of text-embedding and tickets one of causal-lm"),
        ("lm", "polyglot reads texts by another tokenizer than tickets"),
    ],
)
def test_another_core_is_refused_in_a_sentence(
    workspace: Settings, example: str, said: str
) -> None:
    register_core(workspace, example, b"other words")
    with pytest.raises(BadInput, match=said):
        require_core(TICKETS, b"words")
