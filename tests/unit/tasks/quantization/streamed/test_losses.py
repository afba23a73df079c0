"""Which linear layers stay in floating point where a share of the weights may."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from infra.errors import BadInput
from tasks.models.checkpoints.stored import StoredCheckpoint
from tasks.quantization.recipe.catalog import find_recipe
from tasks.quantization.streamed.derive import derive
from tasks.quantization.streamed.judging import JudgedGroup
from tasks.quantization.streamed.losses import losses_alone, place
from tests.language_folders import VOCABULARY, write_folder

OUTLIER = "model.layers.1.mlp.down_proj"
RECIPE = find_recipe("int8-max")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredCheckpoint:
    """One input of one linear layer is 300 times what the others are, and counts for nothing."""
    folder = write_folder(tmp_path_factory.mktemp("llama"), "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0] *= 300
    weights[f"{OUTLIER}.weight"][:, 0] = 0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return StoredCheckpoint(folder)


@pytest.fixture(scope="module")
def ids() -> torch.Tensor:
    return torch.randint(0, VOCABULARY, (8, 24), generator=torch.Generator().manual_seed(0))


def kept(stored: StoredCheckpoint, ids: torch.Tensor, keep: str, name: str) -> bool:
    pattern = place(keep, stored, RECIPE, ids).keep
    return re.search(pattern or "$^", name) is not None


def test_a_share_keeps_what_loses_most_for_its_weights_and_no_more(
    stored: StoredCheckpoint, ids: torch.Tensor
) -> None:
    losses = losses_alone(stored, RECIPE, ids)
    assert len(losses) == 8
    assert max(losses, key=lambda item: item.lost).readers == (OUTLIER,)
    of_it = next(item.weights for item in losses if item.readers == (OUTLIER,))
    share = 100 * of_it / sum(item.weights for item in losses)
    assert kept(stored, ids, f"{share + 0.1:.2f}%", OUTLIER)
    assert not kept(stored, ids, f"{share - 0.1:.2f}%", OUTLIER)
    assert not kept(stored, ids, f"{share + 0.1:.2f}%", "model.layers.0.mlp.down_proj")


def test_what_is_kept_takes_most_of_the_loss_away(
    stored: StoredCheckpoint, ids: torch.Tensor, tmp_path: Path
) -> None:
    lost = [
        abs(math.log(derived(stored, tmp_path / str(share), ids, share).perplexity_ratio))
        for share in (None, "15%")
    ]
    assert lost[1] < lost[0] / 3


def derived(
    stored: StoredCheckpoint, output: Path, ids: torch.Tensor, share: str | None
) -> JudgedGroup:
    keep = place(share, stored, RECIPE, ids).keep
    return derive(stored, output, RECIPE, ids, {"all": ids}, keep=keep).judged[0]


@pytest.mark.parametrize(
    ("keep", "named"),
    [("0%", "between 0% and 100%"), ("100%", "between 0% and 100%"), ("0.01%", "keep more")],
)
def test_a_share_that_keeps_nothing_or_all_is_refused(
    stored: StoredCheckpoint, ids: torch.Tensor, keep: str, named: str
) -> None:
    with pytest.raises(BadInput, match=named):
        place(keep, stored, RECIPE, ids)


def test_a_share_wants_texts_and_a_name_does_not(stored: StoredCheckpoint) -> None:
    assert place("down_proj", stored, RECIPE, None).keep == "down_proj"
    assert place(None, stored, RECIPE, None).keep is None
    with pytest.raises(BadInput, match="name texts"):
        place("10%", stored, RECIPE, None)
