"""What a site keeps of many windows, and how far a layer runs for it."""

from functools import partial

import pytest
import torch
from torch import nn

from tasks.layerwise.linear_sites import LinearSite
from tasks.quantization.streamed.observing import (
    ROWS,
    SiteView,
    Wanted,
    as_far_as_read,
    watching,
)


@pytest.mark.parametrize(("windows", "tokens"), [(64, 256), (32, 512), (64, 96), (256, 128)])
def test_tokens_that_are_kept_stand_at_every_place_of_a_window(windows: int, tokens: int) -> None:
    view = SiteView(Wanted(ranges=False, rows=True, gram=False), windows * tokens)
    places = torch.arange(tokens, dtype=torch.float32)[None, :, None].expand(windows, -1, 1)
    for part in torch.split(places, 5):
        view.add(part)
    kept = view.rows[:, 0]
    assert 0.8 * ROWS <= len(kept) <= ROWS
    first = float((kept == 0).float().mean())
    assert first < 3 / tokens
    assert float(kept.mean()) == pytest.approx(tokens / 2, rel=0.1)


def test_of_few_tokens_all_are_kept() -> None:
    view = SiteView(Wanted(ranges=False, rows=True, gram=False), 24)
    view.add(torch.arange(24, dtype=torch.float32).view(2, 12, 1))
    assert view.rows[:, 0].tolist() == list(range(24))


@pytest.mark.parametrize("inputs", [1, 3, 4, 62, 64, 192])
def test_the_gram_matrix_is_the_rows_times_themselves(inputs: int) -> None:
    view = SiteView(Wanted(ranges=False, rows=False, gram=True), 40)
    rows = torch.randn(40, inputs, generator=torch.Generator().manual_seed(0))
    for part in rows.split(16):
        view.add(part[None])
    assert view.gram is not None
    torch.testing.assert_close(view.gram, rows.T @ rows)
    assert torch.equal(view.gram, view.gram.T)


class Feedforward(nn.Module):
    """Two linear layers, one behind the other, and a count of the times it ran to its end."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.ended = nn.Linear(8, 16), nn.Linear(16, 8), 0
        self.experts = nn.ModuleList([nn.Sequential(nn.Linear(16, 8))])

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        read = self.up(hidden).relu()
        made: torch.Tensor = self.experts[0](read) + self.down(read)
        self.ended += 1
        return made


@pytest.mark.parametrize(("last", "ended"), [("down", 1), ("experts.0.0", 3)])
def test_a_layer_runs_as_far_as_its_last_site_reads(last: str, ended: int) -> None:
    layer, wanted = Feedforward(), Wanted(ranges=False, rows=False, gram=True)
    sites = [LinearSite(("up",), None), LinearSite((last,), None)]
    batches = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    with (
        torch.no_grad(),
        watching(layer, sites, lambda _: wanted, 15) as views,
        as_far_as_read(layer, sites) as run,
    ):
        for batch in batches:
            run(partial(layer, batch))
        read = layer.up(batches).relu().reshape(-1, 16)
    assert layer.ended == ended
    torch.testing.assert_close(views[last].gram, read.T @ read)
