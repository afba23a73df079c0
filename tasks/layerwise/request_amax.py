"""How large single texts' values are at the linear layers of full precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np

from infra.processes.memory import return_freed
from infra.processes.telling import tell
from tasks.layerwise.batches import begin, by_text, counted_tokens
from tasks.layerwise.linear_sites import linear_sites
from tasks.layerwise.needs import require_room
from tasks.models.catalog import RegisteredModel
from tasks.models.checkpoints.decoder import StreamedDecoder, device_here
from tasks.models.inputs import language_inputs
from tasks.observation.request_amax import RequestAmax, SiteValues
from tasks.records import Payload

if TYPE_CHECKING:
    import torch


def watch_payloads(model: RegisteredModel, payloads: Sequence[Payload]) -> RequestAmax:
    """Read texts with full precision, and return how large each one's values are at every site.

    A site is named by the first of the layers that read its tensor. What routed experts read is
    left out: they have no static ranges.

    Raises:
        BadInput: A token has no embedding, or a text more tokens than the model positions.
        Unavailable: Memory is too short.
    """
    decoder = StreamedDecoder(model.checkpoint, device_here())
    readings = language_inputs(model.inputs).read([str(payload) for payload in payloads])
    require_room(decoder, readings)
    batches, figures = begin(decoder, readings), dict[str, np.ndarray]()
    for layer in range(decoder.layers):
        tell(f"reading {len(readings)} texts: decoder layer {layer + 1} of {decoder.layers}")
        with ExitStack() as hooks, decoder.loaded(layer, decoder.original(layer)) as module:
            seen: dict[str, torch.Tensor] = {}
            for site in linear_sites(module):
                if site.routed:
                    continue

                def see(
                    _: Any,
                    inputs: tuple[torch.Tensor, ...],
                    name: str = site.readers[0],
                    seen: dict[str, torch.Tensor] = seen,
                ) -> None:
                    seen[name] = inputs[0]

                first = module.get_submodule(site.readers[0])
                hooks.callback(first.register_forward_pre_hook(see).remove)
            for batch in batches:
                seen.clear()
                batch.read(decoder, layer)
                for name, values in seen.items():
                    known = by_text(values, len(batch.cases), batch.hidden.shape[1])
                    if known is not None:
                        full = decoder.prefix(layer) + name
                        found = figures.setdefault(full, np.zeros((2, len(readings))))
                        found[:, batch.cases] = _figures(known, batch.lengths)
        return_freed()
    columns = tuple(map(SiteValues, figures))
    empty = np.zeros((2, len(readings), 0))
    amax, rms = np.stack(list(figures.values()), 2) if figures else empty
    return RequestAmax(columns, amax, rms)


def _figures(values: torch.Tensor, lengths: Sequence[int]) -> np.ndarray:
    """Return amax and root mean square of each text of [texts, tokens, width]: [2, texts].

    Infinite where a value is infinite or NaN.

    Args:
        values: What a site reads.
        lengths: Tokens that count of each text.
    """
    own = counted_tokens(lengths, values)
    wide = values.detach().float().masked_fill(~own, 0)
    amax = wide.abs().amax((1, 2)).double()
    rms = (wide.double().square().sum((1, 2)) / (own.sum((1, 2)) * wide.shape[2])).sqrt()
    found = np.stack([amax.cpu().numpy(), rms.cpu().numpy()])
    return np.where(np.isfinite(found).all(0), found, np.inf)
