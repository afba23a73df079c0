"""A window's traffic as a profile: each part is read once, ever, wherever it is worked on."""

from collections.abc import Callable, Iterable
from datetime import datetime

from infra.cluster import open_mapper
from infra.settings import settings
from tasks.models.catalog import where_spread
from tasks.profiles.window import PartProfile, WindowProfile, profile_window
from tasks.records import SampleRef
from tasks.traffic.storage.scan import parts_between


def window_profile(window: SampleRef) -> WindowProfile:
    """Profile every request of the hours that the window meets, also those that no sample holds."""
    store, model = settings().store(), window.model
    start, end = (
        datetime.fromisoformat(time) if time else None for time in (window.start, window.end)
    )
    keys = list(parts_between(store, model, start, end))
    with open_mapper(where_spread(model), pieces=len(keys)) as mapper:

        def spread(
            work: Callable[[str], PartProfile], parts: Iterable[str]
        ) -> Iterable[PartProfile]:
            return mapper.map(work, parts)

        return profile_window(store, model, keys, mapper=spread)
