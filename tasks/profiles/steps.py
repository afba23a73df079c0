"""The step of profiles: what a release keeps of its window's traffic is frozen and stored."""

from infra.settings import settings
from infra.stores import layout
from tasks.profiles.frozen import freeze
from tasks.profiles.loading import window_profile
from tasks.records import SampleRef
from tasks.step import step


@step("freeze-traffic")
def freeze_traffic(window: SampleRef) -> str:
    """Store what a release of this window will keep of its traffic; return the key.

    The key is `frozen/MODEL/WINDOW.json`.
    """
    key = layout.frozen_traffic(window.model, window.digest)
    settings().store().put(key, freeze(window_profile(window).profile).document())
    return key
