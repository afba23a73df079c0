"""The tokens that a site keeps of many windows."""

import pytest
import torch

from tasks.quantization.streamed.observing import ROWS, SiteView, Wanted


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
