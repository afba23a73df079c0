"""What requests show of a model that stays a checkpoint: full precision, a layer at a time."""

from collections.abc import Sequence

from tasks.layerwise.request_amax import watch_payloads
from tasks.models.catalog import RegisteredModel
from tasks.observation.request_amax import RequestAmax
from tasks.records import Payload, ReleaseRef


def watch_checkpoint(
    model: RegisteredModel, champion: ReleaseRef | None, payloads: Sequence[Payload]
) -> RequestAmax:
    """Return each request's largest values; smoothing, searched anew, is not the champion's."""
    return watch_payloads(model, payloads)
